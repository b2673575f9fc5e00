import type { Digest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { ociErrorOf, UpstreamFailure } from '../upstream/failures.ts';
import { Contender } from './contender.ts';
import type { Links } from './links.ts';

/** Whose right a download may go on with besides; a crowd of readers needs no more spare ones. */
const MAX_CONTENDERS = 64;

/** Those a Fill may be downloaded for, in the order they came. Whom upstream refuses is out. */
export class Contenders {
  readonly #digest: Digest;
  readonly #links: Links;
  #contenders: readonly Contender[] = [];

  constructor(digest: Digest, links: Links) {
    this.#digest = digest;
    this.#links = links;
  }

  /** In whose name upstream is asked now. */
  get current(): Contender | undefined {
    return this.#contenders[0];
  }

  /** `settled`: the right to this very blob is proved, and nobody needs to be asked. */
  add(repository: Repository, right: Right, settled: boolean): Contender {
    const contender = new Contender(repository, right);
    if (settled) contender.admit();
    if (this.#contenders.length < MAX_CONTENDERS) this.#contenders = [...this.#contenders, contender];
    return contender;
  }

  /** The one whose answer from upstream this requester would get too. */
  speakingFor(repository: Repository, right: Right): Contender | undefined {
    return this.#contenders.find(contender => contender.speaksFor(repository, right));
  }

  refuse(contender: Contender, failure: UpstreamFailure): void {
    contender.refuse(ociErrorOf(failure, 'BLOB_UNKNOWN'));
    this.#contenders = this.#contenders.filter(other => other !== contender);
  }

  refuseAll(reason: unknown): void {
    for (const contender of this.#contenders) contender.refuse(reason);
  }

  /**
   * Asks upstream by HEAD about each that waits for an answer, or about an admitted one where only the size is wanted.
   * Returns the size, if it was said, and why it could not be, if that is so. Rejects when upstream has refused them all.
   */
  async confirm({ needsSize }: { readonly needsSize: boolean }): Promise<{
    readonly size: number | undefined;
    readonly failure: UpstreamFailure | undefined;
  }> {
    let size: number | undefined;
    let failure: UpstreamFailure | undefined;
    for (const contender of this.#contenders) {
      if (contender.state !== 'waiting' && !(needsSize && size === undefined)) continue;
      try {
        const confirmed = await this.#links.confirm(contender.repository, this.#digest, contender.right);
        size ??= confirmed.size;
        contender.admit();
      } catch (error) {
        if (!(error instanceof UpstreamFailure)) throw error;
        failure = error;
        if (contender.state === 'waiting') this.refuse(contender, error);
      }
    }
    if (failure !== undefined && this.#contenders.length === 0) throw failure;
    return { size, failure };
  }
}
