import type { Log } from '../lib/log.ts';
import { within } from '../lib/within.ts';
import type { Credential } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { UpstreamRequests } from './upstream-requests.ts';
import type { HeldBytes } from './blob-proof.ts';
import type { Contender } from './contender.ts';
import { type Delivery, OVERLAP_BYTES } from './download.ts';
import type { Links } from './links.ts';

/** A Fill whose bytes are all there waits so long for upstream to say where else they belong. */
const LINK_WITHIN_MS = 20_000;

interface Given extends Pick<Delivery, 'contender' | 'from' | 'shownBytes' | 'atMs'> {
  readonly credential: Credential | undefined;
  /** Whether it came from `url` itself. */
  readonly isProof: boolean;
}

interface FillProofsOptions {
  readonly digest: Digest;
  readonly asking: UpstreamRequests;
  readonly links: Links;
  readonly log: Log;
}

/**
 * To whom upstream gives the blob of one Fill, and to whom it has shown some of it. That is a right to read along; once the
 * blob is verified it makes Links and Grants.
 */
export class FillProofs {
  readonly #options: FillProofsOptions;
  readonly #given: Given[] = [];
  /** One for each repository. */
  readonly #shown = new Map<string, Pick<Contender, 'repository' | 'right'>>();

  constructor(options: FillProofsOptions) {
    this.#options = options;
  }

  get isEmpty(): boolean {
    return this.#given.length === 0;
  }

  /** Upstream begins to give it. */
  noteGiven({ contender, credential, answer, from, shownBytes, atMs }: Delivery): void {
    this.#given.push({ contender, credential, isProof: answer.proof, from, shownBytes, atMs });
  }

  /** Upstream has shown this contender the bytes that were here at that time. */
  noteShown({ repository, right }: Contender): void {
    this.#shown.set(repositoryText(repository), { repository, right });
  }

  /** Whether `url` gives it to this one, and has not taken its right back since. */
  isGivenTo(contender: Contender): boolean {
    return this.#given.some(
      given =>
        given.contender === contender &&
        given.isProof &&
        !this.#options.asking.hasEndedSince(given.atMs, contender.repository, given.credential),
    );
  }

  /**
   * All `size` bytes are verified: proves the rights of those who were given enough of them, and returns their
   * repositories, where the blob belongs.
   */
  async verified(size: number): Promise<readonly Repository[]> {
    const { digest, links } = this.#options;
    const proved = this.#given.filter(({ from, shownBytes }, at) => {
      const bytes = (this.#given[at + 1]?.from ?? size) - from;
      // Fewer may be right by chance.
      return shownBytes + bytes >= Math.min(size, OVERLAP_BYTES);
    });
    for (const { contender, credential, isProof, atMs: sinceMs } of proved) {
      const { repository } = contender;
      this.#shown.delete(repositoryText(repository));
      if (isProof) await links.noteGiven(repository, digest, { size, credential, sinceMs });
    }
    return proved.map(({ contender }) => contender.repository);
  }

  /**
   * Has upstream show some of the verified bytes to those to whom it showed others, for that makes the Link. A repository
   * that it does not confirm in time is asked about again by whoever wants the blob there. Never rejects.
   */
  async linkShown(held: HeldBytes): Promise<void> {
    const { digest, links, log } = this.#options;
    const shown = [...this.#shown.values()];
    this.#shown.clear();
    const linking = shown.map(async ({ repository, right }) => {
      if (await links.isSettled(repository, digest, right)) return;
      await links.confirm(repository, digest, right, held);
    });
    await within(Promise.all(linking), LINK_WITHIN_MS).catch((error: unknown) => {
      log.debug({ err: error }, 'a blob could not be linked for clients that proved their right to it');
    });
  }
}
