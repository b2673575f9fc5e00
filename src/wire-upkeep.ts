import type { FileBlobStore } from './blobs/file-blob-store.ts';
import type { Config } from './config/config.ts';
import type { Uploads } from './hosted/uploads.ts';
import type { Log } from './lib/log.ts';
import type { Meter } from './lib/meter.ts';
import type { MetadataStore } from './metadata/metadata-store.ts';
import { ImageRemoval } from './upkeep/image-removal.ts';
import { Schedule } from './upkeep/schedule.ts';
import { SurveyThread } from './upkeep/survey-thread.ts';
import { Upkeep } from './upkeep/upkeep.ts';

export interface UpkeepParts {
  readonly metadata: MetadataStore;
  readonly blobs: FileBlobStore;
  readonly uploads: Uploads;
  readonly log: Log;
  readonly meter: Meter;
}

/** Upkeep, the survey that it and people look through, and removal; close the survey when done. None does anything unasked. */
export function openUpkeep(
  config: Config,
  indexPath: string,
  { metadata, blobs, uploads, log, meter }: UpkeepParts,
): { readonly upkeep: Upkeep; readonly survey: SurveyThread; readonly removal: ImageRemoval } {
  const { gcGracePeriodMs, keepUnfinishedForMs, scrubBytesPerSecond } = config.upkeep;
  const survey = new SurveyThread({ indexPath, storePath: config.storage.path });
  const stores = { metadata, blobs, survey, rows: survey, log, meter };
  const upkeep = new Upkeep({
    ...stores,
    gracePeriodMs: gcGracePeriodMs,
    keepUnfinishedMs: keepUnfinishedForMs,
    uploads,
    isOfUpload: key => uploads.owns(key),
    maxBytes: config.storage.maxBytes,
    bytesPerSecond: scrubBytesPerSecond,
  });
  const removal = new ImageRemoval({ ...stores, deletesHosted: config.hosted.delete });
  return { upkeep, survey, removal };
}

/** What a server does of it by itself. */
export async function beginSchedule(config: Config, upkeep: Upkeep, log: Log): Promise<Schedule> {
  const { gcIntervalMs, scrubIntervalMs } = config.upkeep;
  const schedule = new Schedule({
    upkeep,
    log,
    collectIntervalMs: intervalMs(gcIntervalMs),
    scrubIntervalMs: intervalMs(scrubIntervalMs),
  });
  await schedule.begin();
  return schedule;
}

/** Kept with every write, so reading them costs nothing when somebody asks for the metrics. */
export async function reportStore(
  { metadata, blobs }: Pick<UpkeepParts, 'metadata' | 'blobs'>,
  meter: Meter,
): Promise<void> {
  const { blobs: count, blobBytes, manifestBytes } = await metadata.readTotals();
  meter.gauge('store_held_bytes', blobBytes + manifestBytes);
  meter.gauge('store_held_blobs', count);
  meter.gauge('store_unfinished_bytes', blobs.unfinishedBytes);
  meter.gauge('store_damaged', await metadata.countDamaged());
}

function intervalMs(value: number | false): number {
  return value === false ? Number.POSITIVE_INFINITY : value;
}
