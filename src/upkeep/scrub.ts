import { setTimeout as sleep } from 'node:timers/promises';
import type { RehashOptions } from '../blobs/blob-store.ts';
import { FORBIDDEN } from '../blobs/unreadable.ts';
import { everything, type SizedContent } from '../metadata/survey.ts';
import { CLOCK_SLACK_MS } from '../lib/clock.ts';
import { type DamagedContent, Quarantine } from './quarantine.ts';
import type { RunOptions, Stores } from './stores.ts';

/** The setting with the state of the last scrub, for all processes and across restarts. */
const STATE = 'scrub';
/** How much is read again after a crash: the state is written once a minute. */
const SAVE_MS = 60_000;

export interface ScrubOptions extends Stores {
  /** The maximum rate of reading, so that other users of the disk do not notice. */
  readonly bytesPerSecond: number;
}

/** The result of a scrub. */
export interface ScrubReport {
  /** Blobs and manifests that were checked. */
  readonly checked: number;
  readonly checkedBytes: number;
  /** What was damaged. */
  readonly damaged: readonly DamagedContent[];
}

export interface ScrubRun extends RunOptions {
  /** Continues where the last one was interrupted. */
  readonly resume?: boolean;
  /** Overrides the rate of the options. */
  readonly bytesPerSecond?: number;
  /**
   * Called for each damage when it is found, since a scrub may be stopped before it can return. Reports it instead of
   * the log.
   */
  readonly onDamaged?: (content: DamagedContent) => void;
}

interface State {
  /** The last digest that was checked; '' between two scrubs. */
  readonly after: string;
  readonly finishedAtMs: number;
}

/**
 * Reads all stored content again, compares it with its digest, and quarantines at once what is damaged. Files that may not
 * be read are reported and stay in use: a `chown` by mistake would otherwise be the end of all content.
 */
export class Scrub {
  readonly #options: ScrubOptions;

  constructor(options: ScrubOptions) {
    this.#options = options;
  }

  /**
   * When the last scrub finished; 0 for never, and for a time in the future, which a wrong clock must have recorded. An
   * interrupted scrub continues where it stopped.
   */
  async finishedAtMs(): Promise<number> {
    const { finishedAtMs } = await this.#state();
    return finishedAtMs > Date.now() + CLOCK_SLACK_MS ? 0 : finishedAtMs;
  }

  async run(run: ScrubRun = {}): Promise<ScrubReport> {
    const { survey } = this.#options;
    const state = await this.#state();
    const walk = new Walk(this.#options, run, run.bytesPerSecond ?? this.#options.bytesPerSecond);
    let savedAtMs = performance.now();
    const start = run.resume === true ? state.after : '';
    // The first blob may take minutes.
    walk.tell();
    for await (const blobs of everything(after => survey.blobs(after ?? start))) {
      for (const blob of blobs) {
        await walk.check(blob);
        if (run.resume === true && performance.now() - savedAtMs > SAVE_MS) {
          savedAtMs = performance.now();
          await this.#save({ ...state, after: blob.digest });
        }
      }
    }
    for await (const manifests of everything(after => survey.damagedManifests(after))) {
      for (const manifest of manifests) await walk.reportManifest(manifest);
    }
    if (run.dryRun !== true) {
      await this.#save({ after: '', finishedAtMs: Date.now() });
    }
    return walk;
  }

  async #state(): Promise<State> {
    const text = await this.#options.metadata.readSetting(STATE);
    return text === undefined ? { after: '', finishedAtMs: 0 } : JSON.parse(text);
  }

  #save(state: State): Promise<void> {
    return this.#options.metadata.putSetting(STATE, JSON.stringify(state));
  }
}

/** One pass. */
class Walk implements ScrubReport {
  readonly #options: ScrubOptions;
  readonly #run: ScrubRun;
  readonly #bytesPerSecond: number;
  readonly #quarantine: Quarantine;
  readonly damaged: DamagedContent[] = [];
  checked = 0;
  checkedBytes = 0;

  constructor(options: ScrubOptions, run: ScrubRun, bytesPerSecond: number) {
    this.#options = options;
    this.#run = run;
    this.#bytesPerSecond = bytesPerSecond;
    this.#quarantine = new Quarantine(options);
  }

  async check(blob: SizedContent): Promise<void> {
    this.#run.signal?.throwIfAborted();
    const startedAtMs = performance.now();
    const onProgress = (bytes: number): void => this.tell(bytes);
    const reason = await this.#quarantine.faultOf(blob.digest, { ...this.#read, onProgress });
    if (reason !== undefined) await this.#report(blob, reason);
    this.checked += 1;
    this.checkedBytes += blob.size;
    this.#options.meter.count('scrub_checked_bytes_total', {}, blob.size);
    this.tell();
    // Small blobs must keep to the rate, too.
    const dueMs = startedAtMs + (blob.size / this.#bytesPerSecond) * 1000;
    await sleep(Math.max(1, dueMs - performance.now()), undefined, { signal: this.#run.signal });
  }

  /** Reports progress; `bytes` of a blob that is not completely checked yet. */
  tell(bytes = 0): void {
    this.#run.onProgress?.({ step: 'blobs checked', items: this.checked, bytes: this.checkedBytes + bytes });
  }

  async reportManifest(manifest: SizedContent): Promise<void> {
    await this.#report(manifest, this.#quarantine.faultOfManifest(manifest.digest));
  }

  async #report(content: SizedContent, reason: string): Promise<void> {
    if (this.#run.dryRun === true || reason === FORBIDDEN)
      return this.#add({ ...content, reason, loss: undefined });
    const loss = await this.#quarantine.add(content, reason, this.#read);
    if (loss !== undefined) this.#add({ ...content, reason, loss });
  }

  #add(damaged: DamagedContent): void {
    this.damaged.push(damaged);
    if (this.#run.onDamaged !== undefined) this.#run.onDamaged(damaged);
    else if (this.#run.dryRun !== true) this.#quarantine.logLoss(damaged);
  }

  get #read(): RehashOptions {
    const { signal } = this.#run;
    return { bytesPerSecond: this.#bytesPerSecond, ...(signal && { signal }) };
  }
}
