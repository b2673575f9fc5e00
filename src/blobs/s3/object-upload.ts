import { randomUUID } from 'node:crypto';
import type { Lease } from '../../lib/lease.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Ingest } from '../spool.ts';
import type { Bucket } from './bucket.ts';
import { payloadOfIngest } from './payload.ts';
import { S3Failure } from './s3-failure.ts';

/** Parts of one blob that are sent at a time. */
const PARTS_AT_ONCE = 3;
/** S3 takes 10,000. */
export const MAX_PARTS = 10_000;

/** What the index has to know of an object that is about to be made; see `MetadataStore`. */
export interface UploadLedger {
  announceObject(
    object: { readonly digest: Digest; readonly key: string; readonly uploadId?: string },
    lease: Lease,
  ): Promise<void>;
  giveUpObject(key: string): Promise<void>;
}

export interface ObjectUploadOptions {
  readonly bucket: Bucket;
  readonly ledger: UploadLedger;
  /** Rejects unless the bucket is the store's. */
  readonly requireOwn: () => Promise<void>;
  readonly digest: Digest;
  /** What the key begins with. */
  readonly folder: string;
  readonly ingest: Ingest;
  readonly partBytes: number;
}

/**
 * Makes an object of what is spooled. Parts are sent as soon as they are complete, while the rest is still to come; but it is no
 * object before `finish`, which is called when the digest is right. The index knows of it before S3 has a byte.
 */
export class ObjectUpload {
  readonly key: string;
  readonly #options: ObjectUploadOptions;
  readonly #tags: string[] = [];
  readonly #stopping = new AbortController();
  readonly #sending = new Set<Promise<void>>();
  #beginning: Promise<string> | undefined;
  #isAnnounced = false;
  #next = 0;
  #failure: { readonly cause: unknown } | undefined;

  constructor(options: ObjectUploadOptions) {
    this.#options = options;
    this.key = `${options.folder}${randomUUID()}`;
  }

  /** Whether a part could not be sent: what is left is to `drop` it. */
  get hasFailed(): boolean {
    return this.#failure !== undefined;
  }

  /** Whether parts are sent already. */
  get hasBegun(): boolean {
    return this.#beginning !== undefined;
  }

  /** Call when the ingest has grown: sends what is complete. What fails is known at the end. */
  advance(): void {
    const { ingest, partBytes } = this.#options;
    // A blob of a single part is sent at the end, by one request.
    while (this.#mayHurry && (this.#next + 1) * partBytes < ingest.offset) this.#sendNext(ingest.offset);
  }

  /** Sends the rest, and makes the object; the ingest has all bytes, and the right ones. */
  async finish(): Promise<void> {
    const { bucket, ingest, partBytes } = this.#options;
    const { lease, offset: size } = ingest;
    if (size <= partBytes) {
      await this.#announce();
      await bucket.put(this.key, await payloadOfIngest(ingest, { start: 0, end: size }));
      return;
    }
    while (this.#failure === undefined && this.#next * partBytes < size) {
      if (this.#sending.size < PARTS_AT_ONCE) this.#sendNext(size);
      else await Promise.race(this.#sending);
    }
    await Promise.all(this.#sending);
    if (this.#failure !== undefined) throw this.#failure.cause;
    await lease.confirm();
    await this.#complete(await this.#begin(), size);
  }

  /** Ends it without an object; resolves when the ingest is not read any more. */
  async drop(): Promise<void> {
    this.#stopping.abort(new Error('the upload was dropped'));
    await Promise.allSettled(this.#sending);
    const id = await this.#beginning?.catch(() => undefined);
    // What is left of it, if this fails, is removed by a collection.
    if (id !== undefined) void this.#options.bucket.abortUpload(this.key, id).catch(() => {});
    if (this.#isAnnounced) await this.#options.ledger.giveUpObject(this.key).catch(() => {});
  }

  /** As `drop`, also after `finish`: what it has made goes. */
  async remove(): Promise<void> {
    await this.drop();
    // What is left, if this fails, is removed by a collection.
    if (this.#isAnnounced) await this.#options.bucket.delete(this.key).catch(() => {});
  }

  get #mayHurry(): boolean {
    return this.#failure === undefined && this.#sending.size < PARTS_AT_ONCE && this.#next + 1 < MAX_PARTS;
  }

  #sendNext(offset: number): void {
    const at = this.#next++;
    const sending = this.#send(at, offset)
      .catch((cause: unknown) => {
        this.#failure ??= { cause };
      })
      .finally(() => {
        this.#sending.delete(sending);
        if (!this.#stopping.signal.aborted) this.advance();
      });
    this.#sending.add(sending);
  }

  async #send(at: number, offset: number): Promise<void> {
    const { bucket, ingest, partBytes } = this.#options;
    const { signal } = this.#stopping;
    const id = await this.#begin();
    const span = { start: at * partBytes, end: Math.min((at + 1) * partBytes, offset) };
    await ingest.lease.confirm();
    const payload = await payloadOfIngest(ingest, span);
    signal.throwIfAborted();
    this.#tags[at] = await bucket.putPart(this.key, id, { number: at + 1, payload, signal });
  }

  #begin(): Promise<string> {
    this.#beginning ??= this.#beginNow();
    return this.#beginning;
  }

  async #beginNow(): Promise<string> {
    const { bucket, requireOwn } = this.#options;
    await requireOwn();
    const id = await bucket.beginUpload(this.key);
    // Before the first part, so that nothing lies in the bucket of which the index does not know.
    await this.#announce(id).catch(async (error: unknown) => {
      await bucket.abortUpload(this.key, id).catch(() => {});
      throw error;
    });
    return id;
  }

  async #announce(uploadId?: string): Promise<void> {
    const { ledger, digest, ingest, requireOwn } = this.#options;
    if (uploadId === undefined) await requireOwn();
    this.#isAnnounced = true;
    await ledger.announceObject(
      { digest, key: this.key, ...(uploadId !== undefined && { uploadId }) },
      ingest.lease,
    );
  }

  /** Completes the upload. If the answer was lost, the object shows that it was completed. */
  async #complete(id: string, size: number): Promise<void> {
    const { bucket } = this.#options;
    const failure = await bucket.completeUpload(this.key, id, this.#tags).then(
      () => undefined,
      (error: unknown) => error,
    );
    const stored = await bucket.size(this.key);
    if (stored === size) return;
    throw failure ?? new S3Failure(`S3 has ${stored ?? 'no'} bytes of ${this.key}, whose ${size} it took`);
  }
}
