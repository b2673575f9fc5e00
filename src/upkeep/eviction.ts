import { everything, type SizedContent } from '../metadata/survey.ts';
import { removeContents } from './removal.ts';
import { Counter, type RunOptions, type Stores, type Tally } from './stores.ts';

/** Once it begins it makes this much room, so that it does not begin again with the next blob. */
const LOW_WATER_MARK = 0.9;

export interface EvictionOptions extends Stores {
  /** Of blobs and manifests together. `undefined`: no limit. */
  readonly maxBytes: number | undefined;
}

export interface EvictionRun extends RunOptions {
  /** In a dry run: what would have gone by now, so that so much less has to go for its being too much. */
  readonly asIfFreedBytes?: number;
}

export interface EvictionReport extends Tally {
  /** What is held now, or would be. */
  readonly heldBytes: number;
  /** More than the limit is left, and nothing else may go. */
  readonly isStuck: boolean;
}

/**
 * Keeps the store under its limit: when more is held, mirrored content goes, the least recently used first, down to the
 * low water mark. Links stay, so what is asked for again is downloaded without being proved again. What lives here, is
 * pinned, is being worked on, or is linked nowhere yet is never taken; and nothing that is being read, since that
 * would free nothing.
 */
export class Eviction {
  readonly #options: EvictionOptions;

  constructor(options: EvictionOptions) {
    this.#options = options;
  }

  /** One look-up: whether more is held than may be. */
  async isDue(): Promise<boolean> {
    const { maxBytes } = this.#options;
    return maxBytes !== undefined && (await this.#heldBytes()) > maxBytes;
  }

  async run(run: EvictionRun = {}): Promise<EvictionReport> {
    const { survey, maxBytes = Number.POSITIVE_INFINITY } = this.#options;
    const counter = new Counter('least recently used', run);
    const heldBytes = (await this.#heldBytes()) - (run.asIfFreedBytes ?? 0);
    const excessBytes = heldBytes > maxBytes ? heldBytes - maxBytes * LOW_WATER_MARK : 0;
    // What is used while this runs is in use.
    const sinceMs = Date.now();
    if (excessBytes > 0) {
      for await (const contents of everything(after => survey.evictable(sinceMs, after))) {
        run.signal?.throwIfAborted();
        await this.#evict(contents, excessBytes, { counter, sinceMs, run });
        if (counter.bytes >= excessBytes) {
          break;
        }
      }
    }
    const leftBytes = run.dryRun === true ? heldBytes - counter.bytes : await this.#heldBytes();
    return { ...counter.tally, heldBytes: leftBytes, isStuck: leftBytes > maxBytes };
  }

  async #evict(
    contents: readonly SizedContent[],
    excessBytes: number,
    { counter, sinceMs, run }: { counter: Counter; sinceMs: number; run: RunOptions },
  ): Promise<void> {
    const { rows, blobs, meter } = this.#options;
    const free = contents.filter(({ kind, digest }) => kind === 'manifest' || !blobs.hasReaders(digest));
    if (run.dryRun === true) {
      counter.add(enoughOf(free, excessBytes - counter.bytes));
      return;
    }
    await removeContents(this.#options, free, {
      removeRows: step => rows.evict(step, sinceMs),
      choose: step => enoughOf(step, excessBytes - counter.bytes),
      onRemoved: removed => {
        const before = counter.bytes;
        counter.add(removed);
        meter.count('upkeep_freed_bytes_total', { by: 'eviction' }, counter.bytes - before);
      },
      signal: run.signal,
    });
  }

  async #heldBytes(): Promise<number> {
    const { blobBytes, manifestBytes } = await this.#options.metadata.readTotals();
    return blobBytes + manifestBytes;
  }
}

/** As many from the front as make up `bytes`. */
function enoughOf(contents: readonly SizedContent[], bytes: number): readonly SizedContent[] {
  let sum = 0;
  return contents.filter(({ size }) => {
    const isWanted = sum < bytes;
    sum += size;
    return isWanted;
  });
}
