import type { Config } from '../config/config.ts';
import type { Uploads } from '../hosted/uploads.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import { Restartable } from '../lib/restartable.ts';
import type { DiskWatch } from '../upkeep/disk-watch.ts';
import { ImageRemoval } from '../upkeep/image-removal.ts';
import { Schedule } from '../upkeep/schedule.ts';
import type { SurveyThread } from '../upkeep/survey-thread.ts';
import { Upkeep } from '../upkeep/upkeep.ts';
import { type Storage, surveyOf } from './storage.ts';

export interface UpkeepParts extends Storage {
  readonly uploads: Uploads;
  readonly log: Log;
  readonly meter: Meter;
}

/** Upkeep, the survey that it and people look through, and removal; close the survey when done. None does anything unasked. */
export function openUpkeep(
  config: Config,
  { metadata, spool, blobs, uploads, log, meter }: UpkeepParts,
): { readonly upkeep: Upkeep; readonly survey: SurveyThread; readonly removal: ImageRemoval } {
  const survey = surveyOf(config.storage.path);
  const stores = { metadata, spool, blobs, survey, rows: survey, log, meter };
  const upkeep = new Upkeep({
    ...stores,
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
    get deletesHosted() {
      return config.hosted.delete;
    },
  });
  spool.space.makeRoom = bytes => makeRoom(upkeep, bytes, log);
  return { upkeep, survey, removal };
}

/** For whoever waits to write so much. What cannot be removed leaves a full disk, which is told to them. */
async function makeRoom(upkeep: Upkeep, bytes: number, log: Log): Promise<void> {
  try {
    await upkeep.evict({ wantedBytes: bytes, onWait: () => {} });
  } catch (error) {
    log.warn({ err: error }, 'could not make room for new content');
  }
}

/** What a server does of it by itself, as soon as it follows `config`. */
export function scheduleOf(
  config: Config,
  needs: { readonly upkeep: Upkeep; readonly disk: DiskWatch; readonly log: Log },
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
      // Not before, or nothing would look after the store when that fails.
      await previous?.close();
      return schedule;
    },
  });
}

/** Kept with every write, so reading them costs nothing when somebody asks for the metrics. */
export async function reportStore(
  { metadata, spool, config }: Pick<UpkeepParts, 'metadata' | 'spool'> & { readonly config: Config },
  meter: Meter,
): Promise<void> {
  const { freeBytes, minFreeBytes } = await spool.space.look();
  meter.gauge('store_free_bytes', freeBytes);
  meter.gauge('store_min_free_bytes', minFreeBytes);
  meter.gauge('store_max_bytes', config.storage.maxBytes);
  const { blobs: count, blobBytes, manifestBytes } = await metadata.readTotals();
  meter.gauge('store_held_bytes', blobBytes + manifestBytes);
  meter.gauge('store_held_blobs', count);
  meter.gauge('store_unfinished_bytes', spool.unfinishedBytes);
  meter.gauge('store_damaged', await metadata.countDamaged());
}

function intervalMs(value: number | false): number {
  return value === false ? Number.POSITIVE_INFINITY : value;
}
