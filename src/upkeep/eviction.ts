import type { FoundIngest } from '../blobs/spool.ts';
import { type Content, heldBytesOf, type MetadataStore } from '../metadata/metadata-store.ts';
import { mayBeIncomplete, whyNotCollected } from '../metadata/store-identity.ts';
import { settleUses } from './clock.ts';
import { everything, type Found, type SizedContent } from '../metadata/survey.ts';
import type { NoteEvent } from '../oci/event.ts';
import { type RemovalPlan, removeContents } from './removal.ts';
import { Counter, type Ingests, type RunOptions, type Stores, type Tally } from './stores.ts';
import { abandonIngest } from './unfinished.ts';

/** Evicts down to this share of the limit, so that it does not start again with the next blob. */
const LOW_WATER_MARK = 0.9;
/**
 * The share of the limit that unfinished transfers may take before idle ones are removed. A download is kept only if it fits
 * into the limit together with them, so there must always be some room.
 */
const IDLE_SHARE = 0.9;
/** How often all ingests are counted. In between, only those of this process are known. */
const COUNT_UNFINISHED_EACH_MS = 60_000;

export interface EvictionOptions extends Stores, Ingests {
  /** For blobs, manifests and unfinished transfers together; `undefined` for no limit. */
  readonly maxBytes: number | undefined;
  /** Called for everything that is removed. Default: none. */
  readonly noteEvent?: NoteEvent | undefined;
  /** Of garbage collection: in a dry run, what it would have freed before does not count again. */
  readonly gracePeriodMs: number;
}

export interface EvictionRun extends RunOptions {
  /** How much a caller wants to write: makes room on the disk for that, too, unless it could not make enough. */
  readonly wantedBytes?: number;
  /** In a dry run: how much garbage collection would have freed before. */
  readonly asIfFreedBytes?: number;
  /** The grace period of that collection, if it is not the one of the options. */
  readonly gracePeriodMs?: number;
  /** In a dry run: whether that collection would be forced, which ends every doubt about the index. */
  readonly force?: boolean;
}

/** What an eviction removed, or in a dry run would remove. */
export interface EvictionReport extends Tally {
  /** The size of the store afterwards, or in a dry run the size that it would have. */
  readonly heldBytes: number;
  /** The limit that is still exceeded, although nothing else may be evicted. */
  readonly stuckAt: 'maxBytes' | 'minFree' | undefined;
}

/**
 * Keeps the store below `storage.maxBytes`, including unfinished transfers, and `storage.minFree` of the disk free. Idle
 * transfers leave some room to those that run.
 *
 * Ranges of blobs that are not stored are removed first, then idle downloads, each the oldest first, then what nothing
 * refers to any more, whatever the grace period of garbage collection, then mirrored content, least recently used first,
 * down to the low-water mark. Links of evicted content stay, so it can be downloaded again without another proof. Hosted
 * and pinned content is never evicted, nor content that is being downloaded, nor content that is being read, since that
 * would free nothing.
 *
 * Content without a Link may be what an import or a rebuilt index is about to link: it is left to garbage collection if
 * it was stored or used since an import began that is still running, and while no garbage is collected. A push links a
 * blob in the transaction that writes its row, and a download holds a Lease until then; what it links for others later
 * is downloaded again if it is gone.
 *
 * While the index may be incomplete, no stored content is evicted: hosted images that it has lost may have the same blobs.
 */
