import type { Ingest, SpoolSpace } from '../../blobs/spool.ts';
import type { Clock } from '../../lib/clock.ts';
import { download } from './download.ts';
import { FillConnections, type FillConnectionsOptions } from './fill-connections.ts';
import type { FillSpace } from './fill-quota.ts';
import type { FillWriter } from './fill-pieces.ts';
import type { Fill } from './fill.ts';

/**
 * How long a download of unknown size continues without a reader. Clients wait 20 s for the size, and retry within
 * seconds.
 */
const UNNAMED_UNREAD_MS = 60_000;

export interface FillTransferOptions extends FillConnectionsOptions {
  /** The free space where ingests are written. */
  readonly disk: SpoolSpace;
  readonly skipEndpoints: Set<number>;
}

/**
 * Brings the bytes of a Fill from upstream into an ingest, in the name of its contenders, as long as there is space for
 * them. The Fill grows with each write.
 */
export class FillTransfer {
  readonly #options: FillTransferOptions;
  /** Whether the disk has admitted the whole blob at once. */
  #isAdmitted = false;

  constructor(options: FillTransferOptions) {
    this.#options = options;
  }

  /**
   * Completes `ingest` with the pieces that are there and what has to be downloaded, and takes that from `space`. Returns
   * the index of the endpoint that sent the last byte; `undefined` if none had to. Whatever it rejects with, as
   * `download` does or with Unwanted, everything received is written.
   */
  async into(ingest: Ingest, space: FillSpace): Promise<number | undefined> {
    const { fill, sharing, asking, pieces, skipEndpoints, meter, log, signal } = this.#options;
    const labels = { upstream: sharing.starter.repository.upstream };
    const writer = writerTo(ingest, fill);
    const reading = new Reading(fill, asking.clock);
    const connections = new FillConnections(this.#options);
    const admit = (bytes: number) => this.#admit(bytes, space, reading);
    const downloading = download({
      asking,
      digest: fill.digest,
      log,
      resumed: () => meter.count('fills_resumed_total'),
      signal,
      skipEndpoints,
      length: () => writer.length,
      end: underWayTo => connections.endBefore(writer.length, underWayTo),
      prepare: async () => {
        await pieces.look();
        do {
          const end = await connections.copyableUpTo(writer.length);
          if (await pieces.copyTo(writer, admit, end)) return true;
        } while (await connections.follow(writer.length));
        return false;
      },
      read: (buffer, position) => fill.read(buffer, position),
      size: () => fill.size ?? sharing.agreedSize,
      limit: () => sharing.limitBytes,
      write: async chunk => {
        const startedMs = performance.now();
        await admit(chunk.byteLength);
        await writer.add(chunk);
        connections.received(chunk.byteLength, performance.now() - startedMs);
        void pieces.look();
        meter.count('bytes_from_upstream_total', labels, chunk.byteLength);
      },
      contender: () => sharing.current,
      refused: async (contender, failure) => sharing.refused(contender, failure),
      given: delivery => {
        const isGiven = sharing.given(delivery);
        if (isGiven) connections.begin(delivery);
        return isGiven;
      },
    });
    try {
      return await downloading;
    } finally {
      await connections.end();
    }
  }

  /** Reserves space for the next piece. Throws if there is none, or if nobody wants a blob of unknown size any more. */
  async #admit(bytes: number, space: FillSpace, reading: Reading): Promise<void> {
    const { fill, sharing, disk } = this.#options;
    const { limitBytes } = sharing;
    await space.take(bytes, limitBytes);
    if (limitBytes !== undefined && !this.#isAdmitted) {
      // For the whole blob at once, so that one that cannot fit displaces nothing.
      await disk.admit(limitBytes - fill.length);
      this.#isAdmitted = true;
    }
    if (limitBytes === undefined && reading.unreadMs > UNNAMED_UNREAD_MS) throw new Unwanted();
  }
}

function writerTo(ingest: Ingest, fill: Fill): FillWriter {
  return {
    get length() {
      return ingest.offset;
    },
    add: async bytes => {
      try {
        await ingest.write([bytes]);
        fill.growBy(bytes);
      } catch (error) {
        // A write that fails may have written some.
        fill.grow(ingest.offset);
        throw error;
      }
    },
  };
}

/** Nobody waits for the blob, which may never end. */
export class Unwanted extends Error {
  constructor() {
    super('no client is waiting for the blob, and its size is unknown');
  }
}

/** Tracks when a Fill was last read. */
class Reading {
  readonly #fill: Fill;
  readonly #clock: Clock;
  #readAtMs: number;

  constructor(fill: Fill, clock: Clock) {
    this.#fill = fill;
    this.#clock = clock;
    this.#readAtMs = clock.monotonicMs();
  }

  get unreadMs(): number {
    const nowMs = this.#clock.monotonicMs();
    if (this.#fill.hasReaders) this.#readAtMs = nowMs;
    return nowMs - this.#readAtMs;
  }
}
