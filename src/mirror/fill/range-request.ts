import type { Extent } from '../../lib/extents.ts';
import type { Log } from '../../lib/log.ts';
import type { Meter } from '../../lib/meter.ts';
import { unlessAborted } from '../../lib/single-flight.ts';
import type { Digest } from '../../oci/digest.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import type { Right } from '../../oci/requester.ts';
import { UpstreamFailure } from '../../upstream/failures.ts';
import type { HostETag } from '../../upstream/upstream.ts';
import { admits, type Links } from '../links.ts';
import { type UpstreamRequests, blobReference } from '../upstream-requests.ts';
import { Contender } from './contender.ts';
import { download } from './download.ts';
import { type PullPlace, type PullTurns, waiterOf } from './pull-queue.ts';

/** In whose name ranges are requested. */
export interface RangeAsker {
  readonly repository: Repository;
  readonly right: Right;
  /** Whether the right to this blob was proved before. */
  readonly settled: boolean;
}

/** Upstream answers ranges of this blob with something else: it has to be downloaded as a whole. */
export class RangesUnusable extends Error {
  /** Whether it sends the whole blob instead, as it will of any other. */
  readonly isIgnored: boolean;

  constructor(message: string, { isIgnored = false, cause }: { isIgnored?: boolean; cause?: unknown } = {}) {
    super(message, { cause });
    this.name = 'RangesUnusable';
    this.isIgnored = isIgnored;
  }
}

/** What a further connection brings in about the time of another request; all of its stripe takes seconds. */
const SOON_BYTES = 1024 * 1024;

export interface RangeRequestOptions {
  readonly asking: UpstreamRequests;
  readonly links: Links;
  readonly queue: PullTurns;
  readonly meter: Meter;
  readonly log: Log;
  readonly digest: Digest;
  /** The size of the whole blob; a response with another is refused. */
  readonly size: number;
  readonly extent: Extent;
  readonly asker: RangeAsker;
  /** Called when it is this request's turn: false if it is to be left to others. */
  readonly claim: () => Promise<boolean>;
  /** Called when others know of it: true if some of it needs no request any more. */
  readonly isOvertaken?: (() => Promise<boolean>) | undefined;
  /** Called when upstream begins to answer with the range. */
  readonly ranged: () => void;
  /** As in `DownloadOptions`. */
  readonly etag?: HostETag | undefined;
  /** Set for a further connection of a download, which can do without; its failures are remembered separately. */
  readonly isSpare?: boolean | undefined;
  /** Keeps a piece. */
  readonly write: (position: number, chunk: Uint8Array) => Promise<void>;
}

/**
 * One range that is being requested from upstream, with everything that holds for a download: it waits for its turn,
 * and continues after failures. Anybody may wait for its bytes; it ends when nobody wants them any more.
 */
export class RangeRequest {
  readonly extent: Extent;
  /** Resolves when it has ended; never rejects. */
  readonly done: Promise<void>;
  readonly #options: RangeRequestOptions;
  readonly #place: PullPlace;
  readonly #leaving = new AbortController();
  #wanted = 0;
  #failure: { readonly cause: unknown } | undefined;
  #isLeft = false;
  #receivedBytes = 0;
  #isQueued: boolean;
  #isUnderWay = false;
  #isOver = false;

