import type { BlobParts, SavedParts } from '../../blobs/spool.ts';
import { Changes } from '../../lib/changes.ts';
import { type Extent, Extents, type KnownExtents } from '../../lib/extents.ts';
import type { Log } from '../../lib/log.ts';
import type { Meter } from '../../lib/meter.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Links } from '../links.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import type { FillSpace } from './fill-quota.ts';
import type { PullTurns } from './pull-queue.ts';
import { type RangeAsker, RangeRequest } from './range-request.ts';

/** How much a crash may lose: what came within this time is fetched again. */
const SAVE_AFTER_MS = 1_000;

export interface PartialBlobOptions {
  readonly asking: UpstreamRequests;
  readonly links: Links;
  readonly queue: PullTurns;
  readonly meter: Meter;
  readonly log: Log;
  readonly digest: Digest;
  /** The size of the whole blob. */
  readonly size: number;
  readonly parts: BlobParts;
  readonly space: FillSpace;
  /** Opens what other processes have saved of the same, except for what has the same key and epoch in `known`. */
  readonly findSaved: (known: ReadonlyMap<string, FoundParts>) => Promise<ReadonlyMap<string, FoundParts>>;
}

/** What another process has saved, and the epoch of its Lease. */
export interface FoundParts {
  readonly saved: SavedParts;
  readonly epoch: number;
}

/** How often it looks for what other processes have saved: they save as often. */
const LOOK_EACH_MS = 1_000;

/**
 * The ranges of one blob that clients of one source have asked for: those that are there, here or in what another process
 * has saved, and those that are being requested. Nothing of it is verified: only partial responses, and a Fill, which verifies the whole, may have it.
 */
export class PartialBlob {
  readonly digest: Digest;
  readonly size: number;
  /** Told when bytes come or requests end. */
  readonly changes = new Changes();
  readonly #options: PartialBlobOptions;
  readonly #requests = new Set<RangeRequest>();
  /** What other processes have saved, by the key of their Lease. */
  readonly #found = new Map<string, FoundParts>();
  /** All that is there. */
  #there: Extents;
  #known: Extents | undefined;
  #looking: Promise<void> | undefined;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #failure: Error | undefined;
  #isObsolete = false;
  #saveTimer: NodeJS.Timeout | undefined;

  constructor(options: PartialBlobOptions) {
    this.#options = options;
    this.digest = options.digest;
    this.size = options.size;
    this.#there = new Extents(options.parts.extents);
  }

  /** Why its bytes must not be used any more; `undefined` if they may. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** How many bytes are there. */
  get bytes(): number {
    return this.#there.bytes;
  }

  /** The ranges that are being requested. */
  get requests(): Iterable<RangeRequest> {
    return this.#requests;
  }

  /** What is there at `position` or after it; see `KnownExtents.next`. */
  next(position: number): Extent | undefined {
    return this.#there.next(position);
  }

  /** What is there or being requested. There may be tens of thousands of parts, so it is kept until it becomes less. */
  get known(): KnownExtents {
    this.#known ??= new Extents([...this.#there, ...[...this.#requests].map(({ extent }) => extent)]);
    return this.#known;
  }

  /** Reads what is there, as in `BlobParts`. */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    if (this.#failure !== undefined) throw this.#failure;
    let count = await this.#options.parts.read(buffer, position);
    for (const { saved } of this.#found.values()) {
      if (count > 0) break;
      count = await saved.read(buffer, position);
    }
    return count;
  }

