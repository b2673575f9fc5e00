import type { Config } from '../config/config.ts';
import type { Uploads } from '../hosted/uploads.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import { Restartable } from '../lib/restartable.ts';
import { heldBytesOf } from '../metadata/metadata-store.ts';
import type { Announce } from '../metadata/outbox.ts';
import type { NoteEvent } from '../oci/event.ts';
import { ImageRemoval } from '../upkeep/image-removal.ts';
import { Schedule, type ScheduleOptions } from '../upkeep/schedule.ts';
import type { SurveyThread } from '../upkeep/survey-thread.ts';
import { Upkeep } from '../upkeep/upkeep.ts';
import { type Storage, surveyOf } from './storage.ts';

export interface UpkeepParts extends Storage {
  readonly uploads: Uploads;
  readonly log: Log;
  readonly meter: Meter;
  readonly announce: Announce;
  readonly noteEvent: NoteEvent;
}

/** Upkeep, its survey, and removal; the caller closes the survey. Nothing runs until it is called. */
export function openUpkeep(
  config: Config,
  { metadata, index, spool, blobs, records, bucket, uploads, log, meter, announce, noteEvent }: UpkeepParts,
): { readonly upkeep: Upkeep; readonly survey: SurveyThread; readonly removal: ImageRemoval } {
  const survey = surveyOf({ path: config.storage.path, index, bucket });
  const stores = { metadata, spool, blobs, survey, rows: survey, log, meter };
  const upkeep = new Upkeep({
    ...stores,
    records,
    noteEvent,
    uploads,
    isOfUpload: key => uploads.owns(key),
    // Read for each run, since a reload may change them.
    get gracePeriodMs() {
      return config.upkeep.gcGracePeriodMs;
    },
    get keepUnfinishedMs() {
      return config.upkeep.keepUnfinishedForMs;
    },
    get keepGrantsMs() {
      return config.verifyForMs + config.staleGrantForMs;
    },
    get bytesPerSecond() {
      return config.upkeep.scrubBytesPerSecond;
    },
    get maxBytes() {
      return config.storage.maxBytes;
    },
  });
  const removal = new ImageRemoval({
    ...stores,
    announce,
    get deletesHosted() {
      return config.hosted.delete;
    },
  });
  spool.space.roomMaker = bytes => makeRoom(upkeep, bytes, log);
  return { upkeep, survey, removal };
}

/** Makes room for a caller that wants to write this much. If that fails, the write finds a full disk and reports it. */
async function makeRoom(upkeep: Upkeep, bytes: number, log: Log): Promise<void> {
  try {
    await upkeep.evict({ wantedBytes: bytes, onWait: () => {} });
  } catch (error) {
    log.warn({ err: error }, 'could not make room for new content');
  }
}

/** The upkeep that a server runs by itself, restarted when `config` changes. */
export function scheduleOf(
  config: Config,
  needs: Pick<ScheduleOptions, 'upkeep' | 'disk' | 'clock' | 'log'>,
): Restartable<Schedule> {
  return new Restartable<Schedule>({
    settings: () => ({ ...config.upkeep }),
    begin: async previous => {
      const { gcIntervalMs, scrubIntervalMs } = config.upkeep;
      const schedule = new Schedule({
        ...needs,
        collectIntervalMs: intervalMs(gcIntervalMs),
        scrubIntervalMs: intervalMs(scrubIntervalMs),
      });
      await schedule.begin();
      // Not before: if that fails, the previous one must continue.
      await previous?.close();
      return schedule;
    },
  });
}

/** The totals are updated with every write, so reading them for metrics costs nothing. */
export async function reportStore(
  {
    metadata,
    spool,
    blobs,
    upkeep,
    config,
  }: Pick<UpkeepParts, 'metadata' | 'spool' | 'blobs'> & { readonly upkeep: Upkeep; readonly config: Config },
  meter: Meter,
): Promise<void> {
  const { freeBytes, minFreeBytes } = await spool.space.look();
  meter.gauge('store_free_bytes', freeBytes);
  meter.gauge('store_min_free_bytes', minFreeBytes);
  meter.gauge('store_max_bytes', config.storage.maxBytes);
  const totals = await metadata.readTotals();
  meter.gauge('store_held_bytes', heldBytesOf(totals));
  meter.gauge('store_held_blobs', totals.blobs);
  meter.gauge('store_unfinished_bytes', spool.unfinishedBytes);
  const { bucket } = blobs;
  meter.gauge('store_bucket_up', bucket && Number(bucket.trouble === undefined));
  const local = await blobs.localUsage?.();
  meter.gauge('store_local_bytes', local?.bytes);
  meter.gauge('store_max_local_bytes', local?.maxBytes);
  meter.gauge('store_damaged', await metadata.countDamaged());
  const { waiting, seconds } = await upkeep.recordLag();
  meter.gauge('records_waiting', waiting);
  meter.gauge('records_waiting_seconds', seconds);
}

function intervalMs(value: number | false): number {
  return value === false ? Number.POSITIVE_INFINITY : value;
}
