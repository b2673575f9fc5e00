import type { Log } from '../../lib/log.ts';
import { within } from '../../lib/within.ts';
import type { Credential } from '../../oci/credential.ts';
import type { Digest } from '../../oci/digest.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import type { HeldBytes } from '../blob-proof.ts';
import type { Links } from '../links.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import type { Contender } from './contender.ts';
import { type Delivery, OVERLAP_BYTES } from './download.ts';

/** How long a complete Fill waits for upstream to say to which other repositories the blob belongs. */
const LINK_WITHIN_MS = 20_000;

interface Given extends Pick<Delivery, 'contender' | 'from' | 'shownBytes' | 'atMs'> {
  readonly credential: Credential | undefined;
  /** Whether it came from `url` itself. */
  readonly isProof: boolean;
  /** Whether upstream sent the bytes earlier, for the repository, but perhaps to another credential. */
  readonly isEarlier: boolean;
}

interface FillProofsOptions {
  readonly digest: Digest;
  readonly asking: UpstreamRequests;
  readonly links: Links;
  readonly log: Log;
}

/**
 * To whom upstream sends the blob of a Fill, and to whom it proved that it has parts of it. Both give the right to read
 * the Fill; once the blob is verified, they become Links and Grants.
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
    return this.#given.every(({ isEarlier }) => isEarlier);
  }

  /** Whether upstream has sent anything, now or earlier. */
  get hasAny(): boolean {
    return this.#given.length > 0;
  }

  /** Upstream begins to send the blob to a contender. */
  noteGiven({ contender, credential, answer, from, shownBytes, atMs }: Delivery): void {
    const isProof = answer.proof;
    this.#given.push({ contender, credential, isProof, isEarlier: false, from, shownBytes, atMs });
  }

  /** The bytes from `from` on were sent for the contender's repository before. */
  noteEarlier(contender: Contender, from: number): void {
    if (this.#given.at(-1)?.isEarlier === true) return;
    const atMs = this.#options.asking.clock.monotonicMs();
    const nothing = { credential: undefined, isProof: false, shownBytes: 0 };
    this.#given.push({ contender, ...nothing, isEarlier: true, from, atMs });
  }

  /** Upstream has proved to a contender that it has the bytes that were there. */
  noteShown({ repository, right }: Contender): void {
    this.#shown.set(repositoryText(repository), { repository, right });
  }

  /** Whether `url` is sending the blob to this contender and has told no process since that the right has ended. */
  async isGivenTo(contender: Contender): Promise<boolean> {
    const { asking } = this.#options;
    const given = this.#given.findLast(each => each.contender === contender && each.isProof);
    if (given === undefined) return false;
    return !(await asking.hasEndedAnywhereSince(given.atMs, contender.repository, given.credential));
  }

  /**
   * All `size` bytes are verified: records the rights of those to whom enough of them were sent. Returns their
   * repositories, to which the blob belongs.
   */
  async verified(size: number): Promise<readonly Repository[]> {
    const { digest, links } = this.#options;
    const proved = this.#given.filter(({ from, shownBytes }, at) => {
      const bytes = (this.#given[at + 1]?.from ?? size) - from;
      // Fewer bytes could match by chance.
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
   * For those to whom upstream proved parts of the unverified blob: makes it prove parts of the verified one, which
   * creates the Link. Repositories that are not confirmed in time are asked about when a client wants the blob there.
   * Never rejects.
   */
  async linkShown(held: HeldBytes): Promise<void> {
    const { digest, asking, links, log } = this.#options;
    const shown = [...this.#shown.values()];
    this.#shown.clear();
    const linking = shown.map(async ({ repository, right }) => {
      if (await links.isSettled(repository, digest, right)) return;
      await links.confirm(repository, digest, right, held);
    });
    await within(Promise.all(linking), LINK_WITHIN_MS, asking.clock).catch((error: unknown) => {
      log.debug({ err: error }, 'a blob could not be linked for clients that proved their right to it');
    });
  }
}
