import { isStorageClosed, StorageFull } from '../../blobs/storage-full.ts';
import type { Log } from '../../lib/log.ts';
import type { Meter } from '../../lib/meter.ts';
import { isWrongContent } from '../../oci/errors.ts';
import { ociErrorOf, UpstreamFailure } from '../../upstream/failures.ts';
import { logUnstored } from '../log-unstored.ts';
import { isRefusal } from '../upstream-requests.ts';
import type { NoteEvent, RegistryEvent } from '../../oci/event.ts';
import type { FillSharing } from './fill-sharing.ts';
import type { Fill } from './fill.ts';
import type { Keeping } from './keeping.ts';

/** Log messages about failures, which are also reported to whoever waits for the blob. */
export const DOWNLOAD_FAILED = 'a download failed';
export const DOWNLOAD_UNSTORED = 'a download is passed on but not stored';
export const BLOB_UNSTORED = 'a verified blob could not be stored';

export interface FillOutcomeOptions {
  readonly fill: Fill;
  readonly sharing: FillSharing;
  /** What `/readyz` says about storing. */
  readonly keeping: Keeping;
  readonly meter: Meter;
  readonly noteEvent: NoteEvent;
  readonly log: Log;
  /** Its reason is the failure of a Fill that was stopped. */
  readonly signal: AbortSignal;
}

/** Tells the end of a Fill to all who want to know: readers and contenders, the log, the metrics, events, the `Keeping`. */
export class FillOutcome {
  readonly #options: FillOutcomeOptions;
  #whyUnstored: Error | undefined;

  constructor(options: FillOutcomeOptions) {
    this.#options = options;
  }

  /** The reason if the blob can be read but is not stored. */
  get whyUnstored(): Error | undefined {
    return this.#whyUnstored;
  }

  /** The blob was not downloaded. */
  failed(error: unknown): void {
    const { fill, sharing, keeping, meter, log, signal } = this.#options;
    const reason: unknown = signal.aborted ? signal.reason : error;
    const heard = readerErrorOf(reason);
    sharing.refuseAll(reason);
    fill.fail(heard);
    // Readers continue straight from upstream.
    if (isStorageClosed(heard)) this.#whyUnstored = asError(heard);
    if (signal.aborted) return;
    // Reaching a limit of our own is not a fault of the disk.
    if (isStorageClosed(error) && !(error instanceof StorageFull)) keeping.failed(error);
    const isRefused = error instanceof UpstreamFailure && isRefusal(error);
    meter.count('fills_total', { outcome: isRefused ? 'refused' : 'failed' });
    if (isRefused) return log.debug({ err: error }, 'upstream refused a blob');
    this.#note('download-failed', asError(error).message);
    const downloadedBytes = fill.length > 0 ? fill.length : undefined;
    const isPassedOn = this.#whyUnstored !== undefined;
    // A stack says where it was noticed, not what upstream has done.
    const isUpstreams = error instanceof UpstreamFailure || isWrongContent(error);
    const why = isUpstreams ? { reason: error.message } : { err: error };
    log.warn({ ...why, downloadedBytes }, isPassedOn ? DOWNLOAD_UNSTORED : DOWNLOAD_FAILED);
  }

  /** The blob is verified and stored. */
  stored(): void {
    this.#options.keeping.succeeded();
    this.#options.meter.count('fills_total', { outcome: 'verified' });
    this.#note('download');
  }

  /** The blob is verified, and another process, which has taken over, stores it. */
  storedByAnother(): void {
    this.#options.meter.count('fills_total', { outcome: 'verified' });
  }

  /** The blob is verified, and somebody removed it while it was being stored: readers have all of it. */
  removed(): void {
    const reason = 'the blob was removed while it was being stored';
    this.#options.log.info({ reason }, BLOB_UNSTORED);
    this.#endUnstored(new Error(reason));
  }

  /** The blob is verified and could not be stored: readers have all of it, only later requests will miss it. */
  unstored(error: unknown): void {
    const { keeping, log } = this.#options;
    logUnstored(log, error, {}, BLOB_UNSTORED);
    keeping.failed(error);
    this.#endUnstored(asError(error));
  }

  #endUnstored(why: Error): void {
    this.#whyUnstored = why;
    this.#options.meter.count('fills_total', { outcome: 'failed' });
    this.#note('download-failed', why.message);
  }

  #note(kind: RegistryEvent['kind'], reason?: string): void {
    const { fill, sharing, noteEvent } = this.#options;
    const { repository, right } = sharing.starter;
    const { tenant, id } = right.requester;
    const actor = { name: tenant ?? id };
    noteEvent({ kind, repository, digest: fill.digest, size: fill.size, actor, reason });
  }
}

/** Readers of the blob may have asked for it of different upstreams, so it names none. */
function readerErrorOf(error: unknown): unknown {
  return error instanceof UpstreamFailure ? ociErrorOf(error, 'BLOB_UNKNOWN', 'upstream') : error;
}

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
