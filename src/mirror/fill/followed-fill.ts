import type { Extent } from '../../lib/extents.ts';
import { within } from '../../lib/within.ts';
import type { Digest } from '../../oci/digest.ts';
import { fillKey } from './fill-key.ts';
import { FillFollower } from './fill-follower.ts';
import type { FillWorld } from './fill-run.ts';
import { type FillRequest, FillSharing } from './fill-sharing.ts';
import { Fill } from './fill.ts';
import { heldPlace } from './further-connection.ts';
import { type Along, NEAR_MS } from './range-reader.ts';

/** How long it is followed without a reader: lazy clients ask again within seconds, and each proof is a few requests. */
const UNREAD_MS = 5_000;
/** After so long without a new byte, readers do without it: the process may be suspended, or dead. */
const STALLED_MS = 1_000;

/** How long a reader waits until upstream has proved that it may read along: some round trips. Then it does without. */
const ADMITTED_WITHIN_MS = 2_000;

/** A request for parts of a blob whose size is known. */
export type FollowRequest = FillRequest & { readonly namedSize: number };

/**
 * The Fill of another process on the store, for those who read parts of the blob here. Unlike a `FillRun` it never takes
 * over: if that process ends, it fails, and its readers request what they want themselves.
 */
export class FollowedFill {
  readonly fill: Fill;
  /** Resolves when it has ended; never rejects. */
  readonly done: Promise<void>;
  readonly #world: FillWorld;
  readonly #key: string;
  readonly #sharing: FillSharing;
  readonly #follower: FillFollower;
  readonly #stopping = new AbortController();

  constructor(world: FillWorld, digest: Digest, request: FollowRequest) {
    const { upstream } = request.repository;
    this.#world = world;
    this.#key = fillKey(upstream, digest);
    this.fill = new Fill(digest);
    this.fill.learnSize(request.namedSize);
    const parts = {
      ...world,
      key: this.#key,
      fill: this.fill,
      // It takes no connection.
      place: heldPlace(),
      log: world.log.child({ upstream, digest }),
      signal: this.#stopping.signal,
    };
    this.#sharing = new FillSharing(parts, request);
    this.#follower = new FillFollower({ ...parts, sharing: this.#sharing });
    this.done = this.#run();
  }

  /**
   * Joins as a reader of the `wanted` bytes, as soon as its right is proved, by upstream if need be. `undefined` if that
   * takes too long, or nothing can be read.
   */
  async readAlong(request: FollowRequest, wanted: readonly Extent[]): Promise<Along | undefined> {
    const { fill } = this;
    const leave = fill.hold();
    let isReadable = false;
    try {
      isReadable = await this.#begin(request, wanted);
    } finally {
      if (!isReadable) leave();
    }
    return isReadable ? { fill, leave } : undefined;
  }

  stop(reason: Error): void {
    this.#stopping.abort(reason);
  }

  /** Whether the requester is admitted within a moment, and there is something to read. */
  async #begin(request: FollowRequest, wanted: readonly Extent[]): Promise<boolean> {
    const { fill } = this;
    const { clock } = this.#world.asking;
    const contender = (await this.#sharing.join(request)) ?? this.#sharing.wait(request);
    const begun = contender.admission.then(() => fill.until(() => fill.length > 0 || undefined));
    await within(begun, ADMITTED_WITHIN_MS, clock).catch(() => {});
    if (contender.state !== 'admitted' || fill.length === 0) return false;
    // What comes soon is told by the rate, which is known at the second look.
    const isClear = () => fill.bytesPerSecond > 0 || wanted.every(({ end }) => end <= fill.readable);
    const clear = fill.until(() => isClear() || undefined);
    await within(clear, NEAR_MS, clock).catch(() => {});
    return true;
  }

  async #run(): Promise<void> {
    const { metadata } = this.#world;
    let reason: unknown = new Error('the download of another process is not followed any more');
    const progress = new Progress(this.fill);
    try {
      while (progress.isWorthIt && (await metadata.readLease(this.#key))?.isHeld === true)
        if (await this.#follower.follow()) return;
    } catch (error) {
      reason = error;
    } finally {
      this.fill.fail(reason);
      this.#sharing.refuseAll(reason);
      this.fill.end();
    }
  }
}

/** Tells whether a Fill is still being read, and still grows. */
class Progress {
  readonly #fill: Fill;
  #readAtMs = performance.now();
  #grownAtMs = performance.now();
  #length = 0;

  constructor(fill: Fill) {
    this.#fill = fill;
  }

  /** Call it again and again. */
  get isWorthIt(): boolean {
    const nowMs = performance.now();
    const { hasReaders, length, size } = this.#fill;
    if (hasReaders) this.#readAtMs = nowMs;
    if (length !== this.#length || length === size) this.#grownAtMs = nowMs;
    this.#length = length;
    return nowMs - this.#readAtMs < UNREAD_MS && nowMs - this.#grownAtMs < STALLED_MS;
  }
}
