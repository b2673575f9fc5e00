import { type FSWatcher, watch } from 'node:fs';
import { stat } from 'node:fs/promises';
import { type Clock, systemClock, type Timer } from '../lib/clock.ts';
import { errorCode } from '../lib/error-code.ts';
import type { Log } from '../lib/log.ts';

/** Replacing a mounted Secret causes several changes within some milliseconds. */
const DEBOUNCE_MS = 100;

/**
 * A watcher ends with its folder and does not notice when that is created again, so everything is checked this often.
 */
const RESCAN_MS = 10_000;

/**
 * Reads again what depends on the `changed` folders, or everything if it is `undefined`; returns all folders to watch.
 */
export type ReadFolders = (changed: ReadonlySet<string> | undefined) => Promise<Iterable<string>>;

/**
 * Calls a `ReadFolders` at the start, soon after a change in one of its folders, and regularly; never twice at a time.
 */
export class FolderWatch {
  readonly #read: ReadFolders;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #watched = new Map<string, { readonly watcher: FSWatcher; readonly identity: string }>();
  #changed = new Set<string>();
  #rescanAtMs = 0;
  #timer: Timer | undefined;
  #turn: Promise<void> | undefined;
  #isClosed = false;
  #isBlind = false;

  /** `clock`: the system's by default. */
  constructor(read: ReadFolders, log: Log, clock: Clock = systemClock) {
    this.#read = read;
    this.#log = log;
    this.#clock = clock;
  }

  /** Resolves when everything was read once. */
  async start(): Promise<void> {
    await this.#begin();
  }

  /** Reads everything again; resolves when that is done. */
  async again(): Promise<void> {
    // A turn in progress may have read the old state.
    while (this.#turn !== undefined) await this.#turn;
    if (this.#isClosed) return;
    this.#rescanAtMs = 0;
    this.#timer?.cancel();
    await this.#begin();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#timer?.cancel();
    await this.#turn;
    for (const folder of this.#watched.keys()) this.#unwatch(folder);
  }

  #begin(): Promise<void> {
    this.#timer = undefined;
    this.#turn = this.#look().finally(() => {
      this.#turn = undefined;
      this.#rest();
    });
    return this.#turn;
  }

  async #look(): Promise<void> {
    const isRescan = this.#clock.monotonicMs() >= this.#rescanAtMs;
    const changed = this.#changed;
    this.#changed = new Set();
    try {
      const folders = new Set(await this.#read(isRescan ? undefined : changed));
      await this.#follow(folders, isRescan ? folders : changed);
    } catch (error) {
      this.#log.error({ err: error }, 'watched folders could not be read');
    }
    if (isRescan) this.#rescanAtMs = this.#clock.monotonicMs() + RESCAN_MS;
  }

  /** Waits for the next change or the next rescan. */
  #rest(): void {
    if (this.#isClosed || this.#turn !== undefined) return;
    this.#timer?.cancel();
    const rescanInMs = Math.max(0, Math.ceil(this.#rescanAtMs - this.#clock.monotonicMs()));
    const delayMs = this.#changed.size > 0 ? DEBOUNCE_MS : rescanInMs;
    this.#timer = this.#clock.after(delayMs, () => void this.#begin()).unref();
  }

  #note(folder: string): void {
    // Only the first change of several starts the delay: later ones must not prolong it for ever.
    const isFirst = this.#changed.size === 0;
    this.#changed.add(folder);
    if (isFirst) this.#rest();
  }

  /** Watches exactly `folders`. The watchers of `suspects` may have ended with their folder. */
  async #follow(folders: ReadonlySet<string>, suspects: ReadonlySet<string>): Promise<void> {
    for (const folder of this.#watched.keys()) {
      if (!folders.has(folder)) this.#unwatch(folder);
    }
    for (const folder of folders) {
      const watched = this.#watched.get(folder);
      if (watched !== undefined && !suspects.has(folder)) continue;
      const identity = await identityOf(folder);
      if (watched !== undefined && watched.identity !== identity) this.#unwatch(folder);
      if (identity !== undefined && !this.#watched.has(folder)) this.#watch(folder, identity);
    }
  }

  #watch(folder: string, identity: string): void {
    try {
      const watcher = watch(folder, { persistent: false }, () => this.#note(folder));
      watcher.on('error', () => this.#unwatch(folder));
      this.#watched.set(folder, { watcher, identity });
      // It may have changed between being read and being watched.
      this.#note(folder);
    } catch (error) {
      if (this.#isBlind || errorCode(error) === 'ENOENT') return;
      this.#isBlind = true;
      this.#log.warn(
        { err: error, folder },
        `a folder cannot be watched: changes are seen within ${RESCAN_MS / 1000} s`,
      );
    }
  }

  #unwatch(folder: string): void {
    this.#watched.get(folder)?.watcher.close();
    this.#watched.delete(folder);
  }
}

/** Distinguishes a folder from a later one with the same name, which may have the same inode. */
async function identityOf(folder: string): Promise<string | undefined> {
  try {
    const { dev, ino, birthtimeNs } = await stat(folder, { bigint: true });
    return [dev, ino, birthtimeNs].join();
  } catch {
    return undefined;
  }
}
