import type { CollectionReport } from '../upkeep/collection.ts';
import type { EvictionReport } from '../upkeep/eviction.ts';
import type { RunOptions } from '../upkeep/stores.ts';
import type { Upkeep, Waiting } from '../upkeep/upkeep.ts';

/** What one process at a time does. */
export const COLLECTING = 'collecting garbage, or rebuilding the index';

/** How to collect garbage and evict. */
export interface GarbageRun extends RunOptions {
  /** Default: that of the configuration. */
  readonly gracePeriodMs?: number | undefined;
  /** Even if the index may be incomplete. */
  readonly force?: boolean;
  /** As in `Waiting`, for each of both. */
  readonly waitingFor: (work: string) => NonNullable<Waiting['onWait']>;
}

/** What was removed; `evicted` is `undefined` if another process is evicting. */
export interface GarbageReport {
  readonly collected: CollectionReport;
  readonly evicted: EvictionReport | undefined;
}

/** Collects garbage, then evicts; `undefined` if another process is collecting or rebuilding. Throws CollectingStopped. */
export async function collectGarbage(
  upkeep: Pick<Upkeep, 'collect' | 'evict'>,
  { waitingFor, gracePeriodMs, ...run }: GarbageRun,
): Promise<GarbageReport | undefined> {
  const period = gracePeriodMs === undefined ? {} : { gracePeriodMs };
  const collected = await upkeep.collect({ ...run, ...period, onWait: waitingFor(COLLECTING) });
  if (collected === undefined) return undefined;
  const asIfFreedBytes = run.dryRun === true ? contentBytes(collected) : 0;
  const evicted = await upkeep.evict({
    ...run,
    ...period,
    asIfFreedBytes,
    onWait: waitingFor('making room'),
  });
  return { collected, evicted };
}

/** Which limit is still exceeded when nothing is left to evict, for people. */
export const EXCEEDED: Readonly<Record<NonNullable<EvictionReport['stuckAt']>, string>> = {
  maxBytes: 'the store exceeds storage.maxBytes',
  minFree: 'less of the disk is free than storage.minFree',
};

/** What of it was the content of images. */
export function contentBytes({ manifests, blobs }: CollectionReport): number {
  return manifests.bytes + blobs.bytes;
}

/** All bytes that were freed, or would be. */
export function freedBytes({ collected, evicted }: GarbageReport): number {
  const { uploads, unfinished, manifests, blobs, strays } = collected;
  const tallies = [
    uploads,
    unfinished,
    manifests,
    blobs,
    strays,
    ...(evicted === undefined ? [] : [evicted]),
  ];
  return tallies.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** What `entrepot gc --json` prints. */
export function garbageDocument(report: GarbageReport, dryRun: boolean) {
  const { collected, evicted } = report;
  const { manifests, blobs, uploads, unfinished, strays, links } = collected;
  return {
    dryRun,
    freedBytes: freedBytes(report),
    manifests,
    blobs,
    uploads,
    unfinished,
    strays,
    links,
    evicted: evicted === undefined ? null : { items: evicted.items, bytes: evicted.bytes },
    stuckAt: evicted?.stuckAt ?? null,
  };
}
