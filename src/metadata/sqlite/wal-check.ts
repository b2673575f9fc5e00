import { readFile } from 'node:fs/promises';
import { absentAsUndefined } from '../../lib/error-code.ts';
import { Connection } from './connection.ts';

// The format is described in SQLite's "WAL-mode File Format", which will not change.
const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
const MAGIC = 0x377f0682;
/** In a database header, whose field has two bytes, this size is written as 1; here the field has four. */
const MAX_PAGE_BYTES = 65_536;
/** More than the log of our index ever becomes (`journal_size_limit` plus a burst): a larger one is not checked. */
const MAX_LOOKED_AT_BYTES = 256 * 1024 * 1024;

/** The trees of the tables whose commits nothing waits for (`WriteOptions`). */
const UNSYNCED_TREES = [
  'processes',
  'leases',
  'leases_by_process',
  'sqlite_autoindex_leases_1',
  'sqlite_sequence',
];

/** The numbers of the pages that a transaction changed. */
type ChangedPages = ReadonlySet<number>;

/**
 * Whether SQLite will ignore an acknowledged write, because of damage before it in the log of the index in the file
 * `indexPath`. SQLite reads up to the first frame with a wrong checksum and silently ignores what follows. Call before
 * anything opens the index, which continues the log at that frame.
 *
 * A power failure causes the like, and is no damage: the last transaction may be incomplete, and those of Leases and
 * heartbeats, which nobody waits for, may be written in any order.
 */
export async function hasLostWrites(indexPath: string): Promise<boolean> {
  const path = `${indexPath}-wal`;
  let lost = await lostTransactions(path);
  if (lost.length <= 1) return false;
  // Another process may have written during the first read.
  const again = await lostTransactions(path);
  if (again.length < lost.length) lost = again;
  if (lost.length <= 1) return false;
  const unsynced = await unsyncedPages(indexPath);
  // Only the last one can have been waiting for its sync.
  return lost.slice(0, -1).some(pages => [...pages].some(page => !unsynced.has(page)));
}

/** Those transactions that follow the first damaged frame, or contain it. */
async function lostTransactions(path: string): Promise<readonly ChangedPages[]> {
  const log = await absentAsUndefined(readFile(path));
  if (log === undefined || log.length <= HEADER_BYTES || log.length > MAX_LOOKED_AT_BYTES) return [];
  const magic = log.readUInt32BE(0);
  const pageBytes = log.readUInt32BE(8);
  if ((magic & ~1) >>> 0 !== MAGIC || pageBytes < 512 || pageBytes > MAX_PAGE_BYTES) return [];
  const sum = new Checksum((magic & 1) === 1);
  const isHeaderSound = sum.add(log.subarray(0, 24)).equals(log.readUInt32BE(24), log.readUInt32BE(28));
  const salts = log.subarray(16, 24);
  let isSound = isHeaderSound;
  const lost: ChangedPages[] = [];
  let changed = new Set<number>();
  for (let at = HEADER_BYTES; at + FRAME_HEADER_BYTES + pageBytes <= log.length; ) {
    const end = at + FRAME_HEADER_BYTES + pageBytes;
    // If not, it is from before the log was restarted.
    const isCurrent = log.subarray(at + 8, at + 16).equals(salts);
    if (!isCurrent && isSound) break;
    if (isCurrent) {
      if (isSound) {
        sum.add(log.subarray(at, at + 8)).add(log.subarray(at + FRAME_HEADER_BYTES, end));
        isSound = sum.equals(log.readUInt32BE(at + 16), log.readUInt32BE(at + 20));
      }
      changed.add(log.readUInt32BE(at));
      const isCommit = log.readUInt32BE(at + 4) !== 0;
      if (isCommit) {
        if (!isSound) lost.push(changed);
        changed = new Set();
      }
    }
    at = end;
  }
  return lost;
}

/** The pages of `UNSYNCED_TREES`; none if the index cannot be read. */
async function unsyncedPages(indexPath: string): Promise<ChangedPages> {
  try {
    // Without changing it: what SQLite ignores stays in the log.
    const index = await Connection.openReadOnly(indexPath);
    try {
      const select = index.prepare<[string], { pageno: number }>('SELECT pageno FROM dbstat WHERE name = ?');
      return new Set(UNSYNCED_TREES.flatMap(tree => select.all(tree).map(({ pageno }) => pageno)));
    } finally {
      index.close();
    }
  } catch {
    return new Set();
  }
}

/** Over pairs of 32-bit words, as the format defines it. */
class Checksum {
  readonly #isBigEndian: boolean;
  #first = 0;
  #second = 0;

  constructor(isBigEndian: boolean) {
    this.#isBigEndian = isBigEndian;
  }

  add(bytes: Buffer): this {
    for (let at = 0; at < bytes.length; at += 8) {
      this.#first = (this.#first + this.#word(bytes, at) + this.#second) >>> 0;
      this.#second = (this.#second + this.#word(bytes, at + 4) + this.#first) >>> 0;
    }
    return this;
  }

  equals(first: number, second: number): boolean {
    return this.#first === first && this.#second === second;
  }

  #word(bytes: Buffer, at: number): number {
    return this.#isBigEndian ? bytes.readUInt32BE(at) : bytes.readUInt32LE(at);
  }
}
