import { createHmac, randomBytes } from 'node:crypto';
import { unreadableReason } from '../blobs/unreadable.ts';
import { hasBytes } from '../lib/bytes-reader.ts';
import type { Digest } from '../oci/digest.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { Answer, BlobAsk, FetchedBlob } from '../upstream/upstream.ts';

/** A blob of at most this size is compared as a whole, with one request. */
const WHOLE_BYTES = 16 * 1024;
/**
 * The number of ranges compared of a larger blob. Nobody can guess 4 KiB of compressed content, and three places rule
 * out a header that many blobs share.
 */
const RANGES = 3;
const RANGE_BYTES = 4 * 1024;
/**
 * Determines where the ranges are. It is secret, and the same for every attempt, so that asking again does not reveal
 * other places.
 */
const PLACES_KEY = randomBytes(32);
/** A place is a fraction of the blob with this many bytes of precision. */
const FRACTION_BYTES = 6;

/** Stored bytes to compare with upstream's. */
export interface HeldBytes {
  /** The size of the whole blob; `undefined` while unknown. */
  readonly size: number | undefined;
  /** How many bytes, from the start, may be compared. */
  readonly length: number;
  /** Whether they are known to have the blob's digest. If not, a match only lets the requester read the same bytes. */
  readonly isVerified: boolean;
  /** The caller closes the result. */
  open(): Promise<OpenBytes>;
  /** Called when upstream has other bytes, or the stored ones cannot be read. Rejects if these are wrong, or gone. */
  check?(): Promise<void>;
}

/** Stored bytes that are open for comparison. */
export interface OpenBytes {
  /** As in `BlobReader.read`. */
  read(buffer: Uint8Array, position: number): Promise<number>;
  close(): Promise<void>;
}

/** What upstream proved to have, and whether `url` itself or a mirror did. */
export interface Shown extends Answer {
  /** The size of the whole blob in bytes. */
  readonly size: number;
}

/** Asks upstream for a part of the blob, or for all of it. */
type Fetch = (part: Pick<BlobAsk, 'offset' | 'length' | 'size'>) => Promise<FetchedBlob>;

interface Range {
  readonly start: number;
  readonly end: number;
}

/**
 * Makes upstream prove that it has the blob: by the exact size, and by some ranges that equal the stored bytes, at
 * secret places. A status code alone may come with a login page. If upstream does not support ranges, its response is
 * read from the start to the end of the last range. Fails with `invalid` if the bytes or the size differ, but only
 * after all ranges were received: otherwise an upstream could find out the blob byte by byte.
 */
export async function proveBlob(digest: Digest, held: HeldBytes, fetch: Fetch): Promise<Shown> {
  const bytes = await held.open();
  const comparison = new Comparison(digest, held, bytes, fetch);
  const ranges = rangesOf(digest, held.length);
  try {
    return (await comparison.byRanges(ranges)) ?? (await comparison.fromStart(ranges));
  } catch (error) {
    const isInvalid = error instanceof UpstreamFailure && error.kind === 'invalid';
    if (isInvalid || unreadableReason(error) !== undefined) await held.check?.();
    throw error;
  } finally {
    await bytes.close();
  }
}

/** In ascending order, so that a response from the start can be read sequentially. */
function rangesOf(digest: Digest, length: number): readonly Range[] {
  if (length <= WHOLE_BYTES) return [{ start: 0, end: length }];
  const random = createHmac('sha256', PLACES_KEY).update(digest).digest();
  return Array.from({ length: RANGES }, (_, at) => random.readUIntBE(at * FRACTION_BYTES, FRACTION_BYTES))
    .map(fraction => Math.floor((fraction / 2 ** (8 * FRACTION_BYTES)) * (length - RANGE_BYTES + 1)))
    .sort((a, b) => a - b)
    .map(start => ({ start, end: start + RANGE_BYTES }));
}

class Comparison {
  readonly #digest: Digest;
  readonly #held: HeldBytes;
  readonly #bytes: OpenBytes;
  readonly #fetch: Fetch;
  /** Whether upstream has sent other bytes than the stored ones. */
  #differs = false;

  constructor(digest: Digest, held: HeldBytes, bytes: OpenBytes, fetch: Fetch) {
    this.#digest = digest;
    this.#held = held;
    this.#bytes = bytes;
    this.#fetch = fetch;
  }

  async fromStart(ranges: readonly Range[]): Promise<Shown> {
    return this.#compare(await this.#fetch({ size: this.#held.size }), ranges);
  }

  /**
   * `undefined` if that proves nothing, because upstream does not answer with the requested ranges. An empty blob has
   * no ranges.
   */
  async byRanges(ranges: readonly Range[]): Promise<Shown | undefined> {
    const [first, ...others] = ranges;
    if (first === undefined || first.end === 0) return undefined;
    try {
      const answer = await this.#range(first);
      if (!answer.isPart) return await this.#compare(answer, ranges);
      const shown = await Promise.all([
        this.#compare(answer, [first]),
        ...others.map(async range => this.#compare(await this.#range(range), [range])),
      ]);
      return { size: shown[0].size, proof: shown.every(({ proof }) => proof) };
    } catch (error) {
      if (!(error instanceof UpstreamFailure && error.kind === 'invalid')) throw error;
      // Reading from the start may download nearly all of the blob, in vain if the stored bytes are wrong.
      if (this.#differs) await this.#held.check?.();
      return undefined;
    }
  }

  #range({ start, end }: Range): Promise<FetchedBlob> {
    return this.#fetch({ offset: start, length: end - start, size: this.#held.size });
  }

  /** Throws if `answer` differs from the stored bytes within `ranges`, or ends before them. */
  async #compare(answer: FetchedBlob, ranges: readonly Range[]): Promise<Shown> {
    try {
      const size = this.#held.size ?? answer.size;
      if (size === undefined || (answer.isPart && answer.size === undefined)) throw this.#other(answer);
      const lastByte = Math.max(...ranges.map(({ end }) => end));
      let position = answer.offset;
      let isSame = true;
      for await (const piece of answer.body) {
        for (const range of ranges) isSame = (await this.#isSameIn(range, piece, position)) && isSame;
        position += piece.byteLength;
        // If upstream does not announce the size, the end of the body proves it.
        if (answer.size === undefined ? position > size : position >= lastByte) break;
      }
      this.#differs ||= !isSame;
      if (!isSame || position < lastByte || (answer.size === undefined && position !== size))
        throw this.#other(answer);
      return { size, proof: answer.proof };
    } finally {
      answer.destroy();
    }
  }

  async #isSameIn({ start, end }: Range, piece: Uint8Array, position: number): Promise<boolean> {
    const from = Math.max(start, position);
    const theirs = piece.subarray(
      from - position,
      Math.max(from, Math.min(end, position + piece.byteLength)) - position,
    );
    return hasBytes(this.#bytes, theirs, from);
  }

  #other({ endpoint }: FetchedBlob): UpstreamFailure {
    const message = `upstream did not prove that it has ${this.#digest}`;
    return new UpstreamFailure('invalid', message, { endpoint });
  }
}
