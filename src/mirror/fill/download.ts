import { backoffMs, jittered } from '../../lib/backoff.ts';
import { hasBytes } from '../../lib/bytes-reader.ts';
import { withEither } from '../../lib/either-signal.ts';
import type { Log } from '../../lib/log.ts';
import type { Credential } from '../../oci/credential.ts';
import type { Digest } from '../../oci/digest.ts';
import { UpstreamFailure } from '../../upstream/failures.ts';
import type { FetchedBlob, HostETag } from '../../upstream/upstream.ts';
import { unproved } from '../links.ts';
import { type UpstreamRequests, blobReference, headOfBlob, isRefusal } from '../upstream-requests.ts';
import type { Contender } from './contender.ts';
import { nobodyLeft } from './contenders.ts';

/**
 * After this many failures in a row without progress, the download fails. A response makes progress if it has more new bytes
 * than repeated ones: otherwise a body that is cut a little later each time would be downloaded any number of times.
 */
const MAX_FRUITLESS = 5;
/** After this many failures without progress, another endpoint is tried. */
const FRUITLESS_BEFORE_NEXT_ENDPOINT = 2;
/** Short at first, since usually a single connection broke; about 4 s in all. */
const BACKOFF = { firstMs: 100, maxMs: 2_000 };
/**
 * Servers may send less than was asked for, and are asked for the rest at once; but not one that sends next to nothing: the rest
 * would be requested millions of times.
 */
const SHORT_BYTES = 64 * 1024;

/**
 * Upstream sent more bytes than the blob has. Nothing of this download may be kept, and the endpoint is not to be
 * trusted.
 */
export class MoreThanNamed extends Error {
  readonly endpoint: number;

  constructor(sizeBytes: number, endpoint: number) {
    super(`upstream sent more than the ${sizeBytes} bytes of the blob`);
    this.name = 'MoreThanNamed';
    this.endpoint = endpoint;
  }
}

/** In the name of this contender, upstream sends other bytes than those that are stored. */
export class OtherBytes extends Error {
  constructor(options?: ErrorOptions) {
    super('upstream sent bytes that differ from the stored ones', options);
    this.name = 'OtherBytes';
  }
}

/**
 * A response in another contender's name, or after a restart, must begin with this many bytes of those that are stored,
 * which nobody can guess.
 */
export const OVERLAP_BYTES = 4 * 1024;

/** A response of upstream that has begun. */
export interface Delivery {
  readonly contender: Contender;
  /** The credential that upstream was asked with. */
  readonly credential: Credential | undefined;
  readonly answer: FetchedBlob;
  /** How many bytes were stored before. */
  readonly from: number;
  /** How many of those upstream has proved to have. */
  readonly shownBytes: number;
  /** By `UpstreamRequests.clock`. */
  readonly atMs: number;
}

/** What became of a response: read to the blob's end, or a part of it, or next to nothing, or not for this contender. */
type Read = 'all' | 'part' | 'short' | 'refused';

/** What was asked for, and whether the server sends everything instead, or has to. */
interface AskedRange {
  readonly end: number | undefined;
  readonly isIgnored: boolean;
}