export class Eviction {
  readonly #options: EvictionOptions;
  #countedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: EvictionOptions) {
    this.#options = options;
  }

  /**
   * Whether a limit is exceeded, or unfinished transfers leave too little room: two queries, and once a minute a count of ingests.
   * Starts no thread.
   */
  async isDue(): Promise<boolean> {
    const { maxBytes, spool } = this.#options;
    // Without a limit, too: the status and the metrics show it.
    if (performance.now() - this.#countedAtMs > COUNT_UNFINISHED_EACH_MS) {
      await this.#countUnfinished(spool.list());
    }
    const { freeBytes, minFreeBytes } = await spool.space.look();
    if (freeBytes < minFreeBytes) return true;
    if (maxBytes === undefined) return false;
    return crowdingBytes(spool.unfinishedBytes, maxBytes) > 0 || (await this.#heldBytes()) > maxBytes;
  }

  async run(run: EvictionRun = {}): Promise<EvictionReport> {
    const { survey, rows, metadata, blobs, maxBytes = Number.POSITIVE_INFINITY } = this.#options;
    if (run.dryRun !== true) {
      await settleUses(metadata, run.signal);
      // Rows are removed in a thread, which does not know what this one has noted.
      await metadata.writeUses();
    }
    const counter = new Counter('evicted', run);
    const unfinished = await survey.unfinished();
    await this.#countUnfinished(unfinished);
    const heldBytes = (await this.#heldBytes()) - (run.asIfFreedBytes ?? 0);
    const overBytes = heldBytes > maxBytes ? heldBytes - maxBytes * LOW_WATER_MARK : 0;
    // First what is there for speed alone: nothing is lost with it.
    const shortBytes = await this.#shortBytes(heldBytes, run);
    if (shortBytes > 0 && run.dryRun !== true) await blobs.freeLocal?.(shortBytes);
    const excessBytes = Math.max(overBytes, await this.#shortBytes(heldBytes, run));
    // Content that is used from now on is in use.
    const sinceMs = Date.now();
    const { unfinishedBytes } = this.#options.spool;
    const crowdingTransfers = crowdingBytes(unfinishedBytes + (run.wantedBytes ?? 0), maxBytes);
    await this.#abandon(unfinished, Math.max(excessBytes, crowdingTransfers), { counter, run });
    // Unfinished transfers are on the disk in any case; stored content may be elsewhere.
    const excessStored = blobs.isOnSpoolDisk ? excessBytes : overBytes;
    if (counter.bytes < excessStored) {
      await this.#removeUnlinked(excessStored, { counter, nowMs: sinceMs, run });
    }
    if (counter.bytes < excessStored && (isAsIfForced(run) || !(await mayBeIncomplete(metadata)))) {
      for await (const contents of everything(after => survey.evictable(sinceMs, after))) {
        run.signal?.throwIfAborted();
        await this.#remove(contents, excessStored, {
          counter,
          run,
          removeRows: step => rows.evict(step, sinceMs),
        });
        if (counter.bytes >= excessStored) {
          break;
        }
      }
    }
    const leftBytes = run.dryRun === true ? heldBytes - counter.bytes : await this.#heldBytes();
    const isShort = (await this.#shortBytes(leftBytes, run)) > (run.dryRun === true ? counter.bytes : 0);
    const stuckAt = leftBytes > maxBytes ? 'maxBytes' : isShort ? 'minFree' : undefined;
    return { ...counter.tally, heldBytes: leftBytes, stuckAt };
  }

  /**
   * How many bytes must be freed for the disk. Makes no room for a write that would not fit even if everything were
   * evicted.
   */
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
    for (const file of files.toSorted(byWorth)) {
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

  /** Removes content that no repository has any more: forgotten, or of a deleted manifest. */
  async #removeUnlinked(
    excessBytes: number,
    { counter, nowMs, run }: { counter: Counter; nowMs: number; run: EvictionRun },
  ): Promise<void> {
    const { rows, metadata } = this.#options;
    const sinceMs = await unlinkedSinceMs(metadata, nowMs, isAsIfForced(run));
    if (sinceMs === undefined) return;
    // Manifests first: what they name is needed until they are gone.
    for (const kind of ['manifest', 'blob'] as const) {
      for await (const contents of everything(after => this.#findUnlinked(kind, sinceMs, { after, run }))) {
        run.signal?.throwIfAborted();
        await this.#remove(contents, excessBytes, {
          counter,
          run,
          removeRows: step => rows.removeUnlinked(step, sinceMs),
        });
        if (counter.bytes >= excessBytes) return;
      }
    }
  }

  async #findUnlinked(
    kind: Content['kind'],
    sinceMs: number,
    { after, run }: { after: string | undefined; run: EvictionRun },
  ): Promise<Found<SizedContent>> {
    const { survey, gracePeriodMs } = this.#options;
    const found = await survey.unlinked(kind, sinceMs, after);
    if (run.asIfFreedBytes === undefined || run.asIfFreedBytes === 0) return found;
    // Both are of the same page of rows.
    const collectedSinceMs = Math.min(sinceMs, Date.now() - (run.gracePeriodMs ?? gracePeriodMs));
    const collected = await survey.unlinked(kind, collectedSinceMs, after);
    const digests = new Set(collected.entries.map(({ digest }) => digest));
    return { ...found, entries: found.entries.filter(({ digest }) => !digests.has(digest)) };
  }

  async #remove(
    contents: readonly SizedContent[],
    excessBytes: number,
    { counter, run, removeRows }: { counter: Counter; run: RunOptions } & Pick<RemovalPlan, 'removeRows'>,
  ): Promise<void> {
    const { blobs, meter, noteEvent = () => {} } = this.#options;
    const free = contents.filter(({ kind, digest }) => kind === 'manifest' || !blobs.hasReaders(digest));
    if (run.dryRun === true) {
      counter.add(enoughOf(free, excessBytes - counter.bytes));
      return;
    }
    await removeContents(this.#options, free, {
      removeRows,
      choose: step => enoughOf(step, excessBytes - counter.bytes),
      onRemoved: removed => {
        const before = counter.bytes;
        counter.add(removed);
        meter.count('upkeep_freed_bytes_total', { by: 'eviction' }, counter.bytes - before);
        for (const { kind: content, digest, size } of removed)
          noteEvent({ kind: 'evict', content, digest, size });
      },
      signal: run.signal,
    });
  }

  async #heldBytes(): Promise<number> {
    const { metadata, spool } = this.#options;
    return heldBytesOf(await metadata.readTotals()) + spool.unfinishedBytes;
  }

  /** Changes meanwhile may or may not be included; the next count corrects that. */
  async #countUnfinished(files: Iterable<FoundIngest> | AsyncIterable<FoundIngest>): Promise<void> {
    let bytes = 0;
    for await (const { size } of files) bytes += size;
    this.#options.spool.countUnfinished(bytes);
    this.#countedAtMs = performance.now();
  }
}

