import type { SpoolSpace } from '../blobs/spool.ts';
import type { Log } from '../lib/log.ts';
import { sizeText } from '../lib/units.ts';

/** The effects of a full disk. */
const CONSEQUENCES = 'stored content is served, pushes are refused, and downloads are not stored';

/** Logs once when the disk of the store has less free space than it should, and once when it has enough again. */
export class DiskWatch {
  readonly #space: Pick<SpoolSpace, 'look'>;
  readonly #log: Log;
  #problem: string | undefined;

  constructor(space: Pick<SpoolSpace, 'look'>, log: Log) {
    this.#space = space;
    this.#log = log;
  }

  /** The problem at the last check; `undefined` if there was none. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Call after eviction. */
  async look(): Promise<void> {
    const { freeBytes, minFreeBytes } = await this.#space.look();
    const wasShort = this.#problem !== undefined;
    const isShort = freeBytes === 0 || freeBytes < minFreeBytes;
    this.#problem = isShort
      ? `the disk of storage.path has ${sizeText(freeBytes)} free, less than storage.minFree ` +
        `(${sizeText(minFreeBytes)}): ${CONSEQUENCES}`
      : undefined;
    if (this.#problem !== undefined && !wasShort) {
      this.#log.error({ freeBytes, minFreeBytes }, this.#problem);
    } else if (!isShort && wasShort) {
      this.#log.info({ freeBytes, minFreeBytes }, 'the disk of storage.path has enough free space again');
    }
  }
}
