import { randomUUID } from 'node:crypto';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '../lib/atomic-file.ts';
import { absentAsUndefined, errorCode } from '../lib/error-code.ts';
import type { Log } from '../lib/log.ts';
import type { MetadataStore } from './metadata-store.ts';
import { lostTransactions } from './sqlite/wal-check.ts';

/** Of the index, in the store's folder. */
export const INDEX_FILE = 'index.db';

/** Beside the index: which store this folder is, and how its index was left. */
export const STATE_FILE = 'store.json';

/** Always so many, so that it can be written over on a full disk. */
const STATE_BYTES = 256;

/** In the index: which store it is of. */
const STORE_ID = 'store-id';
/** In the index: why no garbage is collected; '' or nothing when it is. */
const STOPPED = 'collecting-stopped';

/** What to do about an index that cannot be trusted to know all that is held. */
export const WAYS_OUT =
  'restore a backup (entrepot restore), or add the files to the index again (entrepot rebuild); after a rebuild, or ' +
  'without either, only `entrepot gc --force` resumes collection, and what the index does not know, or nobody has ' +
  'requested since, is lost';

interface StoreState {
  readonly id: string;
  /** A copy of the file has another one. */
  readonly inode: number;
  /** As it was when the last process closed it; undefined while one has it open, and after one was killed. */
  readonly closed: { readonly size: number; readonly modifiedAtMs: number } | undefined;
  /** A process is about to close it, and takes the write-ahead log away if it is the last. */
  readonly isClosing: boolean;
}

export interface Doubts {
  /** The index was copied, or changed behind our back: its pages may be of several moments. */
  readonly isCopied: boolean;
  /** What is missing from it for certain. */
  readonly reasons: readonly string[];
}

