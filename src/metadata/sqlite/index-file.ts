import { stat } from 'node:fs/promises';
import { absentAsUndefined } from '../../lib/error-code.ts';
import type { Log } from '../../lib/log.ts';
import { IndexLost } from '../index-lost.ts';

/** What makes a file this one, whatever it is called. */
interface FileIdentity {
  readonly dev: number;
  readonly ino: number;
}

/** The file of the index under its name, as it was when this process opened it. */
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
  static async opened(path: string, log: Log): Promise<IndexFile> {
    return new IndexFile(path, await stat(path), log);
  }

  /** As of the last look. */
  get loss(): IndexLost | undefined {
    return this.#loss;
  }

  /** Told once for each loss. A look that fails says nothing. */
  async look(): Promise<void> {
    const now = await absentAsUndefined(stat(this.#path)).catch(() => this.#opened);
    const what =
      now === undefined ? 'was removed' : this.#isOpened(now) ? undefined : 'was replaced by another file';
    if (what === undefined) {
      if (this.#loss !== undefined) this.#log.info({ path: this.#path }, 'the index is back in its place');
      this.#loss = undefined;
    } else if (this.#loss === undefined) {
      this.#loss = new IndexLost(
        `the index ${this.#path} ${what} while this process has it open: nothing is written any more. Put the same file ` +
          'back; or stop this process, then restore a backup (entrepot restore), or make a new index from the blobs ' +
          '(entrepot rebuild)',
      );
      this.#log.error({ path: this.#path }, this.#loss.message);
    }
  }

  #isOpened({ dev, ino }: FileIdentity): boolean {
    return dev === this.#opened.dev && ino === this.#opened.ino;
  }
}
