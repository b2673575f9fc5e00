import { setTimeout as sleep } from 'node:timers/promises';
import { backoffMs, jittered } from '../lib/backoff.ts';
import { hasBytes } from '../lib/bytes-reader.ts';
import type { Log } from '../lib/log.ts';
import type { Credential } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { FetchedBlob, HostETag } from '../upstream/upstream.ts';
import { type UpstreamRequests, blobReference, headOfBlob, isRefusal } from './upstream-requests.ts';
import type { Contender } from './contender.ts';
import { nobodyLeft } from './contenders.ts';
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
    super(`upstream sent more than the ${sizeBytes} bytes of the blob`);
    this.name = 'MoreThanNamed';
    this.endpoint = endpoint;
  }
}

/** What upstream gives in whose name has other bytes than what is here. */
export class OtherBytes extends Error {
  constructor(options?: ErrorOptions) {
    super('upstream sent bytes that differ from the stored ones', options);
    this.name = 'OtherBytes';
  }
}

/**
 * So many bytes of what is here an answer has to begin with that goes on from it in another name, or after a restart: nobody
 * guesses them.
 */
export const OVERLAP_BYTES = 4 * 1024;

/** What upstream began to send. */
export interface Delivery {
  readonly contender: Contender;
  /** With which it was asked. */
  readonly credential: Credential | undefined;
  readonly answer: FetchedBlob;
  /** Bytes that were here before. */
  readonly from: number;
  /** Of them, how many it has shown to have too. */
  readonly shownBytes: number;
  /** On `performance.now()`'s clock. */
  readonly atMs: number;
}

export interface DownloadOptions {
  readonly asking: UpstreamRequests;
  readonly digest: Digest;
  readonly log: Log;
  readonly signal: AbortSignal;
  /** Told each time it goes on after a break. */
  readonly resumed: () => void;
  /** Endpoints to leave aside at first, as they gave wrong bytes before. */
  readonly skipEndpoints: Set<number>;
  /** Where to go on. */
  readonly length: () => number;
  /** What is here already, as `BlobReader.read`; left out where it need not be the same for whoever asks. */
  readonly read?: (buffer: Uint8Array, position: number) => Promise<number>;
  /** Of the whole blob, as soon as it is known: an answer with another one is refused. */
  readonly size: () => number | undefined;
  /** Bytes that the blob has at most, where anybody names its size. */
  readonly limit: () => number | undefined;
  readonly write: (chunk: Uint8Array) => Promise<void>;
  /** In whose name to ask now. */
  readonly contender: () => Contender | undefined;
  /** The contender was refused with `failure`: the next one, if there is one and it may go on, takes its place. */
  readonly refused: (contender: Contender, failure: UpstreamFailure) => Promise<void>;
  /** Upstream gives it to the contender. False when the answer proves no right and the contender has none. */
  readonly given: (delivery: Delivery) => boolean;
}

/**
 * Brings all bytes of one blob from `length()` on, whatever breaks on the way: goes on with Range at the byte reached,
 * after a back-off, with the next endpoint, and with another contender when one's right or quota ends. Returns
 * the endpoint that gave the last byte. Rejects with the last failure, with MoreThanNamed as soon as a byte comes that
 * the blob cannot have, with OtherBytes, or with what `write` rejected with.
 */
export async function download(options: DownloadOptions): Promise<number> {
  return new Download(options).run();
}

class Download {
  readonly #options: DownloadOptions;
  #etag: HostETag | undefined;
  #endpoint = 0;
  #hasBegun = false;
  /** Whether the one in whose name it goes on has shown to have what is here. */
  #isShown = false;
  /** From the second attempt on it backs off by itself. */
  #insists = false;
  #fruitless = 0;

  constructor(options: DownloadOptions) {
    this.#options = options;
  }

