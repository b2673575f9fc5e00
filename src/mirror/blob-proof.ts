import { createHmac, randomBytes } from 'node:crypto';
import { hasBytes } from '../lib/bytes-reader.ts';
import type { Digest } from '../oci/digest.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { Answer, BlobAsk, FetchedBlob } from '../upstream/upstream.ts';

/** Up to this size a blob is compared as a whole, by one request. */
const WHOLE_BYTES = 16 * 1024;
/** Ranges of a larger blob. Nobody guesses 4 KiB of compressed content, and three places rule out a common header. */
const RANGES = 3;
const RANGE_BYTES = 4 * 1024;
/** Where the ranges of a blob lie: nobody else knows it, and to ask again gives an upstream no other places. */
const PLACES_KEY = randomBytes(32);
/** Of a place as a fraction of the blob. */
const FRACTION_BYTES = 6;

/** Bytes that are here, to compare upstream's with. */
export interface HeldBytes {
  /** Bytes of the whole blob; `undefined` while nobody has said. */
  readonly size: number | undefined;
  /** So many bytes, from the start, are compared. */
  readonly length: number;
  /** They are known to hash to the digest; else only the asker's own reading may rely on them. */
  readonly isVerified: boolean;
  /** Whoever opens them closes them. */
  open(): Promise<OpenBytes>;
}

export interface OpenBytes {
  /** As `BlobReader.read`. */
  read(buffer: Uint8Array, position: number): Promise<number>;
  close(): Promise<void>;
}

/** What upstream has shown to have, and whether `url` itself has shown it. */
export interface Shown extends Answer {
  /** Bytes of the whole blob. */
  readonly size: number;
}

/** Asks upstream for a part of the blob, or for all of it. */
type Fetch = (part: Pick<BlobAsk, 'offset' | 'length' | 'size'>) => Promise<FetchedBlob>;

interface Range {
  readonly start: number;
  readonly end: number;
}

/**
 * Has upstream show that it has the blob: the exact size, and some ranges that equal what is held, at places that are
 * random but the same each time. A status alone may be that of a login page. An upstream that has no ranges, or wrong
 * ones, is read from the start up to the last of them. `invalid` when it gives other bytes or another size, which it
 * does not learn before it has sent all that is compared: one that guesses would have the blob byte by byte.
 */
export async function proveBlob(digest: Digest, held: HeldBytes, fetch: Fetch): Promise<Shown> {
  const bytes = await held.open();
  const comparison = new Comparison(digest, held, bytes, fetch);
  const ranges = rangesOf(digest, held.length);
  try {
    return (await comparison.byRanges(ranges)) ?? (await comparison.fromStart(ranges));
  } finally {
    await bytes.close();
  }
}

/** In ascending order, so that an answer from the start is read through once. */
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

  constructor(digest: Digest, held: HeldBytes, bytes: OpenBytes, fetch: Fetch) {
    this.#digest = digest;
    this.#held = held;
    this.#bytes = bytes;
    this.#fetch = fetch;
  }

  async fromStart(ranges: readonly Range[]): Promise<Shown> {
    return this.#compare(await this.#fetch({ size: this.#held.size }), ranges);
  }

  /** `undefined` where that shows nothing: upstream's answers are not what was asked for. An empty blob has no ranges. */
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
      if (error instanceof UpstreamFailure && error.kind === 'invalid') return undefined;
      throw error;
    }
  }

  #range({ start, end }: Range): Promise<FetchedBlob> {
    return this.#fetch({ offset: start, length: end - start, size: this.#held.size });
  }

  /** Throws where `answer` differs from what is held within `ranges`, or ends before them. */
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
        // Who does not announce the size shows it by the end of the body.
        if (answer.size === undefined ? position > size : position >= lastByte) break;
      }
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