  constructor(options: RangeRequestOptions) {
    this.#options = options;
    this.extent = options.extent;
    const { queue, asker } = options;
    this.#place = queue.enter({
      ...waiterOf(asker.right.requester),
      repository: repositoryText(asker.repository),
    });
    this.#isQueued = this.#place.queued;
    this.done = this.#run();
  }

  /** Why it brought less than was requested; `undefined` as long as it has not failed. */
  get failure(): { readonly cause: unknown } | undefined {
    return this.#failure;
  }

  /** Whether it has ended at once because others have, or bring, some of it. */
  get isLeft(): boolean {
    return this.#isLeft;
  }

  /** How many bytes it has brought. */
  get receivedBytes(): number {
    return this.#receivedBytes;
  }

  /** The `Requester.id` in whose name it is. */
  get requester(): string {
    return this.#options.asker.right.requester.id;
  }

  /** Whether it waits for its turn. */
  get isQueued(): boolean {
    return this.#isQueued && !this.#isOver;
  }

  /** Whether it is of a further connection. */
  get isSpare(): boolean {
    return this.#options.isSpare === true;
  }

  /** Up to where it is worth waiting for it rather than to request the same. */
  get reach(): number {
    const { start, end } = this.extent;
    return this.isSpare ? Math.min(end, start + this.#receivedBytes + SOON_BYTES) : end;
  }

  /** Whether upstream is being asked: it waits neither for its turn nor for other processes, and has not ended. */
  get isUnderWay(): boolean {
    return this.#isUnderWay && !this.#isOver;
  }

  /** Whether it has ended, which `done` tells a moment later. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Wants its bytes until the returned function is called, which may happen more than once. */
  want(): () => void {
    this.#wanted += 1;
    let isWanted = true;
    return () => {
      if (!isWanted) return;
      isWanted = false;
      this.#wanted -= 1;
      if (this.#wanted === 0) this.stop(new Error('nobody wants the range any more'));
    };
  }

  stop(reason: Error): void {
    this.#leaving.abort(reason);
  }

  async #run(): Promise<void> {
    const { isOvertaken = async () => false, claim } = this.#options;
    try {
      await unlessAborted(this.#place.turn, this.#leaving.signal);
      this.#isQueued = false;
      this.#isLeft = !(await claim()) || (await isOvertaken());
      if (this.#isLeft) return;
      this.#isUnderWay = true;
      await this.#download();
    } catch (cause) {
      this.#failure = { cause: isUnusable(cause) ? new RangesUnusable(cause.message, { cause }) : cause };
    } finally {
      this.#isOver = true;
      this.#place.leave();
    }
  }

  async #download(): Promise<void> {
    const { asking, links, meter, log, digest, size, extent, asker, etag, isSpare, ranged, write } =
      this.#options;
    const { repository, right } = asker;
    const settled = asker.settled || links.isPartGiven(repository, digest, right);
    const contender = new Contender(repository, right, settled, asking.clock);
    let position = extent.start;
    await download({
      asking,
      digest,
      log: log.child({ upstream: repository.upstream, digest }),
      signal: this.#leaving.signal,
      resumed: () => meter.count('fills_resumed_total'),
      skipEndpoints: new Set(),
      reference: isSpare ? `further ${rangesReference(digest)}` : rangesReference(digest),
      isSpare,
      onlyRanges: true,
      etag,
      length: () => position,
      end: () => extent.end,
      prepare: async () => position === extent.end,
      size: () => size,
      limit: () => size,
      write: async chunk => {
        await write(position, chunk);
        meter.count('bytes_from_upstream_total', { upstream: repository.upstream }, chunk.byteLength);
        position += chunk.byteLength;
        this.#receivedBytes += chunk.byteLength;
      },
      contender: () => contender,
      refused: async (_, failure) => {
        throw failure;
      },
      given: ({ answer, credential, atMs: sinceMs }) => {
        if (!answer.isPart) throw new RangesUnusable('upstream ignores ranges', { isIgnored: true });
        ranged();
        if (answer.proof) links.notePartGiven(repository, digest, { credential, sinceMs });
        return settled || admits(answer, right);
      },
    });
  }
}

/** Some ranges of a blob as the reference of a question: upstream may refuse them otherwise than the whole. */
export function rangesReference(digest: Digest): string {
  return `ranges of ${blobReference(digest)}`;
}

function isUnusable(failure: unknown): failure is UpstreamFailure {
  return failure instanceof UpstreamFailure && failure.kind === 'invalid';
}
