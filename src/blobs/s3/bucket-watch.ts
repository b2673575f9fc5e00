import type { Clock, Timer } from '../../lib/clock.ts';
import type { Log } from '../../lib/log.ts';
import type { BucketTrouble } from '../blob-store.ts';
import { S3Failure } from './s3-failure.ts';

/** What is wrong with S3 as a whole, rather than with one request. */
type Trouble = BucketTrouble['kind'];

/** How soon it is looked at again whether S3 is back; everybody who needs it meanwhile finds out by himself. */
const LOOK_AGAIN_MS = 5_000;
/** How long nothing may be heard of it. */
const QUIET_MS = 30_000;

/** For people: what it means. */
const MEANINGS: Readonly<Record<Trouble, string>> = {
  noCredentials: 'cannot be asked, since this server has no credentials for it',
  unreachable: 'cannot be reached',
  busy: 'cannot handle requests at the moment',
  refused: 'refuses the credentials or the permissions of this server',
  missing: 'has lost the bucket, or everything in it',
};

const CONSEQUENCES =
  'blobs that are not also in the folder, and pushes, are answered with 503, and downloads are not stored';

export interface BucketWatchOptions {
  /** For people. */
  readonly name: string;
  /** Asks S3 for something that must be there; rejects with an S3Failure. */
  readonly look: () => Promise<unknown>;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Whether S3 can be used, as the last requests show. Logs when that changes. While it cannot be used, or if nobody uses it, it
 * is looked at every now and then.
 */
export class BucketWatch {
  readonly #options: BucketWatchOptions;
  #trouble: BucketTrouble | undefined;
  #timer: Timer | undefined;
  #heardAtMs: number;
  #isClosed = false;

  constructor(options: BucketWatchOptions) {
    this.#options = options;
    this.#heardAtMs = options.clock.monotonicMs();
    this.#wait(QUIET_MS);
  }

  /** `undefined` if it can be used, as far as is known. */
  get trouble(): BucketTrouble | undefined {
    return this.#trouble;
  }

  /** For `/readyz` and `status`, without names, since anybody may read it. */
  get problem(): string | undefined {
    if (this.#trouble === undefined) return undefined;
    const { kind, sinceMs } = this.#trouble;
    return `S3 ${MEANINGS[kind]}, since ${new Date(sinceMs).toISOString()}: ${CONSEQUENCES}`;
  }

  /** Call when S3 has answered as it should; whether the bucket has come back is only found out by looking. */
  succeeded(): void {
    this.#heardAtMs = this.#options.clock.monotonicMs();
    if (this.#trouble?.kind !== 'missing') this.#recovered();
  }

  /** Call when a request has failed for good. */
  failed(failure: S3Failure): void {
    const { clock, log, name } = this.#options;
    const kind = troubleOf(failure);
    if (kind === undefined || this.#isClosed) return;
    this.#heardAtMs = clock.monotonicMs();
    if (this.#trouble?.kind === kind) return;
    this.#trouble = { kind, sinceMs: this.#trouble?.sinceMs ?? clock.nowMs() };
    log.error({ err: failure, kind }, `${name} ${MEANINGS[kind]}: ${CONSEQUENCES}`);
    this.#wait(LOOK_AGAIN_MS);
  }

  close(): void {
    this.#isClosed = true;
    this.#timer?.cancel();
  }

  #recovered(): void {
    if (this.#trouble === undefined) return;
    const { clock, log, name } = this.#options;
    const { kind, sinceMs } = this.#trouble;
    this.#trouble = undefined;
    log.info({ kind, forMs: clock.nowMs() - sinceMs }, `${name} can be used again`);
    this.#wait(QUIET_MS);
  }

  #wait(ms: number): void {
    this.#timer?.cancel();
    if (!this.#isClosed) this.#timer = this.#options.clock.after(ms, () => void this.#lookIfQuiet()).unref();
  }

  async #lookIfQuiet(): Promise<void> {
    const { clock, look } = this.#options;
    const quietMs = clock.monotonicMs() - this.#heardAtMs;
    if (this.#trouble === undefined && quietMs < QUIET_MS) return this.#wait(QUIET_MS - quietMs);
    try {
      await look();
      this.succeeded();
      this.#recovered();
    } catch (error) {
      if (error instanceof S3Failure) this.failed(error);
    }
    this.#wait(this.#trouble === undefined ? QUIET_MS : LOOK_AGAIN_MS);
  }
}

/** Statuses and codes that concern more than one object. */
const REFUSED: ReadonlySet<number> = new Set([301, 307, 401, 403]);

/** `undefined` if the failure says nothing about S3 as a whole. */
function troubleOf({ status, code, isUnsigned }: S3Failure): Trouble | undefined {
  if (code === 'NoSuchBucket' || code === LOST) return 'missing';
  if (isUnsigned) return 'noCredentials';
  if (status === undefined) return 'unreachable';
  if (status === 429 || status >= 500) return 'busy';
  return REFUSED.has(status) ? 'refused' : undefined;
}

/** The code of a failure that says that the bucket has lost everything, which S3 itself cannot say. */
export const LOST = 'EntrepotLost';
