import type { Clock, Timer } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import { IndexAway } from '../metadata/index-away.ts';
import { IndexLost } from '../metadata/index-lost.ts';
import type { DiskWatch } from './disk-watch.ts';
import type { Upkeep } from './upkeep.ts';

/** How often the total is checked, which is one row: the store may exceed its limit by what arrives in between. */
const EVICTION_POLL_MS = 5_000;
/** How far records of hosted images may be behind the index, if they can be kept. */
const RECORDS_POLL_MS = 5_000;
/**
 * How soon a server begins a scrub that was due before it started: not at once, since its nodes may be starting, too.
 */
const OVERDUE_SCRUB_WITHIN_MS = 3_600_000;
/** The longest timeout of a timer (2^31 - 1 ms); longer ones take several. */
const MAX_TIMER_MS = 2_147_483_647;

export interface ScheduleOptions {
  readonly upkeep: Upkeep;
  readonly disk: DiskWatch;
  readonly clock: Clock;
  readonly log: Log;
  /** Infinity for never. */
  readonly collectIntervalMs: number;
  /** Infinity for never. */
  readonly scrubIntervalMs: number;
}

/**
 * Runs upkeep in a server. Each kind waits from the end of its last run, with some jitter between processes. Timers do
 * not keep the process alive. A run that fails is logged, and tried again when it is next due.
 */
export class Schedule {
  readonly #options: ScheduleOptions;
  readonly #stopping = new AbortController();
  readonly #timers = new Map<string, Timer>();
  readonly #running = new Set<Promise<void>>();
  #isStuck = false;
  #areRecordsLate = false;

  constructor(options: ScheduleOptions) {
    this.#options = options;
  }

  /** Starts the timers. The first collection comes within an interval; an overdue scrub within an hour. */
  async begin(): Promise<void> {
    const { upkeep, disk, clock, collectIntervalMs, scrubIntervalMs } = this.#options;
    await disk.look();
    const scrubDueMs = (await upkeep.scrubbedAtMs()) + scrubIntervalMs - clock.nowMs();
    this.#wait('eviction', EVICTION_POLL_MS * Math.random(), EVICTION_POLL_MS, () => this.#keepRoom());
    this.#wait('collection', collectIntervalMs * Math.random(), collectIntervalMs, () => this.#collect());
    this.#wait('records', RECORDS_POLL_MS * Math.random(), RECORDS_POLL_MS, () => this.#keepRecords());
    const overdueMs = Math.min(OVERDUE_SCRUB_WITHIN_MS, scrubIntervalMs) * Math.random();
    this.#wait('scrub', Math.max(scrubDueMs, overdueMs), scrubIntervalMs, () => this.#scrub());
  }

  /** Stops what is running between two steps, and waits for it. */
  async close(): Promise<void> {
    this.#stopping.abort(new Error('upkeep is stopping'));
    for (const timer of this.#timers.values()) timer.cancel();
    await Promise.all(this.#running);
  }

  #wait(name: string, delayMs: number, intervalMs: number, work: () => Promise<void>): void {
    if (this.#stopping.signal.aborted || delayMs === Number.POSITIVE_INFINITY || Number.isNaN(delayMs)) {
      return;
    }
    const fire = () => {
      if (delayMs > MAX_TIMER_MS) {
        this.#wait(name, delayMs - MAX_TIMER_MS, intervalMs, work);
        return;
      }
      const running = this.#attempt(name, work).finally(() => {
        this.#running.delete(running);
        this.#wait(name, intervalMs * (0.9 + 0.2 * Math.random()), intervalMs, work);
      });
      this.#running.add(running);
    };
    const timer = this.#options.clock.after(Math.min(delayMs, MAX_TIMER_MS), fire);
    this.#timers.set(name, timer.unref());
  }

  async #attempt(name: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (this.#isReported(error)) return;
      this.#options.log.error({ err: error }, `${name} failed and will be retried`);
    }
  }

  /** What is wrong with the index is reported by others, once. */
  #isReported(error: unknown): boolean {
    return this.#stopping.signal.aborted || error instanceof IndexAway || error instanceof IndexLost;
  }

  async #keepRoom(): Promise<void> {
    try {
      await this.#evict();
    } finally {
      await this.#options.disk.look();
    }
  }

  async #evict(): Promise<void> {
    const { upkeep, log } = this.#options;
    if (!(await upkeep.needsEviction())) {
      this.#isStuck = false;
      return;
    }
    const report = await upkeep.evict({ signal: this.#stopping.signal });
    if (report === undefined) {
      return;
    }
    if (report.items > 0) {
      log.info({ items: report.items, bytes: report.bytes }, 'evicted content to make room');
    }
    // `DiskWatch` reports a lack of disk space.
    const isStuck = report.stuckAt === 'maxBytes';
    if (isStuck && !this.#isStuck) {
      log.warn(
        { heldBytes: report.heldBytes },
        'the store exceeds storage.maxBytes, and the rest is pinned, hosted, in use, kept until garbage is collected, ' +
          'or kept while the index may be incomplete',
      );
    }
    this.#isStuck = isStuck;
  }

  async #collect(): Promise<void> {
    const { upkeep, log } = this.#options;
    const report = await upkeep.collect({ signal: this.#stopping.signal });
    if (report !== undefined) {
      const { uploads, unfinished, manifests, blobs, strays } = report;
      const tallies = [uploads, unfinished, manifests, blobs, strays];
      const bytes = tallies.reduce((sum, tally) => sum + tally.bytes, 0);
      log.info(
        { uploads: uploads.items, manifests: manifests.items, blobs: blobs.items, bytes },
        'garbage was collected',
      );
    }
  }

  /** While the bucket is away, it is tried in vain each time. */
  async #keepRecords(): Promise<void> {
    const { upkeep, log } = this.#options;
    try {
      if (await upkeep.areRecordsDue()) await upkeep.keepRecords({ signal: this.#stopping.signal });
      this.#areRecordsLate = false;
    } catch (error) {
      if (this.#isReported(error)) return;
      if (!this.#areRecordsLate) {
        log.warn(
          { err: error },
          'records of hosted images could not be kept beside the blobs and will be retried',
        );
      }
      this.#areRecordsLate = true;
    }
  }

  async #scrub(): Promise<void> {
    const { upkeep, log } = this.#options;
    const report = await upkeep.scrub({ signal: this.#stopping.signal, resume: true });
    if (report !== undefined) {
      const { checked, checkedBytes, damaged } = report;
      log.info({ checked, bytes: checkedBytes, damaged: damaged.length }, 'all stored content was verified');
    }
  }
}
