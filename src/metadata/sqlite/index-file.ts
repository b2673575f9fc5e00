import { statSync } from 'node:fs';
import { basename } from 'node:path';
import type { Log } from '../../lib/log.ts';
import { IndexLost } from '../index-lost.ts';

/** What can happen to the file under the index's name, and what to do then. */
const LOSSES = {
  'was removed':
    'Put the same file back; or stop this process, then restore a backup (entrepot restore), or create a new index ' +
    'from the blobs (entrepot rebuild)',
  'was replaced by another file':
    'Restart this process, so that it uses the new one, as after `entrepot rebuild` or `restore`; or put the same file ' +
    'back',
} as const;

/** Identifies a file independently of its name. */
interface FileIdentity {
  readonly dev: number;
  readonly ino: number;
}

/**
 * Checks whether the file under the index's name is still the one that this process has open. Synchronous, without the
 * thread pool, whose threads may all be waiting for a slow disk: heartbeats and writes must not wait for them.
 */
export class IndexFile {
  readonly #path: string;
  readonly #opened: FileIdentity;
  readonly #log: Log;
  #happened: keyof typeof LOSSES | undefined;
  #loss: IndexLost | undefined;

  private constructor(path: string, opened: FileIdentity, log: Log) {
    this.#path = path;
    this.#opened = opened;
    this.#log = log;
  }

  /** For the index that this process has just opened. */
  static opened(path: string, log: Log): IndexFile {
    return new IndexFile(path, statSync(path), log);
  }

  /** The result of the last check. */
  get loss(): IndexLost | undefined {
    return this.#loss;
  }

  /** Checks, and returns the new value of `loss`. Logs each change once. */
  look(): IndexLost | undefined {
    const happened = this.#look();
    if (happened === this.#happened) return this.#loss;
    this.#happened = happened;
    if (happened === undefined) {
      this.#loss = undefined;
      this.#log.info({ path: this.#path }, 'the index is back in place');
    } else {
      // Without the folder, since `/readyz` shows it to anybody.
      const what = `the index ${basename(this.#path)} ${happened} while this process has it open`;
      this.#loss = new IndexLost(`${what}: no more writes are made. ${LOSSES[happened]}`);
      this.#log.error({ path: this.#path }, this.#loss.message);
    }
    return this.#loss;
  }

  #look(): keyof typeof LOSSES | undefined {
    const now = this.#found();
    if (now === undefined) return 'was removed';
    return this.#isOpened(now) ? undefined : 'was replaced by another file';
  }

  /** The file that has the name now; if that cannot be checked, the one that had it. */
  #found(): FileIdentity | undefined {
    try {
      return statSync(this.#path, { throwIfNoEntry: false });
    } catch {
      return this.#opened;
    }
  }

  #isOpened({ dev, ino }: FileIdentity): boolean {
    return dev === this.#opened.dev && ino === this.#opened.ino;
  }
}
