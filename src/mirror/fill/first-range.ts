import type { Extent } from '../../lib/extents.ts';
import type { Meter } from '../../lib/meter.ts';
import { SingleFlight } from '../../lib/single-flight.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Right } from '../../oci/requester.ts';
import { UpstreamFailure } from '../../upstream/failures.ts';
import type { Answer, FetchedBlob } from '../../upstream/upstream.ts';
import { admits, type Confirmed, type Links, unproved } from '../links.ts';
import { headOfBlob, type UpstreamRequests } from '../upstream-requests.ts';
import type { PartialBlob } from './partial-blob.ts';
import { rangesReference } from './range-request.ts';

/** At most this much is requested, since it is in memory until the size is known. Lazy clients begin with 2 bytes. */
const MAX_BYTES = 64 * 1024;

/** The bytes that upstream has sent first of a blob of which nothing was known. */
export interface FirstRange extends Confirmed {
  /** Whether upstream sends the whole blob instead. */
  readonly isWhole: boolean;
  /** Whether it does although the range was within the blob: it sends no ranges then. */
  readonly isIgnored: boolean;
  /** Keeps the bytes. */
  readonly keepIn: (blob: PartialBlob) => Promise<void>;
}

interface FirstAnswer extends Answer {
  /** `undefined` if the response does not tell, as when the range is behind the end. */
  readonly size: number | undefined;
  readonly isPart: boolean;
  readonly start: number;
  readonly bytes: Uint8Array;
  /** When it was asked, by `UpstreamRequests.clock`. */
  readonly atMs: number;
}

export interface FirstRangeAsk {
  readonly repository: Repository;
  readonly digest: Digest;
  readonly right: Right;
  /** The size in the Link, if the blob belongs to the repository. */
  readonly linkedSize: number | undefined;
}

/**
 * Begins to read ranges of blobs of which nothing is known. A HEAD would tell the size, too, but proves no right and brings
 * no byte.
 */
export class FirstRanges {
  readonly #asking: UpstreamRequests;
  readonly #links: Links;
  readonly #meter: Meter;
  readonly #flights = new SingleFlight<FirstAnswer>();

  constructor(asking: UpstreamRequests, links: Links, meter: Meter) {
    this.#asking = asking;
    this.#links = links;
    this.#meter = meter;
  }

  /**
   * Asks upstream for `wanted`, or its beginning, once for concurrent callers. `undefined` if it answers with something
   * that tells no size, such as that `wanted` is behind the end. Rejects as `Links.size`.
   */
  async ask(asked: FirstRangeAsk, wanted: Extent): Promise<FirstRange | undefined> {
    const { repository, digest, right, linkedSize } = asked;
    const extent = { start: wanted.start, end: Math.min(wanted.end, wanted.start + MAX_BYTES) };
    try {
      const { answer, credential, joined } = await this.#asking.ask(
        {
          repository,
          reference: rangesReference(digest),
          shared: this.#flights,
          proves: false,
          known: linkedSize !== undefined,
          head: headOfBlob(repository, digest),
        },
        right,
        async (upstream, ask) => {
          const atMs = this.#asking.clock.monotonicMs();
          const { start, end } = extent;
          const part = { offset: start, length: end - start };
          const fetched = await unlessBehindEnd(
            upstream.fetchBlob(repository.name, digest, { ...ask, ...part }),
          );
          return this.#received(repository.upstream, fetched, { ...part, atMs });
        },
      );
      const { size, isPart, start, bytes, atMs: sinceMs } = answer;
      if (size === undefined) return undefined;
      if (!admits(answer, right)) throw unproved();
      if (answer.proof && isPart) this.#links.notePartGiven(repository, digest, { credential, sinceMs });
      const isWhole = !isPart;
      // What was asked for may be the range of another client.
      const isIgnored = isWhole && start < size;
      return { size, joined, isWhole, isIgnored, keepIn: blob => blob.keep(start, bytes) };
    } catch (error) {
      if (error instanceof UpstreamFailure && error.kind === 'invalid') return undefined;
      throw error;
    }
  }

  /** Reads the response as far as it was asked for. If it breaks off, its bytes are requested again. */
  async #received(
    upstream: string,
    fetched: FetchedBlob | undefined,
    {
      offset: start,
      length,
      atMs,
    }: { readonly offset: number; readonly length: number; readonly atMs: number },
  ): Promise<FirstAnswer> {
    const { size, isPart = false, proof = false } = fetched ?? {};
    try {
      const nothing = new Uint8Array();
      const bytes = fetched && isPart ? await readUpTo(length, fetched.body).catch(() => nothing) : nothing;
      this.#meter.count('bytes_from_upstream_total', { upstream }, bytes.byteLength);
      return { size, isPart, start, bytes, proof, atMs };
    } finally {
      fetched?.destroy();
    }
  }
}

/** `undefined` instead of the failure of a request for a range behind the end, which is a mistake of the client alone. */
async function unlessBehindEnd(fetching: Promise<FetchedBlob>): Promise<FetchedBlob | undefined> {
  try {
    return await fetching;
  } catch (error) {
    if (error instanceof UpstreamFailure && error.status === 416) return undefined;
    throw error;
  }
}

async function readUpTo(length: number, body: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let count = 0;
  for await (const piece of body) {
    const wanted = piece.subarray(0, length - count);
    bytes.set(wanted, count);
    count += wanted.byteLength;
    if (wanted.byteLength < piece.byteLength) break;
  }
  return bytes.subarray(0, count);
}
