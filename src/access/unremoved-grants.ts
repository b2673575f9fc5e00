import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';

/** Of one Grant, or of all that a credential has. */
export interface EndedGrant {
  readonly credentialId: string;
  /** `undefined`: every one. */
  readonly repository: Repository | undefined;
}

/**
 * Grants that upstream has ended and that still have a row, because the index took no write: to this process they prove
 * nothing, and it removes them as soon as the index takes writes again.
 */
export class UnremovedGrants {
  readonly #metadata: Pick<MetadataStore, 'endGrant' | 'endGrantsOf'>;
  readonly #maxRepositories: number;
  readonly #ended = new Map<string, EndedGrant>();
  #removing: Promise<void> | undefined;

  /**
   * So many are remembered one by one; beyond that a credential loses all that it has proved, so that there is no more to
   * remember than the credentials that have a row.
   */
  constructor(metadata: Pick<MetadataStore, 'endGrant' | 'endGrantsOf'>, maxRepositories: number) {
    this.#metadata = metadata;
    this.#maxRepositories = maxRepositories;
  }

  has(repository: Repository, credentialId: string): boolean {
    return this.#ended.has(credentialId) || this.#ended.has(keyOf({ repository, credentialId }));
  }

  /** Removes a Grant. It proves nothing from now on, also when this rejects. */
  async end(repository: Repository, credentialId: string): Promise<void> {
    const isOneMore = this.#ended.size >= this.#maxRepositories && !this.has(repository, credentialId);
    const ended = { credentialId, repository: isOneMore ? undefined : repository };
    this.#ended.set(keyOf(ended), ended);
    await this.#remove(ended);
  }

  /** Before a Grant is made: rejects while a row that must go first would take the new one with it. */
  async makeRoom(credentialId: string): Promise<void> {
    const all = this.#ended.get(credentialId);
    if (all !== undefined) await this.#remove(all);
  }

  /** A new Grant has taken the place of the row. */
  replaced(repository: Repository, credentialId: string): void {
    this.#ended.delete(keyOf({ repository, credentialId }));
  }

  /** Removes what still has a row, until the index takes no write. Never rejects: a later call goes on. */
  removeAll(): Promise<void> {
    this.#removing ??= this.#removeAll().finally(() => {
      this.#removing = undefined;
    });
    return this.#removing;
  }

  async #removeAll(): Promise<void> {
    try {
      // Not a copy of them: one may be replaced meanwhile, and must be left then.
      for (const ended of this.#ended.values()) await this.#remove(ended);
    } catch {
      // Whoever ended it has been told.
    }
  }

  async #remove(ended: EndedGrant): Promise<void> {
    const { credentialId, repository } = ended;
    if (repository === undefined) await this.#metadata.endGrantsOf(credentialId);
    else await this.#metadata.endGrant(repository, credentialId);
    // Unless it has been made and ended again meanwhile.
    if (this.#ended.get(keyOf(ended)) === ended) this.#ended.delete(keyOf(ended));
  }
}

/** The id of a credential has no space. */
function keyOf({ credentialId, repository }: EndedGrant): string {
  return repository === undefined ? credentialId : `${credentialId} ${repositoryText(repository)}`;
}
