import { setTimeout as sleep } from 'node:timers/promises';
import { unreadableReason } from '../blobs/unreadable.ts';
import { damagedManifest } from '../metadata/manifest-check.ts';
import { everything, type SizedContent } from '../metadata/survey.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { CLOCK_SLACK_MS } from '../lib/clock.ts';
import type { RunOptions, Stores } from './stores.ts';

/** The setting with the state of the last scrub, for all processes and across restarts. */
const STATE = 'scrub';
/** A damaged page of the index may have changed the digest itself. */
const NO_DIGEST = 'its digest in the index is invalid';
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

/** Content that was found damaged. */
export interface DamagedContent extends SizedContent {
  readonly reason: string;
  /** `hosted`: it was pushed here, and has to be pushed again. `undefined`: not determined (dry run). */
  readonly loss: 'hosted' | 'mirrored' | undefined;
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
 * Reads all stored content again and compares it with its digest. Damaged content loses its row at once, so that it is
 * absent rather than wrong: mirrored content is removed, and downloaded again when it is requested; hosted content is
 * refused until it is pushed again, and its file stays, in case it can be rescued. The damage is remembered, shown and
 * counted until the content is replaced.
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
      for (const manifest of manifests) {
        await walk.report(
          manifest,
          isDigest(manifest.digest) ? 'its content does not match the digest' : NO_DIGEST,
        );
      }
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
  readonly damaged: DamagedContent[] = [];
  checked = 0;
  checkedBytes = 0;

  constructor(options: ScrubOptions, run: ScrubRun, bytesPerSecond: number) {
    this.#options = options;
    this.#run = run;
    this.#bytesPerSecond = bytesPerSecond;
  }

  async check(blob: SizedContent): Promise<void> {
    this.#run.signal?.throwIfAborted();
    const startedAtMs = performance.now();
    const reason = await this.#faultOf(blob.digest, bytes => this.tell(bytes));
    if (reason !== undefined) {
      await this.report(blob, reason);
    }
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

  async report(content: SizedContent, reason: string): Promise<void> {
    if (this.#run.dryRun === true) {
      this.#add({ ...content, reason, loss: undefined });
      return;
    }
    const loss = await this.#quarantine(content, reason);
    if (loss === undefined) {
      return;
    }
    const { log, meter } = this.#options;
    this.#add({ ...content, reason, loss });
    meter.count('scrub_damaged_total', { source: loss });
    if (this.#run.onDamaged !== undefined) return;
    const { kind, digest } = content;
    if (loss === 'hosted') {
      log.error({ kind, digest, reason }, 'pushed content is damaged and will be refused: push it again');
    } else {
      log.warn(
        { kind, digest, reason },
        'mirrored content was damaged; it is downloaded again when it is requested',
      );
    }
  }

  #add(damaged: DamagedContent): void {
    this.damaged.push(damaged);
    this.#run.onDamaged?.(damaged);
  }

  /**
   * Checks a second time what is there when the row is removed: a push may have replaced the file after the first
   * check.
   */
  async #quarantine({ kind, digest }: SizedContent, reason: string): Promise<DamagedContent['loss']> {
    const { metadata, blobs } = this.#options;
    if (!isDigest(digest)) return metadata.quarantine({ kind, digest }, reason);
    if (kind === 'manifest') return metadata.quarantine({ kind, digest }, reason, damagedManifest(digest));
    const removal = await blobs.removal(digest);
    if ((await this.#faultOf(digest)) === undefined) {
      return undefined;
    }
    let free: (() => Promise<void>) | undefined;
    const loss = await metadata.quarantine({ kind, digest }, reason, {
      key: removal.key,
      isSame: () => removal.isSame(),
      takeAway: () => {
        free ??= removal.takeAway();
      },
    });
    await free?.();
    return loss;
  }

  /** What is wrong with the blob; `undefined` if nothing is. Throws a failure that is not the blob's own damage. */
  async #faultOf(digest: Digest, onProgress?: (bytes: number) => void): Promise<string | undefined> {
    if (!isDigest(digest)) {
      return NO_DIGEST;
    }
    try {
      const { signal } = this.#run;
      const actual = await this.#options.blobs.rehash(digest, {
        bytesPerSecond: this.#bytesPerSecond,
        ...(signal && { signal }),
        ...(onProgress && { onProgress }),
      });
      if (actual === undefined) {
        const hasRow = (await this.#options.metadata.statBlob(digest)) !== undefined;
        return hasRow ? 'its file is missing' : undefined;
      }
      return actual === digest ? undefined : `its content has the digest ${actual}`;
    } catch (error) {
      const reason = unreadableReason(error);
      if (reason === undefined) {
        throw error;
      }
      return reason;
    }
  }
}
