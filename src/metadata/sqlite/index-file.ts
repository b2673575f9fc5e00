import { statSync } from 'node:fs';
import { basename } from 'node:path';
import type { Log } from '../../lib/log.ts';
import { IndexLost } from '../index-lost.ts';

/** What makes a file this one, whatever it is called. */
interface FileIdentity {
  readonly dev: number;
  readonly ino: number;
}

/**
 * The file of the index under its name, as it was when this process opened it. Looked at without the thread pool, whose
 * threads may all wait for a slow disk: neither a heartbeat nor a write may wait for them.
 */
export class IndexFile {
  readonly #path: string;
  readonly #opened: FileIdentity;
  readonly #log: Log;
  #loss: IndexLost | undefined;

  private constructor(path: string, opened: FileIdentity, log: Log) {
    this.#path = path;
    this.#opened = opened;
    this.#log = log;
  }

  /** Of the index that this process has just opened. */
  static opened(path: string, log: Log): IndexFile {
    return new IndexFile(path, statSync(path), log);
  }

  /** As of the last look. */
  get loss(): IndexLost | undefined {
    return this.#loss;
  }

  /** Looks, and says what `loss` is from now on. The log tells of each loss once. */
  look(): IndexLost | undefined {
    const now = this.#found();
    const what =
      now === undefined ? 'was removed' : this.#isOpened(now) ? undefined : 'was replaced by another file';
    if (what === undefined) {
      if (this.#loss !== undefined) this.#log.info({ path: this.#path }, 'the index is back in place');
      this.#loss = undefined;
    } else if (this.#loss === undefined) {
      // Without the folder: `/readyz` says it to anybody.
      this.#loss = new IndexLost(
        `the index ${basename(this.#path)} ${what} while this process has it open: no more writes are made. Put the same file ` +
          'back; or stop this process, then restore a backup (entrepot restore), or create a new index from the blobs ' +
          '(entrepot rebuild)',
      );
      this.#log.error({ path: this.#path }, this.#loss.message);
    }
    return this.#loss;
  }

  /** What has the name now; a look that fails says nothing. */
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