export interface DownloadOptions {
  readonly asking: UpstreamRequests;
  readonly digest: Digest;
  /** Names upstream and the digest on each line. */
  readonly log: Log;
  /** Ends the download, which then rejects with its reason. */
  readonly signal: AbortSignal;
  /** Called each time the download continues after a failure. */
  readonly resumed: () => void;
  /** Indexes of endpoints to avoid at first, since they sent wrong bytes before. */
  readonly skipEndpoints: Set<number>;
  /** As in `BlobAsk`. */
  readonly isSpare?: boolean | undefined;
  /** Under which failures are remembered, if not as those of the whole blob. */
  readonly reference?: string;
  /** Whether to fail, instead of requesting the whole blob, if upstream answers a range with something else. */
  readonly onlyRanges?: boolean;
  /** From an earlier response for the blob: others than that are not wanted. */
  readonly etag?: HostETag | undefined;
  /** How many bytes are stored: where to continue. */
  readonly length: () => number;
  /**
   * Where to stop for now: before bytes that need no download. `undefined`, or absent, for the blob's end. Called before
   * each request and, with the end of its response, for each chunk of that, which would have to be broken off.
   */
  readonly end?: (underWayTo?: number) => number | undefined;
  /**
   * Called before each request, but not before upstream has proved to have what is stored; may write bytes that need no
   * download. True if nothing is left to be downloaded, which is otherwise so when a response that was not asked for an end
   * is read.
   */
  readonly prepare?: () => Promise<boolean>;
  /** Reads what is already stored, as in `BlobReader.read`; absent if it need not be compared. */
  readonly read?: (buffer: Uint8Array, position: number) => Promise<number>;
  /** The size of the whole blob if known; a response with another size is refused. */
  readonly size: () => number | undefined;
  /** The maximum number of bytes of the blob, if anything declares its size. */
  readonly limit: () => number | undefined;
  /** Takes the next bytes, which are only valid until it resolves; those after them wait. */
  readonly write: (chunk: Uint8Array) => Promise<void>;
  /** In whose name to ask now. */
  readonly contender: () => Contender | undefined;
  /** Called when the contender was refused with `failure`; the next one, if any, then replaces it. */
  readonly refused: (contender: Contender, failure: UpstreamFailure) => Promise<void>;
  /** Called when upstream begins to send. Returns false if the response proves no right and the contender has none. */
  readonly given: (delivery: Delivery) => boolean;
}

/**
 * Downloads all bytes of one blob from `length()` on, whatever fails on the way: it continues with Range at the byte
 * reached, after a delay, with the next endpoint, or in another contender's name if the current one's right or quota
 * ends. If upstream answers ranges with something else, the whole blob is requested, and what is stored is skipped.
 * Returns the index of the endpoint that sent the last byte; `undefined` if none sent any. Rejects with the last
 * failure; with MoreThanNamed at the first byte beyond the blob's size; with OtherBytes; or with the error of `write`,
 * `given` or `prepare`.
 */
export async function download(options: DownloadOptions): Promise<number | undefined> {
  const { asking, signal } = options;
  return withEither([asking.closing, signal], either => new Download({ ...options, signal: either }).run());
}

class Download {
  readonly #options: DownloadOptions;
  #etag: HostETag | undefined;
  #endpoint = 0;
  #hasBegun = false;
  /** Whether upstream has proved, in the current contender's name, that it has what is stored. */
  #isShown = false;
  /** Set from the second attempt on, which has delays of its own. */
  #insists = false;
  /** Whether the last request was for a range. */
  #isRanged = false;
  /** Set when upstream has answered ranges with something else: from then on, the whole blob is requested. */
  #avoidsRanges = false;
  #fruitless = 0;
  /** How many bytes before the missing ones the last response begins. */
  #repeatedBytes = 0;

  constructor(options: DownloadOptions) {
    this.#options = options;
    this.#etag = options.etag;
  }

