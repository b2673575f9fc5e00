import { setTimeout as sleep } from 'node:timers/promises';
import { backoffMs, jittered } from '../lib/backoff.ts';
import type { Log } from '../lib/log.ts';
import type { Digest } from '../oci/digest.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { FetchedBlob, HostETag } from '../upstream/upstream.ts';
import { type Asking, blobReference, isRefusal } from './asking.ts';
import type { Contender } from './contender.ts';
import { unproved } from './links.ts';

/** So often in a row a download may break without a new byte before it is given up. */
const MAX_FRUITLESS = 5;
/** An endpoint that breaks so often without a new byte is left aside: another may have the rest. */
const FRUITLESS_BEFORE_NEXT_ENDPOINT = 2;
/** Short at first, since a broken connection is usually a single one; in all about 4 s. */
const BACKOFF = { firstMs: 100, maxMs: 2_000 };

/** Upstream sent more than the blob can have. What came of it is not to be kept, and that endpoint not to be believed. */
export class MoreThanNamed extends Error {
  readonly endpoint: number;

  constructor(sizeBytes: number, endpoint: number) {
    super(`upstream sends more than the ${sizeBytes} bytes that the blob has`);
    this.name = 'MoreThanNamed';
    this.endpoint = endpoint;
  }
}

export interface DownloadOptions {
  readonly asking: Asking;
  readonly digest: Digest;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Told each time it goes on after a break. */
  readonly resumed: () => void;
  /** Endpoints to leave aside at first, as they gave wrong bytes before. */
  readonly skipEndpoints: Set<number>;
  /** Where to go on. */
  readonly length: () => number;
  /** Of the whole blob, as soon as it is known: an answer with another one is refused. */
  readonly size: () => number | undefined;
  /** Bytes that the blob has at most, where anybody names its size. */
  readonly limit: () => number | undefined;
  readonly write: (chunk: Uint8Array) => Promise<void>;
  /** In whose name to ask now. */
  readonly contender: () => Contender | undefined;
  /** The contender was refused with `failure`: the next one, if there is one, takes its place. */
  readonly refused: (contender: Contender, failure: UpstreamFailure) => void;
  /** Upstream gives it to `contender`. False when the answer proves no right and `contender` has none. */
  readonly given: (contender: Contender, answer: FetchedBlob) => boolean;
}

/**
 * Brings all bytes of one blob from `length()` on, whatever breaks on the way: goes on with Range at the byte reached,
 * after a back-off, with the next endpoint, and with another contender when one's right or quota ends. Returns
 * the endpoint that gave the last byte. Rejects with the last failure, with MoreThanNamed as soon as a byte comes that
 * the blob cannot have, or with what `write` rejected with.
 */
export async function download(options: DownloadOptions): Promise<number> {
  return new Download(options).run();
}

class Download {
  readonly #options: DownloadOptions;
  #etag: HostETag | undefined;
  #endpoint = 0;
  #hasBegun = false;
  /** From the second attempt on it backs off by itself. */
  #insists = false;
  #fruitless = 0;

  constructor(options: DownloadOptions) {
    this.#options = options;
  }

  async run(): Promise<number> {
    let lastFailure = new UpstreamFailure('denied', 'nobody may ask upstream for this blob');
    for (let contender = this.#next(); contender !== undefined; contender = this.#next()) {
      const before = this.#options.length();
      try {
        if (await this.#attempt(contender)) return this.#endpoint;
        lastFailure = unproved();
        this.#options.refused(contender, lastFailure);
      } catch (error) {
        if (!(error instanceof UpstreamFailure)) throw error;
        lastFailure = error;
        this.#insists = true;
        if (this.#options.length() > before) this.#fruitless = 0;
        if (isRefusal(error) || error.kind === 'limited') this.#options.refused(contender, error);
        else await this.#recover(error);
      }
    }
    throw lastFailure;
  }

  #next(): Contender | undefined {
    this.#options.signal.throwIfAborted();
    return this.#options.contender();
  }

  /** False when upstream's answer does not let this contender have it. */
  async #attempt(contender: Contender): Promise<boolean> {
    const { asking, digest, signal, skipEndpoints } = this.#options;
    const { repository, right } = contender;
    const offset = this.#options.length();
    const { answer } = await asking.ask(
      {
        repository,
        reference: blobReference(digest),
        shared: undefined,
        proves: true,
        known: contender.state === 'admitted',
        insists: this.#insists,
      },
      right,
      (upstream, ask) =>
        upstream.fetchBlob(repository.name, digest, {
          credential: ask.credential,
          signal: AbortSignal.any([ask.signal, signal]),
          offset,
          etag: this.#etag,
          size: this.#options.size(),
          skipEndpoints,
        }),
    );
    try {
      if (!this.#options.given(contender, answer)) return false;
      this.#hasBegun = true;
      this.#etag = answer.etag;
      this.#endpoint = answer.endpoint;
      await this.#pour(answer, offset);
      return true;
    } finally {
      answer.destroy();
    }
  }

  /** A server that ignores ranges begins at 0: what is here already is read past. */
  async #pour(answer: FetchedBlob, offset: number): Promise<void> {
    let known = offset - answer.offset;
    for await (const chunk of answer.body) {
      const fresh = known === 0 ? chunk : chunk.subarray(Math.min(known, chunk.byteLength));
      known -= chunk.byteLength - fresh.byteLength;
      if (fresh.byteLength > 0) await this.#write(fresh);
    }
  }

  async #write(chunk: Uint8Array): Promise<void> {
    const { length, limit, write } = this.#options;
    const limitBytes = limit() ?? Number.POSITIVE_INFINITY;
    if (length() + chunk.byteLength > limitBytes) throw new MoreThanNamed(limitBytes, this.#endpoint);
    await write(chunk);
  }

  /** Returns when it is worth another attempt; throws `failure` when not. */
  async #recover(failure: UpstreamFailure): Promise<void> {
    const { skipEndpoints, digest, log, signal } = this.#options;
    if (!this.#hasBegun) {
      // All endpoints that are left have failed: better one that was wrong once than none.
      if (skipEndpoints.size === 0) throw failure;
      skipEndpoints.clear();
      return;
    }
    this.#fruitless++;
    if (this.#fruitless > MAX_FRUITLESS) throw failure;
    const hasSkipped = skipEndpoints.size > 0;
    // An endpoint is left aside for one attempt, not for good: there may be no other.
    skipEndpoints.clear();
    if (!hasSkipped && (failure.kind === 'invalid' || this.#fruitless >= FRUITLESS_BEFORE_NEXT_ENDPOINT)) {
      skipEndpoints.add(failure.endpoint ?? this.#endpoint);
    }
    const delayMs = jittered(backoffMs(BACKOFF, this.#fruitless));
    log.info(
      { digest, offset: this.#options.length(), delayMs, reason: failure.message },
      'a download broke and will go on',
    );
    await sleep(delayMs, undefined, { signal });
    this.#options.resumed();
  }
}