/**
 * Content without a Link may be evicted unless it was stored or used since this time: `nowMs`, or when an import began
 * that is still running. `undefined` if none may, because the index may be incomplete; never if `isForced`. Removals check
 * for imports again; what a rebuild adds later is newer than `nowMs`.
 */
export async function unlinkedSinceMs(
  metadata: Pick<MetadataStore, 'readSetting' | 'importingSinceMs'>,
  nowMs: number,
  isForced = false,
): Promise<number | undefined> {
  if (!isForced && (await whyNotCollected(metadata)) !== undefined) return undefined;
  return Math.min(nowMs, await metadata.importingSinceMs());
}

function isAsIfForced({ dryRun, force }: EvictionRun): boolean {
  return dryRun === true && force === true;
}

/** How many bytes of idle transfers are to be removed, to leave room for those that run; 0 if there is enough. */
function crowdingBytes(unfinishedBytes: number, maxBytes: number): number {
  const mostBytes = maxBytes * IDLE_SHARE;
  return unfinishedBytes > mostBytes ? unfinishedBytes - mostBytes * LOW_WATER_MARK : 0;
}

/** Parts of blobs first, since only lazy clients miss them, then the oldest. */
function byWorth(one: FoundIngest, other: FoundIngest): number {
  return Number(other.isParts) - Number(one.isParts) || one.modifiedAtMs - other.modifiedAtMs;
}

/** As many from the front as have `bytes` in total. */
function enoughOf(contents: readonly SizedContent[], bytes: number): readonly SizedContent[] {
  let sum = 0;
  return contents.filter(({ size }) => {
    const isWanted = sum < bytes;
    sum += size;
    return isWanted;
  });
}