  async run(): Promise<number | undefined> {
    let lastFailure = nobodyLeft();
    // What is written from now on is upstream's; only what was there before has to be compared.
    this.#isShown = this.#options.length() === 0;
    for (let contender = this.#next(); contender !== undefined; contender = this.#next()) {
      if (this.#isAgreed && (await this.#options.prepare?.()))
        return this.#hasBegun ? this.#endpoint : undefined;
      const before = this.#options.length();
      try {
        const read = await this.#attempt(contender);
        if (read === 'all') return this.#endpoint;
        if (read !== 'refused') {
          this.#fruitless = 0;
          if (read === 'short') await this.#pause();
          continue;
        }
        lastFailure = unproved();
        // Only `url` could have proved the right, and may just have been avoided.
        if (this.#options.skipEndpoints.delete(0)) continue;
        await this.#refused(contender, lastFailure);
      } catch (error) {
        if (!(error instanceof UpstreamFailure)) throw error;
        this.#insists = true;
        // The only endpoints left are those to avoid. The failure before says why, and was counted.
        if (error.isUnasked && this.#options.skipEndpoints.size > 0) {
          this.#options.skipEndpoints.clear();
          continue;
        }
        lastFailure = error;
        if (this.#options.length() - before > this.#repeatedBytes) this.#fruitless = 0;
        if (this.#hasBegun) this.#options.asking.broke(contender.repository, lastFailure);
        if (isRefusal(error) || error.kind === 'limited') await this.#refused(contender, error);
        else await this.#recover(lastFailure);
      }
    }
    throw lastFailure;
  }

  /** Whether nothing that is stored has to be compared with what upstream sends. */
  get #isAgreed(): boolean {
    return this.#isShown || this.#options.read === undefined;
  }

  #next(): Contender | undefined {
    this.#options.signal.throwIfAborted();
    return this.#options.contender();
  }

  async #refused(contender: Contender, failure: UpstreamFailure): Promise<void> {
    this.#isShown = false;
    await this.#options.refused(contender, failure);
  }

  async #attempt(contender: Contender): Promise<Read> {
    const { asking, digest, signal, skipEndpoints } = this.#options;
    const { repository, right } = contender;
    const from = this.#options.length();
    const shownBytes = this.#isAgreed ? 0 : Math.min(from, OVERLAP_BYTES);
    const offset = this.#avoidsRanges ? 0 : from - shownBytes;
    const before = this.#avoidsRanges ? undefined : this.#options.end?.();
    // A range needs a byte at least.
    const end = before !== undefined && before > offset ? before : undefined;
    this.#isRanged = offset > 0 || end !== undefined;
    const { reference = blobReference(digest) } = this.#options;
    const atMs = asking.clock.monotonicMs();
    const { answer, credential } = await asking.ask(
      {
        repository,
        // A failure of the comparison says nothing about whether upstream has the blob, so it is remembered separately.
        reference: shownBytes > 0 ? `rest of ${reference}` : reference,
        shared: undefined,
        // The right is proved by the bytes, once all are there and verified.
        proves: false,
        known: contender.state === 'admitted',
        insists: this.#insists,
        head: headOfBlob(repository, digest),
      },
      right,
      (upstream, ask) =>
        upstream.fetchBlob(repository.name, digest, {
          credential: ask.credential,
          signal,
          offset,
          length: end === undefined ? undefined : end - offset,
          etag: this.#etag,
          size: this.#options.size(),
          isSpare: this.#options.isSpare,
          skipEndpoints,
        }),
    );
    try {
      const isIgnored = (this.#isRanged || this.#avoidsRanges) && !answer.isPart;
      const range = { end, isIgnored };
      return await this.#pour({ contender, credential, answer, from, shownBytes, atMs }, range);
    } finally {
      answer.destroy();
    }
  }

  /** Reads a response. A server that ignores Range starts at 0: the bytes that are stored are skipped. */
  async #pour(delivery: Delivery, range: AskedRange): Promise<Read> {
    const { answer, from, shownBytes } = delivery;
    let isGiven = false;
    this.#repeatedBytes = from - answer.offset;
    if (shownBytes === 0) {
      isGiven = this.#give(delivery);
      if (!isGiven) return 'refused';
    }
    let position = answer.offset;
    for await (const chunk of answer.body) {
      const known = Math.min(Math.max(0, from - position), chunk.byteLength);
      if (shownBytes > 0) await this.#compare(chunk.subarray(0, known), position, from - shownBytes);
      position += chunk.byteLength;
      if (!isGiven && position >= from) {
        isGiven = this.#give(delivery);
        if (!isGiven) return 'refused';
      }
      if (known < chunk.byteLength && (await this.#take(chunk.subarray(known), range))) return 'part';
    }
    if (!isGiven) throw new OtherBytes();
    const length = this.#options.length();
    // Of the rest of a blob, too, a server may send only a part.
    const end = answer.isPart ? (range.end ?? answer.size ?? this.#options.size()) : undefined;
    if (end === undefined || (range.end === undefined && length >= end)) return 'all';
    const sentBytes = length - from;
    if (length < end && sentBytes <= this.#repeatedBytes) throw this.#hardlySent(sentBytes);
    return sentBytes < Math.min(SHORT_BYTES, end - from) ? 'short' : 'part';
  }

  /** Writes what is wanted of the next bytes. True if no more of this response is wanted. */
  async #take(bytes: Uint8Array, { end: asked, isIgnored }: AskedRange): Promise<boolean> {
    const { length, end: nextEnd = () => undefined } = this.#options;
    const askedTo = asked ?? Number.POSITIVE_INFINITY;
    const end = isIgnored ? Number.POSITIVE_INFINITY : Math.min(askedTo, nextEnd(askedTo) ?? askedTo);
    const wanted = Math.max(0, end - length());
    await this.#write(bytes.subarray(0, wanted));
    // A response that ends by itself leaves a connection that can be used again.
    return bytes.byteLength > wanted || (bytes.byteLength === wanted && end !== asked);
  }

  #give(delivery: Delivery): boolean {
    if (!this.#options.given(delivery)) return false;
    const { etag, endpoint } = delivery.answer;
    this.#hasBegun = true;
    this.#isShown = true;
    this.#etag = etag;
    this.#endpoint = endpoint;
    return true;
  }

  /** Throws if `theirs`, which begin at `position`, differ from the stored bytes from `start` on. */
  async #compare(theirs: Uint8Array, position: number, start: number): Promise<void> {
    const skipped = Math.min(Math.max(0, start - position), theirs.byteLength);
    const { read = async () => 0 } = this.#options;
    if (!(await hasBytes({ read }, theirs.subarray(skipped), position + skipped))) throw new OtherBytes();
  }

  /** Throws `failure` unless it may be due to the range that was requested. */
  #avoidRanges(failure: UpstreamFailure): void {
    const { onlyRanges = false, log } = this.#options;
    if (onlyRanges || !this.#isRanged || failure.kind !== 'invalid') throw failure;
    this.#avoidsRanges = true;
    this.#fruitless = 0;
    log.info(
      { reason: failure.message },
      'a range was answered with something else: the whole blob is requested',
    );
  }

  #hardlySent(bytes: number): UpstreamFailure {
    const endpoint = this.#endpoint;
    return new UpstreamFailure('invalid', `upstream sent only ${bytes} of the missing bytes`, { endpoint });
  }

  async #write(chunk: Uint8Array): Promise<void> {
    const { length, limit, write } = this.#options;
    const limitBytes = limit() ?? Number.POSITIVE_INFINITY;
    if (length() + chunk.byteLength > limitBytes) throw new MoreThanNamed(limitBytes, this.#endpoint);
    await write(chunk);
  }

  #pause(): Promise<void> {
    const { asking, signal } = this.#options;
    return asking.clock.sleep(BACKOFF.firstMs, { signal });
  }

