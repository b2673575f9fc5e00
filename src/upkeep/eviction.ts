import type { FoundIngest } from '../blobs/spool.ts';
import { settleUses } from './clock.ts';
import { everything, type SizedContent } from '../metadata/survey.ts';
import { removeContents } from './removal.ts';
import { Counter, type Ingests, type RunOptions, type Stores, type Tally } from './stores.ts';
import { abandonIngest } from './unfinished.ts';

/** Once it begins it makes this much room, so that it does not begin again with the next blob. */
const LOW_WATER_MARK = 0.9;
/** How often all ingests are counted: in between the store knows of its own, and not of what another process writes. */
const COUNT_UNFINISHED_EACH_MS = 60_000;

export interface EvictionOptions extends Stores, Ingests {
  /** Of blobs, manifests and unfinished transfers together. `undefined`: no limit. */
  readonly maxBytes: number | undefined;
}

export interface EvictionRun extends RunOptions {
  /** What somebody waits to write, for which there has to be room too, unless nothing that goes could make so much. */
  readonly wantedBytes?: number;
  /** In a dry run: what would have gone by now, so that so much less has to go for its being too much. */
  readonly asIfFreedBytes?: number;
}

export interface EvictionReport extends Tally {
  /** What is held now, or would be. */
  readonly heldBytes: number;
  /** Which limit is not kept though nothing else may go. */
  readonly stuckAt: 'maxBytes' | 'minFree' | undefined;
}

/**
 * Keeps the store under `storage.maxBytes`, unfinished transfers included, and `storage.minFree` of the disk free. First
 * idle downloads go, the oldest first, then mirrored content, the least recently used first, down to the low-water mark.
 * Links stay, so what is asked for again is downloaded without being proved again. What lives here, is pinned, is being
 * worked on, or is linked nowhere yet is never taken; and nothing that is being read, since that would free nothing.
 */
export class Eviction {
  readonly #options: EvictionOptions;
  #countedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: EvictionOptions) {
    this.#options = options;
  }

  /** Whether more is held than may be: two look-ups, and each minute a count of the ingests in the survey's thread. */
  async isDue(): Promise<boolean> {
    const { maxBytes, spool } = this.#options;
    const { freeBytes, minFreeBytes } = await spool.space.look();
    if (freeBytes < minFreeBytes) return true;
    if (maxBytes === undefined) return false;
    if (performance.now() - this.#countedAtMs > COUNT_UNFINISHED_EACH_MS) await this.#countUnfinished();
    return (await this.#heldBytes()) > maxBytes;
  }

  async run(run: EvictionRun = {}): Promise<EvictionReport> {
    const { survey, metadata, maxBytes = Number.POSITIVE_INFINITY } = this.#options;
    if (run.dryRun !== true) {
      await settleUses(metadata, run.signal);
    }
    const counter = new Counter('least recently used', run);
    const unfinished = await this.#countUnfinished();
    const heldBytes = (await this.#heldBytes()) - (run.asIfFreedBytes ?? 0);
    const overBytes = heldBytes > maxBytes ? heldBytes - maxBytes * LOW_WATER_MARK : 0;
    const excessBytes = Math.max(overBytes, await this.#shortBytes(heldBytes, run));
    // What is used while this runs is in use.
    const sinceMs = Date.now();
    await this.#abandon(unfinished, excessBytes, { counter, run });
    if (counter.bytes < excessBytes) {
      for await (const contents of everything(after => survey.evictable(sinceMs, after))) {
        run.signal?.throwIfAborted();
        await this.#evict(contents, excessBytes, { counter, sinceMs, run });
        if (counter.bytes >= excessBytes) {
          break;
        }
      }
    }
    const leftBytes = run.dryRun === true ? heldBytes - counter.bytes : await this.#heldBytes();
    const isShort = (await this.#shortBytes(leftBytes, run)) > (run.dryRun === true ? counter.bytes : 0);
    const stuckAt = leftBytes > maxBytes ? 'maxBytes' : isShort ? 'minFree' : undefined;
    return { ...counter.tally, heldBytes: leftBytes, stuckAt };
  }

  /** How much has to go for the disk's sake. What is wanted and could not be had if all went is not made room for. */
  async #shortBytes(
    heldBytes: number,
    { wantedBytes = 0, asIfFreedBytes = 0 }: EvictionRun,
  ): Promise<number> {
    const { freeBytes, minFreeBytes } = await this.#options.spool.space.look();
    const shortBytes = minFreeBytes - freeBytes - asIfFreedBytes;
    const wantedToo = shortBytes + wantedBytes > heldBytes ? shortBytes : shortBytes + wantedBytes;
    return wantedToo > 0 ? wantedToo + minFreeBytes * (1 - LOW_WATER_MARK) : 0;
  }

  async #abandon(
    files: readonly FoundIngest[],
    excessBytes: number,
    { counter, run }: { counter: Counter; run: RunOptions },
  ): Promise<void> {
    for (const file of files.toSorted((one, other) => one.modifiedAtMs - other.modifiedAtMs)) {
      if (counter.bytes >= excessBytes) return;
      run.signal?.throwIfAborted();
      if (!(await abandonIngest(this.#options, file, run))) continue;
      counter.add([file]);
      if (run.dryRun === true) continue;
      const { spool, meter } = this.#options;
      spool.countUnfinished(spool.unfinishedBytes - file.size);
      meter.count('upkeep_freed_bytes_total', { by: 'eviction' }, file.size);
    }
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
    const { metadata, spool } = this.#options;
    const { blobBytes, manifestBytes } = await metadata.readTotals();
    return blobBytes + manifestBytes + spool.unfinishedBytes;
  }

  /** What comes or goes while the thread looks is in the count or not; the next one is right again. */
  async #countUnfinished(): Promise<readonly FoundIngest[]> {
    const { survey, spool } = this.#options;
    const files = await survey.unfinished();
    spool.countUnfinished(files.reduce((sum, { size }) => sum + size, 0));
    this.#countedAtMs = performance.now();
    return files;
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