  /** Looks for what other processes have saved, unless it did a moment ago. */
  async look(): Promise<void> {
    if (performance.now() - this.#lookedAtMs < LOOK_EACH_MS) return;
    this.#looking ??= this.#lookNow().finally(() => {
      this.#looking = undefined;
      this.#lookedAtMs = performance.now();
    });
    await this.#looking;
  }

  /** Keeps bytes that upstream has sent otherwise, as far as they are not `known`. */
  async keep(position: number, bytes: Uint8Array): Promise<void> {
    for (const extent of this.known.missing({ start: position, end: position + bytes.byteLength })) {
      await this.#write(extent.start, bytes.subarray(extent.start - position, extent.end - position));
      this.#known?.add(extent);
    }
  }

  /** Requests a range of which nothing is `known`. */
  request(extent: Extent, asker: RangeAsker): RangeRequest {
    const { asking, links, queue, meter, log, digest, size } = this.#options;
    const write = (position: number, chunk: Uint8Array): Promise<void> => this.#write(position, chunk);
    const request = new RangeRequest({
      asking,
      links,
      queue,
      meter,
      log,
      digest,
      size,
      extent,
      asker,
      write,
    });
    this.#requests.add(request);
    this.#known?.add(extent);
    void this.#forgetAfter(request);
    return request;
  }

  /** Its bytes are wrong: ends all requests and all reading with `failure`, and keeps nothing. */
  fail(failure: Error): void {
    this.obsolete();
    this.stop(failure);
  }

  /** Ends all requests and all reading with `reason`. What is there is kept for later. */
  stop(reason: Error): void {
    this.#failure ??= reason;
    for (const request of this.#requests) request.stop(reason);
    this.changes.tell();
  }

  /** The whole blob is stored, or its bytes are wrong: nothing is kept at the end. */
  obsolete(): void {
    this.#isObsolete = true;
  }

  get isObsolete(): boolean {
    return this.#isObsolete;
  }

  /** Whether it is of no use to anybody who does not read it already. */
  get isOver(): boolean {
    return this.#isObsolete || this.#failure !== undefined;
  }

  /** Ends it when nobody uses it any more. True if something is kept for later. */
  async close(): Promise<boolean> {
    clearTimeout(this.#saveTimer);
    const { parts, space } = this.#options;
    try {
      await Promise.all([...this.#requests].map(({ done }) => done));
      await (this.#isObsolete ? parts.abort() : parts.suspend());
      return !this.#isObsolete && parts.extents.count > 0;
    } finally {
      space.leave();
      await parts.close();
      for (const { saved } of this.#found.values()) await saved.close();
    }
  }

  async #lookNow(): Promise<void> {
    const found = await this.#options.findSaved(this.#found);
    for (const [key, { saved }] of this.#found) {
      if (!found.has(key) && (await saved.refresh())) continue;
      this.#found.delete(key);
      await saved.close();
    }
    for (const [key, one] of found) {
      if (one.saved.size === this.size) this.#found.set(key, one);
      else await one.saved.close();
    }
    const all = [this.#options.parts, ...[...this.#found.values()].map(({ saved }) => saved)];
    this.#there = new Extents(all.flatMap(({ extents }) => [...extents]));
    this.#known = undefined;
    this.changes.tell();
  }

  async #forgetAfter(request: RangeRequest): Promise<void> {
    await request.done;
    this.#requests.delete(request);
    if (request.failure !== undefined) this.#known = undefined;
    this.changes.tell();
  }

  async #write(position: number, chunk: Uint8Array): Promise<void> {
    const { parts, space } = this.#options;
    if (this.#failure !== undefined) throw this.#failure;
    space.take(chunk.byteLength, parts.extents.bytes + chunk.byteLength);
    await parts.write(position, chunk);
    this.#there.add({ start: position, end: position + chunk.byteLength });
    this.#saveTimer ??= setTimeout(() => void this.#save(), SAVE_AFTER_MS);
    this.changes.tell();
  }

  /** Never rejects: the disk's troubles show when bytes are written, and in the end in `close`. */
  async #save(): Promise<void> {
    this.#saveTimer = undefined;
    const { parts, log } = this.#options;
    await parts.save().catch((error: unknown) => log.debug({ err: error }, 'parts of a blob were not saved'));
  }
}