/**
 * Notices that an index does not belong to the files beside it, or has lost a part: it was deleted, is of another store,
 * was copied piece by piece, or has lost its write-ahead log. Whatever it does not know then looks like garbage, so
 * collecting stops, for all processes and across restarts, until a person has decided; serving goes on.
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

  /** Before the index `indexFile` in `folder` is opened, which would hide what is missing. */
  static async look(folder: string, indexFile: string): Promise<StoreIdentity> {
    const indexPath = join(folder, indexFile);
    const state = await readState(folder);
    const index = await absentAsUndefined(stat(indexPath));
    const wal = await absentAsUndefined(stat(`${indexPath}-wal`));
    const reasons: string[] = [];
    if (index === undefined || index.size === 0) {
      return new StoreIdentity(folder, indexPath, state, { isCopied: false, reasons });
    }
    // Twice: another process may have opened it meanwhile.
    if ((await isLogGone(folder, indexPath)) && (await isLogGone(folder, indexPath))) {
      reasons.push(`${indexFile}-wal is missing, and with it the latest writes`);
    }
    if ((await lostTransactions(`${indexPath}-wal`)) > 0) {
      reasons.push(`${indexFile}-wal is damaged, and what was written after the damage is lost`);
    }
    const isCopied =
      state !== undefined &&
      (state.inode !== index.ino ||
        (state.closed !== undefined &&
          // A reader that was the last leaves an empty one.
          ((wal?.size ?? 0) > 0 ||
            state.closed.size !== index.size ||
            state.closed.modifiedAtMs !== index.mtimeMs)));
    return new StoreIdentity(folder, indexPath, state, { isCopied, reasons });
  }

  /** Once the index is open. `hasBlobs`: whether any blob lies in the folder; asked only for an index without content. */
  async settle(metadata: MetadataStore, hasBlobs: () => Promise<boolean>, log: Log): Promise<void> {
    const reasons = [...this.doubts.reasons];
    const known = await metadata.readSetting(STORE_ID);
    this.#id = known ?? (await metadata.initSetting(STORE_ID, randomUUID()));
    if (known === undefined) {
      const { blobs, manifests } = await metadata.readTotals();
      if (blobs + manifests === 0 && (await hasBlobs()))
        reasons.push('the index is new, and blobs/ is not empty');
    } else if (this.#state !== undefined && this.#state.id !== known) {
      reasons.push('the index belongs to a different store than the files beside it');
    }
    if (reasons.length > 0) await stopCollecting(metadata, reasons.join('; '));
    const reason = await whyNotCollected(metadata);
    if (reason !== undefined) log.error({ reason }, `no garbage is collected: ${WAYS_OUT}`);
    this.#inode = (await absentAsUndefined(stat(this.#indexPath)))?.ino;
    await this.#writeAs('open');
  }

  /**
   * Call it now and then while the index is open: who closes it beside this process leaves it to those who stay to say that
   * it is open still. Never rejects.
   */
  async stay(): Promise<void> {
    if (this.#id === undefined || this.#isClosing) return;
    this.#staying ??= this.#writeAs('open');
    // What takes nothing now takes no heartbeat either, which the log tells of.
    await this.#staying.catch(() => {});
    this.#staying = undefined;
  }

  /** Before the index is closed, which takes its log away: who looks meanwhile, or after a crash, must not miss it. */
  async closing(): Promise<void> {
    this.#isClosing = true;
    await this.#staying?.catch(() => {});
    await this.#writeAs('closing');
  }

  /**
   * After the index was closed: what is seen of it the next time, unless another process still has it open. Nothing is said
   * of one that has, which may be about to close it too.
   */
  async close(): Promise<void> {
    // Again until it is what was written: the last one may have closed it meanwhile.
    while (!(await this.#isOpen()) && (await this.#writeAs('closed'))) {
      // It was something else.
    }
  }

  async #isOpen(): Promise<boolean> {
    return (await absentAsUndefined(stat(`${this.#indexPath}-wal`))) !== undefined;
  }

  /** False when that is what is written already. */
  async #writeAs(as: 'open' | 'closing' | 'closed'): Promise<boolean> {
    const index = await absentAsUndefined(stat(this.#indexPath));
    // Where the start failed before the store was known to be this one, as it was left.
    const id = this.#id ?? (this.doubts.reasons.length === 0 ? this.#state?.id : undefined);
    if (id === undefined || index === undefined) return false;
    // Of an index that another process has put in the place of this one, that process tells.
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
      // Over the old one, which takes no room. Torn by a crash it reads as none, and nothing is said of the index then.
      const written = await absentAsUndefined(writeFile(path, bytes, { flag: 'r+' }).then(() => true));
      return written ?? false;
    }
    return true;
  }
}

/** Why no garbage is collected; `undefined` when it is. */
export async function whyNotCollected(metadata: MetadataStore): Promise<string | undefined> {
  const reason = await metadata.readSetting(STOPPED);
  return reason === undefined || reason === '' ? undefined : reason;
}

/** From now on, in every process, until `resumeCollecting`. */
export function stopCollecting(metadata: MetadataStore, reason: string): Promise<void> {
  return metadata.putSetting(STOPPED, reason);
}

export function resumeCollecting(metadata: MetadataStore): Promise<void> {
  return metadata.putSetting(STOPPED, '');
}

/** Whether the write-ahead log is missing, and nobody closes the index, or has closed it. */
async function isLogGone(folder: string, indexPath: string): Promise<boolean> {
  if ((await absentAsUndefined(stat(`${indexPath}-wal`))) !== undefined) return false;
  // Read behind it: who closes the index says so before.
  const state = await readState(folder);
  return state !== undefined && state.closed === undefined && !state.isClosing;
}

/** `undefined` when there is none, or it is none of ours: then it is written anew. */
async function readState(folder: string): Promise<StoreState | undefined> {
  const text = await absentAsUndefined(readFile(join(folder, STATE_FILE), 'utf8'));
  try {
    const { id, inode, closed, isClosing = false }: Partial<StoreState> = JSON.parse(text ?? '{}');
    if (typeof id !== 'string' || typeof inode !== 'number') return undefined;
    return { id, inode, closed, isClosing };
  } catch {
    return undefined;
  }
}
