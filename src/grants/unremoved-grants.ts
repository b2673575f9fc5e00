import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';

/** A Grant that has ended, or all Grants of a credential. */
export interface EndedGrant {
  readonly credentialId: string;
  /** `undefined` for all repositories. */
  readonly repository: Repository | undefined;
}

/**
 * Grants that upstream has ended but whose rows still exist, because the index accepted no write at that time. In this
 * process they prove nothing, and they are removed as soon as the index accepts writes again.
 */
export class UnremovedGrants {
  readonly #metadata: Pick<MetadataStore, 'endGrant' | 'endGrantsOf'>;
  readonly #maxRepositories: number;
  readonly #ended = new Map<string, EndedGrant>();
  #removing: Promise<void> | undefined;

  /**
   * At most `maxRepositories` are remembered one by one. Beyond that, a credential loses all its Grants, so that memory
   * is bounded by the number of credentials that have rows.
   */
  constructor(metadata: Pick<MetadataStore, 'endGrant' | 'endGrantsOf'>, maxRepositories: number) {
    this.#metadata = metadata;
    this.#maxRepositories = maxRepositories;
  }

  get isEmpty(): boolean {
    return this.#ended.size === 0;
  }

  has(repository: Repository, credentialId: string): boolean {
    return this.#ended.has(credentialId) || this.#ended.has(keyOf({ repository, credentialId }));
  }

  /** Ends a Grant: it proves nothing from now on. Its row is left to `remove`, or to `drop` if there is none. */
  end(repository: Repository, credentialId: string): EndedGrant {
    const isOneMore = this.#ended.size >= this.#maxRepositories && !this.has(repository, credentialId);
    return this.#end({ credentialId, repository: isOneMore ? undefined : repository });
  }

  /** Ends and removes all Grants of a credential. They prove nothing from now on, even if this rejects. */
  async endAll(credentialId: string): Promise<void> {
    await this.remove(this.#end({ credentialId, repository: undefined }));
  }

  /** The end of this very Grant that is remembered now. */
  endOf(repository: Repository, credentialId: string): EndedGrant | undefined {
    return this.#ended.get(keyOf({ repository, credentialId }));
  }

  /**
   * Call before a Grant is created: removes what would later take the new row with it. Rejects if that is impossible
   * now.
   */
  async makeRoom(credentialId: string): Promise<void> {
    const all = this.#ended.get(credentialId);
    if (all !== undefined) await this.remove(all);
  }

  /** Removes the rows of what `end` returned. Rejects if the index accepts no write. */
  async remove(ended: EndedGrant): Promise<void> {
    const { credentialId, repository } = ended;
    if (repository === undefined) await this.#metadata.endGrantsOf(credentialId);
    else await this.#metadata.endGrant(repository, credentialId);
    this.drop(ended);
  }

  /** Forgets an end that has no row left, unless the Grant was created and ended again meanwhile. */
  drop(ended: EndedGrant | undefined): void {
    if (ended !== undefined && this.#ended.get(keyOf(ended)) === ended) this.#ended.delete(keyOf(ended));
  }

  /** Removes the rows that remain, until the index refuses a write. Never rejects: the next call continues. */
  removeAll(): Promise<void> {
    this.#removing ??= this.#removeAll().finally(() => {
      this.#removing = undefined;
    });
    return this.#removing;
  }

  async #removeAll(): Promise<void> {
    try {
      // Iterates over the live map: an entry that is replaced meanwhile must not be removed.
      for (const ended of this.#ended.values()) await this.remove(ended);
    } catch {
      // Not reported here: whoever ended the Grant got the error.
    }
  }

  #end(ended: EndedGrant): EndedGrant {
    this.#ended.set(keyOf(ended), ended);
    return ended;
  }
}

/** The id of a credential contains no space. */
function keyOf({ credentialId, repository }: EndedGrant): string {
  return repository === undefined ? credentialId : `${credentialId} ${repositoryText(repository)}`;
}
