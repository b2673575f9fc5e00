import type { Digest } from '../oci/digest.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { ociErrorOf, UpstreamFailure } from '../upstream/failures.ts';
import type { HeldBytes } from './blob-proof.ts';
import { Contender } from './contender.ts';
import type { Links } from './links.ts';

/** Whose right a download may go on with besides; a crowd of readers needs no more spare ones. */
const MAX_CONTENDERS = 64;

/** Those a Fill may be downloaded for, in the order they came. Whom upstream refuses is out. */
export class Contenders {
  readonly #digest: Digest;
  readonly #links: Links;
  #contenders: readonly Contender[] = [];
  #areSettled = true;

  constructor(digest: Digest, links: Links) {
    this.#digest = digest;
    this.#links = links;
  }

  /** Whether the right of every one that ever came was settled before. */
  get areSettled(): boolean {
    return this.#areSettled;
  }

  /** In whose name upstream is asked now. */
  get current(): Contender | undefined {
    return this.#contenders[0];
  }

  /** Who they are: `Requester.id`, each once. */
  get requesters(): readonly string[] {
    return [...new Set(this.#contenders.map(({ right }) => right.requester.id))];
  }

  /** `isSettled`: the right to this very blob is proved, and nobody needs to be asked. */
  add(repository: Repository, right: Right, isSettled: boolean): Contender {
    const contender = new Contender(repository, right, isSettled);
    this.#areSettled &&= isSettled;
    if (this.#contenders.length < MAX_CONTENDERS) this.#contenders = [...this.#contenders, contender];
    return contender;
  }

  /**
   * Whom an answer to somebody else lets in as well: who has the same credentials, or a right to all of a repository that
   * upstream gives the blob from. `isGivenTo`: whether upstream gives it to this one all the while.
   */
  joining(
    repository: Repository,
    right: Right,
    isGivenTo: (contender: Contender) => boolean,
  ): Contender | undefined {
    const speaker = this.#contenders.find(
      contender => contender.speaksFor(repository, right) && (contender.isFresh || isGivenTo(contender)),
    );
    if (speaker !== undefined || !right.proved || !this.#isAdmitted(repository)) return speaker;
    const contender = this.add(repository, right, false);
    contender.admit();
    return contender;
  }

  refuse(contender: Contender, reason: unknown): void {
    contender.refuse(reason instanceof UpstreamFailure ? ociErrorOf(reason, 'BLOB_UNKNOWN') : reason);
    this.#contenders = this.#contenders.filter(other => other !== contender);
  }

  /** For what upstream sends to each alone. */
  admitAll(): void {
    for (const contender of this.#contenders) contender.admit({ byStatus: true });
  }

  refuseAll(reason: unknown): void {
    for (const contender of this.#contenders) contender.refuse(reason);
  }

  /**
   * Asks upstream by HEAD about each that waits, which tells whom it refuses, and about an admitted one too while the size
   * is wanted. Returns the size, if it was said. Rejects when upstream has refused them all.
   */
  async ask({ needsSize }: { readonly needsSize: boolean }): Promise<number | undefined> {
    let size: number | undefined;
    await this.#each(
      ({ state }) => state === 'waiting' || (needsSize && size === undefined),
      async ({ repository, right }) => {
        size ??= (await this.#links.size(repository, this.#digest, right)).size;
      },
    );
    return size;
  }

  /**
   * Has upstream show some of the bytes that are held to each that waits, which admits it. Returns those. Rejects when
   * upstream has refused them all.
   */
  async show(held: HeldBytes): Promise<readonly Contender[]> {
    const shown: Contender[] = [];
    await this.#each(
      ({ state }) => state === 'waiting',
      async contender => {
        await this.#links.confirm(contender.repository, this.#digest, contender.right, held);
        contender.admit();
        shown.push(contender);
      },
    );
    return shown;
  }

  async #each(
    isMeant: (contender: Contender) => boolean,
    ask: (contender: Contender) => Promise<void>,
  ): Promise<void> {
    let failure: UpstreamFailure | undefined;
    for (const contender of this.#contenders) {
      if (!isMeant(contender)) continue;
      try {
        await ask(contender);
      } catch (error) {
        if (!(error instanceof UpstreamFailure)) throw error;
        failure = error;
        if (contender.state === 'waiting') this.refuse(contender, error);
      }
    }
    if (failure !== undefined && this.#contenders.length === 0) throw failure;
  }

  #isAdmitted(repository: Repository): boolean {
    const text = repositoryText(repository);
    return this.#contenders.some(
      other => other.state === 'admitted' && repositoryText(other.repository) === text,
    );
  }
}

/** What is heard where no contender is left. */
export function nobodyLeft(): UpstreamFailure {
  return new UpstreamFailure('denied', 'no client is allowed to request this blob from upstream');
}
