import { randomUUID } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '../lib/atomic-file.ts';
import { absentAsUndefined, errorCode } from '../lib/error-code.ts';
import type { Log } from '../lib/log.ts';
import type { During, MetadataStore } from './metadata-store.ts';
import { hasLostWrites } from './sqlite/wal-check.ts';

/** The file of the index in the store's folder. */
export const INDEX_FILE = 'index.db';

/** The file beside the index that identifies the store and says in which state the index was left. */
export const STATE_FILE = 'store.json';

/** Always this size, so that it can be overwritten on a full disk. With every doubt, its content takes up to 300 bytes. */
const STATE_BYTES = 512;

/** The setting in the index that identifies the store. */
export const STORE_ID = 'store-id';
/** The setting in the index that says where blobs are: IN_BUCKET, or in the folder if it is absent or ''. */
export const BLOBS_IN = 'blobs-in';
export const IN_BUCKET = 'bucket';
/** The setting of a store that another one is being moved to: the id of that one; '' or absent if it is complete. */
export const MOVING_FROM = 'moving-from';
/** The setting in the index with the reason why no garbage is collected, or the state of a rebuild; '' or absent if it is. */
export const STOPPED = 'collecting-stopped';

/** Stored in place of a reason after a rebuild: it is not known which blobs are needed. */
const REBUILT = 'rebuilt';
const REBUILT_REASON = 'the index was rebuilt from the files, and does not know yet what is needed';

/** Stored until a rebuild of a lost index has ended; how far it has come follows after a space. */
const REBUILDING = 'rebuilding';
const REBUILDING_REASON =
  'the index is being rebuilt, or that was interrupted: hosted images, tags and pins are missing from it';

/** Why no garbage is collected. */
export interface CollectingStop {
  readonly reason: string;
  /** What to do about it. */
  readonly waysOut: string;
  /** The operator has caused it, and was told. */
  readonly isExpected: boolean;
}

/** The reason, and what to do about it. */
export function stopText({ reason, waysOut }: CollectingStop): string {
  return `${reason}; ${waysOut}`;
}

/** What a stored reason means. */
export function stopFor(stored: string): CollectingStop {
  // Older versions stored the sentence.
  if (stored === REBUILT || stored === REBUILT_REASON) {
    return {
      reason: REBUILT_REASON,
      waysOut:
        'run `entrepot gc --force` once everything that you need has been pulled or pushed again; it removes the rest',
      isExpected: true,
    };
  }
  if (positionIn(stored) !== undefined) {
    return {
      reason: REBUILDING_REASON,
      waysOut:
        'unless it is running, run `entrepot rebuild` again, which continues; `entrepot gc --force` would remove all that is ' +
        'missing, for good',
      isExpected: false,
    };
  }
  return {
    reason: stored,
    waysOut:
      'restore a backup (entrepot restore), or add the files to the index again (entrepot rebuild); after a rebuild, or ' +
      'without either, only `entrepot gc --force` resumes collection, and removes what the index does not know and what ' +
      'nobody has requested since',
    isExpected: false,
  };
}

interface StoreState {
  readonly id: string;
  /** A copy of the file has another one. */
  readonly inode: number;
  /** The file when the last process closed it; `undefined` while a process has it open, or after one was killed. */
  readonly closed: { readonly size: number; readonly modifiedAtMs: number } | undefined;
  /** A process is closing it, and removes the write-ahead log if it is the last. */
  readonly isClosing: boolean;
  /** What was found wrong with the file: opening it removes the evidence. Absent once the index has the reasons. */
  readonly doubts?: readonly string[];
}

export interface Doubts {
  /** The index was copied, or changed by something else: its pages may be from different moments. */
  readonly isCopied: boolean;
  /** What is certainly wrong with it. */
  readonly reasons: readonly string[];
}

/**
 * Notices when an index does not belong to the files beside it or has lost a part: it was deleted, belongs to another
 * store, was copied piecemeal, or lost its write-ahead log. Everything that it does not know then looks like garbage,
 * so collection stops, in all processes and across restarts, until the operator has decided. Serving continues.
 */
export class StoreIdentity {
  readonly #folder: string;
  readonly #indexPath: string;
  readonly #state: StoreState | undefined;
  readonly doubts: Doubts;
  #id: string | undefined;
  #isClosing = false;
  #staying: Promise<unknown> | undefined;
  /** Of the index that this process has open. */
  #inode: number | undefined;

  private constructor(folder: string, indexPath: string, state: StoreState | undefined, doubts: Doubts) {
    this.#folder = folder;
    this.#indexPath = indexPath;
    this.#state = state;
    this.doubts = doubts;
  }