  async run(): Promise<number> {
    let lastFailure = nobodyLeft();
    for (let contender = this.#next(); contender !== undefined; contender = this.#next()) {
      const before = this.#options.length();
      try {
        if (await this.#attempt(contender)) return this.#endpoint;
        lastFailure = unproved();
        await this.#refused(contender, lastFailure);
      } catch (error) {
        if (!(error instanceof UpstreamFailure)) throw error;
        lastFailure = error;
        this.#insists = true;
        if (this.#options.length() > before) this.#fruitless = 0;
        if (this.#hasBegun) this.#options.asking.broke(contender.repository, error);
        if (isRefusal(error) || error.kind === 'limited') await this.#refused(contender, error);
        else await this.#recover(error);
      }
    }
    throw lastFailure;
  }

  #next(): Contender | undefined {
    this.#options.signal.throwIfAborted();
    return this.#options.contender();
  }

  async #refused(contender: Contender, failure: UpstreamFailure): Promise<void> {
    this.#isShown = false;
    await this.#options.refused(contender, failure);
  }

  /** False when upstream's answer does not let this contender have it. */
  async #attempt(contender: Contender): Promise<boolean> {
    const { asking, digest, signal, skipEndpoints } = this.#options;
    const { repository, right } = contender;
    const from = this.#options.length();
    const shownBytes = this.#isShown || this.#options.read === undefined ? 0 : Math.min(from, OVERLAP_BYTES);
    const atMs = performance.now();
    const { answer, credential } = await asking.ask(
      {
        repository,
        // That the bytes that are here are not upstream's says nothing of whether it has the blob.
        reference: shownBytes > 0 ? `rest of ${blobReference(digest)}` : blobReference(digest),
        shared: undefined,
        // Its bytes do, once they are all there and right.
        proves: false,
        known: contender.state === 'admitted',
        insists: this.#insists,
        head: headOfBlob(repository, digest),
      },
      right,
      (upstream, ask) =>
        upstream.fetchBlob(repository.name, digest, {
          credential: ask.credential,
          signal: AbortSignal.any([ask.signal, signal]),
          offset: from - shownBytes,
          etag: this.#etag,
          size: this.#options.size(),
          skipEndpoints,
        }),
    );
    try {
      return await this.#pour({ contender, credential, answer, from, shownBytes, atMs });
    } finally {
      answer.destroy();
    }
  }

  /** A server that ignores ranges begins at 0: what is here already is read past. False as `#attempt`. */
  async #pour(delivery: Delivery): Promise<boolean> {
    const { answer, from, shownBytes } = delivery;
    let isGiven = false;
    if (shownBytes === 0) {
      isGiven = this.#give(delivery);
      if (!isGiven) return false;
    }
    let position = answer.offset;
    for await (const chunk of answer.body) {
      const known = Math.min(Math.max(0, from - position), chunk.byteLength);
      if (shownBytes > 0) await this.#compare(chunk.subarray(0, known), position, from - shownBytes);
      position += chunk.byteLength;
      if (!isGiven && position >= from) {
        isGiven = this.#give(delivery);
        if (!isGiven) return false;
      }
      if (known < chunk.byteLength) await this.#write(chunk.subarray(known));
    }
    if (!isGiven) throw new OtherBytes();
    return true;
  }

  #give(delivery: Delivery): boolean {
    if (!this.#options.given(delivery)) return false;
    const { etag, endpoint } = delivery.answer;
    this.#hasBegun = true;
    this.#isShown = true;
    this.#etag = etag;
    this.#endpoint = endpoint;
    return true;
  }

  /** Throws where `theirs`, which begin at `position`, differ from what is here, from `start` on. */
  async #compare(theirs: Uint8Array, position: number, start: number): Promise<void> {
    const skipped = Math.min(Math.max(0, start - position), theirs.byteLength);
    const { read = async () => 0 } = this.#options;
    if (!(await hasBytes({ read }, theirs.subarray(skipped), position + skipped))) throw new OtherBytes();
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
      'a download was interrupted and will be resumed',
    );
    await sleep(delayMs, undefined, { signal });
    this.#options.resumed();
  }
}