  /** Returns when another attempt makes sense; otherwise throws `failure`. */
  async #recover(failure: UpstreamFailure): Promise<void> {
    const { asking, skipEndpoints, log, signal } = this.#options;
    if (!this.#hasBegun) {
      // All other endpoints have failed: one that sent wrong bytes once is better than none.
      if (skipEndpoints.size === 0) return this.#avoidRanges(failure);
      skipEndpoints.clear();
      return;
    }
    this.#fruitless++;
    if (this.#fruitless > MAX_FRUITLESS) return this.#avoidRanges(failure);
    const hasSkipped = skipEndpoints.size > 0;
    // Endpoints are avoided for one attempt only, since there may be no other.
    skipEndpoints.clear();
    if (!hasSkipped && (failure.kind === 'invalid' || this.#fruitless >= FRUITLESS_BEFORE_NEXT_ENDPOINT)) {
      skipEndpoints.add(failure.endpoint ?? this.#endpoint);
    }
    const delayMs = Math.round(jittered(backoffMs(BACKOFF, this.#fruitless)));
    log.info(
      { offset: this.#options.length(), delayMs, reason: failure.message },
      'a download was interrupted and will be resumed',
    );
    await asking.clock.sleep(delayMs, { signal });
    this.#options.resumed();
  }
}