  /**
   * Call before the index `indexFile` in `folder` is opened, which would hide what is missing. What is found is kept beside
   * it until `settle` has recorded it.
   */
  static async look(folder: string, indexFile: string): Promise<StoreIdentity> {
    const indexPath = join(folder, indexFile);
    const state = await readState(folder);
    const index = await absentAsUndefined(stat(indexPath));
    const wal = await absentAsUndefined(stat(`${indexPath}-wal`));
    if (index === undefined || index.size === 0) {
      return new StoreIdentity(folder, indexPath, state, { isCopied: false, reasons: [] });
    }
    const found = new Set(state?.inode === index.ino ? state.doubts : []);
    // Checked twice: another process may have opened it meanwhile.
    if ((await isLogGone(folder, indexPath)) && (await isLogGone(folder, indexPath))) {
      found.add(`${indexFile}-wal is missing, and with it the latest writes`);
    }
    if (await hasLostWrites(indexPath)) {
      found.add(`${indexFile}-wal is damaged, and what was written after the damage is lost`);
    }
    const reasons = [...found];
    const isCopied =
      state !== undefined &&
      (state.inode !== index.ino ||
        (state.closed !== undefined &&
          // If the last process only read, it leaves an empty log.
          ((wal?.size ?? 0) > 0 ||
            state.closed.size !== index.size ||
            state.closed.modifiedAtMs !== index.mtimeMs)));
    const identity = new StoreIdentity(folder, indexPath, state, { isCopied, reasons });
    if (state?.inode === index.ino && reasons.length > 0)
      await identity.#write({ ...state, doubts: reasons });
    return identity;
  }

  /**
   * Call when the index is open. `hasBlobs` returns whether there is any blob in the folder; called only if the index
   * is empty.
   */
  async settle(metadata: MetadataStore, hasBlobs: () => Promise<boolean>, log: Log): Promise<void> {
    const reasons = [...this.doubts.reasons];
    const known = await metadata.readSetting(STORE_ID);
    if (known === undefined) {
      const { blobs, manifests } = await metadata.readTotals();
      if (blobs + manifests === 0 && (await hasBlobs()))
        reasons.push('the index is new, and blobs/ is not empty');
    } else if (this.#state !== undefined && this.#state.id !== known) {
      reasons.push('the index belongs to a different store than the files beside it');
    }
    if (reasons.length > 0) await stopCollecting(metadata, reasons.join('; '));
    // Only now: an index with an id is not new to the next start.
    this.#id = known ?? (await metadata.initSetting(STORE_ID, randomUUID()));
    await reportStop(metadata, log);
    this.#inode = (await absentAsUndefined(stat(this.#indexPath)))?.ino;
    await this.#writeAs('open');
  }

