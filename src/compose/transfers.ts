/** Where the composition root keeps what was sent and fetched. */
import { isJsonObject, type JsonObject, parseJsonObject } from '../lib/json.ts';
import type { Lease } from '../lib/lease.ts';
import { withLease } from '../lib/with-lease.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { isOutage } from '../oci/outage.ts';
import { type KeptTransfers, type Traffic, type TransferKeeper, withToday } from '../ops/transfer-totals.ts';

const SETTING = 'transfer-totals';
const LEASE_KEY = 'transfer-totals';
/** Another process has it only for a moment. A suspended one is not waited for. */
const LEASE_WAIT_MS = 1_000;
/** A year and a month, in some 40 KB that are written each minute in which anything was sent. */
const MAX_DAYS = 400;

/** Stores the totals in the index, where all processes add theirs. `startedAtMs`: when this one began to count. */
export function transferKeeper(
  metadata: Pick<MetadataStore, 'acquireLease' | 'readLease' | 'release' | 'readSetting' | 'putSetting'>,
  startedAtMs: number,
  nowMs: () => number = Date.now,
): TransferKeeper {
  const read = async (): Promise<KeptTransfers | undefined> => {
    const text = await metadata.readSetting(SETTING);
    const kept = text === undefined ? undefined : parseJsonObject(Buffer.from(text));
    if (kept === undefined) return undefined;
    const { sentBytes, fetchedBytes } = trafficIn(kept);
    return { sinceMs: numberIn(kept, 'sinceMs'), sentBytes, fetchedBytes, days: daysIn(kept['days']) };
  };
  const addUnder = async (lease: Lease, more: Traffic): Promise<void> => {
    const kept = (await read()) ?? {
      sinceMs: startedAtMs,
      sentBytes: 0,
      fetchedBytes: 0,
      days: new Map<string, Traffic>(),
    };
    const lastDays = [...withToday(kept.days, more, nowMs())]
      .sort(([one], [other]) => (one < other ? -1 : 1))
      .slice(-MAX_DAYS);
    const total = {
      sinceMs: kept.sinceMs,
      sentBytes: kept.sentBytes + more.sentBytes,
      fetchedBytes: kept.fetchedBytes + more.fetchedBytes,
      days: Object.fromEntries(lastDays),
    };
    await lease.confirm();
    await metadata.putSetting(SETTING, JSON.stringify(total));
  };
  const wait = { mayWait: (waitedMs: number) => waitedMs < LEASE_WAIT_MS };
  return {
    read,
    add: async more => {
      let isAdded = false;
      const work = async (lease: Lease) => {
        await addUnder(lease, more);
        isAdded = true;
      };
      await withLease(metadata, LEASE_KEY, work, wait).catch((error: unknown) => {
        // If only the Lease could not be given back, another attempt would add it twice. An outage is logged by others.
        if (!isAdded && !isOutage(error)) throw error;
      });
      return isAdded;
    },
  };
}

/** What cannot be read counts as 0: these are only numbers for people. */
function numberIn(kept: JsonObject, name: string): number {
  const value = kept[name];
  return typeof value === 'number' && Number.isFinite(value) ? value : 0;
}

function trafficIn(kept: JsonObject): Traffic {
  return {
    sentBytes: numberIn(kept, 'sentBytes'),
    fetchedBytes: numberIn(kept, 'fetchedBytes'),
    pulls: numberIn(kept, 'pulls'),
    hits: numberIn(kept, 'hits'),
    misses: numberIn(kept, 'misses'),
  };
}

function daysIn(kept: unknown): ReadonlyMap<string, Traffic> {
  const days = Object.entries(isJsonObject(kept) ? kept : {});
  return new Map(days.flatMap(([day, value]) => (isJsonObject(value) ? [[day, trafficIn(value)]] : [])));
}
