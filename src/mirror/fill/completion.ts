import type { Clock, Timer } from '../../lib/clock.ts';
import type { Log } from '../../lib/log.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import type { Right } from '../../oci/requester.ts';
import type { FillRun } from './fill-run.ts';
import type { Fills } from './fills.ts';
import type { PartialBlob } from './partial-blob.ts';

/** Lazy clients read a small part of most layers. Of a layer that is used, the rest will be, too. */
const MIN_SHARE = 1 / 4;

/** `never`, `now`, or after so many milliseconds without a request for ranges of it. */
export type CompleteRanged = 'never' | 'now' | number;

export interface CompletionRule {
  /** Read each time. Never if absent. */
  readonly completeRanged?: CompleteRanged | undefined;
}

/** Downloads the rest of blobs of which clients only request ranges, as far as `pulls.completeRanged` wants it. */
export class Completion {
  readonly #rule: CompletionRule;
  readonly #fills: Fills;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #quiet = new Map<string, Timer>();
  #isClosed = false;

  constructor(
    rule: CompletionRule,
    fills: Fills,
    { clock, log }: { readonly clock: Clock; readonly log: Log },
  ) {
    this.#rule = rule;
    this.#fills = fills;
    this.#clock = clock;
    this.#log = log;
  }

  /** A client requests ranges of `blob`. */
  requested(repository: Repository, right: Right, blob: PartialBlob): void {
    if (this.#rule.completeRanged === 'now') this.#complete(repository, right, blob);
    else this.#afterQuiet(repository, right, blob);
  }

  /** A client has read its ranges, or has left. */
  read(repository: Repository, right: Right, blob: PartialBlob): void {
    if (this.#rule.completeRanged !== 'now') this.#afterQuiet(repository, right, blob);
  }

  close(): void {
    this.#isClosed = true;
    for (const timer of this.#quiet.values()) timer.cancel();
    this.#quiet.clear();
  }

  #afterQuiet(repository: Repository, right: Right, blob: PartialBlob): void {
    const { completeRanged = 'never' } = this.#rule;
    const key = `${repository.upstream} ${blob.digest}`;
    this.#quiet.get(key)?.cancel();
    this.#quiet.delete(key);
    if (typeof completeRanged === 'string' || this.#isClosed) return;
    const timer = this.#clock.after(completeRanged, () => {
      this.#quiet.delete(key);
      if (blob.bytes >= blob.size * MIN_SHARE) this.#complete(repository, right, blob);
    });
    this.#quiet.set(key, timer.unref());
  }

  #complete(repository: Repository, right: Right, blob: PartialBlob): void {
    const { digest, size, isOver } = blob;
    if (this.#isClosed || isOver || this.#fills.find(repository.upstream, digest) !== undefined) return;
    void this.#told(repository, blob, this.#fills.startAhead(repository, { digest, size }, right));
  }

  /** Logs that the rest of a blob is downloaded without a client that wants it, and how that ends. Never rejects. */
  async #told(repository: Repository, { digest, size, bytes }: PartialBlob, run: FillRun): Promise<void> {
    const log = this.#log.child({ repository: repositoryText(repository), digest, size });
    log.info({ bytes }, 'the rest of a layer is being downloaded (pulls.completeRanged)');
    const isStored = (await run.unstored) === undefined && run.fill.state === 'verified';
    log.info({}, isStored ? 'the rest of a layer is stored' : 'the rest of a layer could not be stored');
  }
}