  /** The id of the store. Call after `settle`. */
  get id(): string {
    if (this.#id === undefined) throw new Error('internal error: the store is not identified yet');
    return this.#id;
  }

  /**
   * Call regularly while the index is open: a process that closes it relies on the remaining ones to record that it is
   * still open. Never rejects.
   */
  async stay(): Promise<void> {
    if (this.#id === undefined || this.#isClosing) return;
    this.#staying ??= this.#writeAs('open');
    // A disk that refuses this also refuses heartbeats, which are logged.
    await this.#staying.catch(() => {});
    this.#staying = undefined;
  }

  /** Call before the index is closed, which removes its log: nobody must miss the log meanwhile, or after a crash. */
  async closing(): Promise<void> {
    this.#isClosing = true;
    await this.#staying?.catch(() => {});
    await this.#writeAs('closing');
  }

  /**
   * Call after the index was closed. Records its state for the next start, unless another process still has it open:
   * that one does this later.
   */
  async close(): Promise<void> {
    // Repeated until it is what was written: another process may have closed it meanwhile.
    while (!(await this.#isOpen()) && (await this.#writeAs('closed'))) {
      // It was in another state.
    }
  }

  async #isOpen(): Promise<boolean> {
    return (await absentAsUndefined(stat(`${this.#indexPath}-wal`))) !== undefined;
  }

  /** False if that is already written. */
  async #writeAs(as: 'open' | 'closing' | 'closed'): Promise<boolean> {
    const index = await absentAsUndefined(stat(this.#indexPath));
    // If the start failed before the store was identified, its id stays as it was.
    const id = this.#id ?? (this.doubts.reasons.length === 0 ? this.#state?.id : undefined);
    if (id === undefined || index === undefined) return false;
    // An index that another process has put in place of this one is recorded by that process.
    if (this.#inode !== undefined && this.#inode !== index.ino) return false;
    const closed = as === 'closed' ? { size: index.size, modifiedAtMs: index.mtimeMs } : undefined;
    return this.#write({ id, inode: index.ino, closed, isClosing: as === 'closing' });
  }

  async #write(state: StoreState): Promise<boolean> {
    const text = JSON.stringify(state);
    if (text === JSON.stringify(await readState(this.#folder))) return false;
    const path = join(this.#folder, STATE_FILE);
    const bytes = Buffer.from(`${text.padEnd(STATE_BYTES - 1)}\n`);
    try {
      await writeFileAtomic(path, [bytes]);
    } catch (error) {
      if (errorCode(error) !== 'ENOSPC') throw error;
      // In place, which takes no space. If a crash interrupts it, the file is invalid, and nothing is concluded from
      // it.
      const written = await absentAsUndefined(writeFile(path, bytes, { flag: 'r+' }).then(() => true));
      return written ?? false;
    }
    return true;
  }
}

/** Logs why no garbage is collected, if it is not. */
export async function reportStop(metadata: Pick<MetadataStore, 'readSetting'>, log: Log): Promise<void> {
  const stop = await whyNotCollected(metadata);
  if (stop === undefined) return;
  const { reason, waysOut, isExpected } = stop;
  log[isExpected ? 'warn' : 'error']({ reason }, `${consequenceOf(stop)}: ${waysOut}`);
}

/** What is not done, for people. */
export function consequenceOf({ isExpected }: CollectingStop): string {
  return isExpected ? 'no garbage is collected' : 'no garbage is collected, and no stored image evicted';
}

/** Why no garbage is collected; `undefined` if it is. */
export async function whyNotCollected(
  metadata: Pick<MetadataStore, 'readSetting'>,
): Promise<CollectingStop | undefined> {
  return stopOf(await metadata.readSetting(STOPPED));
}

/** Whether the index may lack something that is in the store, and nobody has dealt with it yet. */
export async function mayBeIncomplete(metadata: Pick<MetadataStore, 'readSetting'>): Promise<boolean> {
  return meansIncomplete(await metadata.readSetting(STOPPED));
}

/** The same by the value of the setting STOPPED. */
export function meansIncomplete(stopped: string | undefined): boolean {
  return stopOf(stopped)?.isExpected === false;
}

function stopOf(stored: string | undefined): CollectingStop | undefined {
  return stored === undefined || stored === '' ? undefined : stopFor(stored);
}

/**
 * The setting that says that a rebuild has dealt with what is recorded up to `position`, and does the same as a reason for
 * which no garbage is collected.
 */
export function rebuiltUpTo(position: string): { readonly name: string; readonly value: string } {
  return { name: STOPPED, value: `${REBUILDING} ${position}`.trimEnd() };
}

/** How far an unfinished rebuild has come: '' at its beginning, `undefined` if there is none. */
export async function readRebuiltUpTo(
  metadata: Pick<MetadataStore, 'readSetting'>,
): Promise<string | undefined> {
  return positionIn((await metadata.readSetting(STOPPED)) ?? '');
}

/** How far a rebuild has come that is why no garbage is collected; `undefined` if that has another reason. */
function positionIn(stored: string): string | undefined {
  const [state, position = ''] = stored.split(' ');
  return state === REBUILDING ? position : undefined;
}

/** Says that the index lacks what is stored, until a rebuild has ended. */
export function stopCollectingDuringRebuild(
  metadata: Pick<MetadataStore, 'putSetting'>,
  during?: During,
): Promise<void> {
  return metadata.putSetting(STOPPED, REBUILDING, during);
}

/** Stops garbage collection in all processes, until `resumeCollecting`. */
export function stopCollecting(metadata: MetadataStore, reason: string, during?: During): Promise<void> {
  return metadata.putSetting(STOPPED, reason, during);
}

/** The same because the index was rebuilt, also if it was stopped for another reason. */
export function stopCollectingAfterRebuild(metadata: MetadataStore, during?: During): Promise<void> {
  return metadata.putSetting(STOPPED, REBUILT, during);
}

/** Lets garbage be collected again, in all processes. */
export function resumeCollecting(metadata: MetadataStore, during?: During): Promise<void> {
  return metadata.putSetting(STOPPED, '', during);
}

/** Whether the write-ahead log is missing although no process has closed the index, or is closing it. */
async function isLogGone(folder: string, indexPath: string): Promise<boolean> {
  if ((await absentAsUndefined(stat(`${indexPath}-wal`))) !== undefined) return false;
  // Read after that, since a process that closes the index records it before.
  const state = await readState(folder);
  return state !== undefined && state.closed === undefined && !state.isClosing;
}

/** `undefined` if it is absent or not valid; it is then written again. */
async function readState(folder: string): Promise<StoreState | undefined> {
  const text = await absentAsUndefined(readFile(join(folder, STATE_FILE), 'utf8'));
  try {
    const { id, inode, closed, isClosing = false, doubts }: Partial<StoreState> = JSON.parse(text ?? '{}');
    if (typeof id !== 'string' || typeof inode !== 'number') return undefined;
    return { id, inode, closed, isClosing, ...(Array.isArray(doubts) && { doubts }) };
  } catch {
    return undefined;
  }
}
