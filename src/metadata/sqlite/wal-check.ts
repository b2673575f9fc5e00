import { readFile } from 'node:fs/promises';
import { absentAsUndefined } from '../../lib/error-code.ts';

// The format is described in SQLite's "WAL-mode File Format", which will not change.
const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
const MAGIC = 0x377f0682;
/** In a database header, whose field has two bytes, this size is written as 1; here the field has four. */
const MAX_PAGE_BYTES = 65_536;
/** More than the log of our index ever becomes (`journal_size_limit` plus a burst): a larger one is not checked. */
const MAX_LOOKED_AT_BYTES = 256 * 1024 * 1024;

/**
 * How many transactions in the write-ahead log in `path` SQLite will ignore because of damage before them; 0 if the log
 * is sound or does not exist. SQLite reads up to the first frame with a wrong checksum and silently ignores what
 * follows. An incomplete last transaction is not counted: a power failure may cause it, and it was not acknowledged.
 */
export async function lostTransactions(path: string): Promise<number> {
  const lost = await countLost(path);
  // Another process may have written during the first read.
  return lost === 0 ? 0 : Math.min(lost, await countLost(path));
}

async function countLost(path: string): Promise<number> {
  const log = await absentAsUndefined(readFile(path));
  if (log === undefined || log.length <= HEADER_BYTES || log.length > MAX_LOOKED_AT_BYTES) return 0;
  const magic = log.readUInt32BE(0);
  const pageBytes = log.readUInt32BE(8);
  if ((magic & ~1) >>> 0 !== MAGIC || pageBytes < 512 || pageBytes > MAX_PAGE_BYTES) return 0;
  const sum = new Checksum((magic & 1) === 1);
  const isHeaderSound = sum.add(log.subarray(0, 24)).equals(log.readUInt32BE(24), log.readUInt32BE(28));
  const salts = log.subarray(16, 24);
  let isSound = isHeaderSound;
  let lost = 0;
  for (let at = HEADER_BYTES; at + FRAME_HEADER_BYTES + pageBytes <= log.length; ) {
    const end = at + FRAME_HEADER_BYTES + pageBytes;
    // What follows is from before the log was restarted.
    if (!log.subarray(at + 8, at + 16).equals(salts)) {
      if (isSound) break;
    } else if (isSound) {
      sum.add(log.subarray(at, at + 8)).add(log.subarray(at + FRAME_HEADER_BYTES, end));
      isSound = sum.equals(log.readUInt32BE(at + 16), log.readUInt32BE(at + 20));
    }
    const isCommit = log.readUInt32BE(at + 4) !== 0;
    if (!isSound && isCommit && log.subarray(at + 8, at + 16).equals(salts)) lost += 1;
    at = end;
  }
  // Of the commits that wait for their sync, only the last can be incomplete after a power failure. Those of Leases and
  // heartbeats do not wait: if the disk has written several of them in another order, nothing that counts is lost, but it
  // looks like damage.
  return lost > 1 ? lost : 0;
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
