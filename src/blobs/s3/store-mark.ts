import { BlobsUnusable } from '../blobs-unusable.ts';
import type { Bucket } from './bucket.ts';
import { LOST } from './bucket-watch.ts';
import { payloadOfBytes } from './payload.ts';
import { S3Failure } from './s3-failure.ts';

const FOLDER = 'stores/';
/**
 * An object that says which store the blobs in a bucket belong to. Two stores with the same bucket and prefix would
 * collect each other's blobs; and where it is missing, everything else is, which says nothing about single blobs.
 */
export class StoreMark {
  readonly #bucket: Bucket;
  readonly #id: string;
  #seenAtMs = Number.NEGATIVE_INFINITY;

  /** `id`: that of the store. */
  constructor(bucket: Bucket, id: string) {
    this.#bucket = bucket;
    this.#id = id;
  }

  /**
   * Marks the bucket as this store's. Throws BlobsUnusable if it is another one's, or has blobs of a store that is
   * unknown, unless `takesOver`: then those marks are removed. Of two stores that claim it at the same time, at most one
   * succeeds.
   */
  async claim({ takesOver }: { readonly takesOver: boolean }): Promise<void> {
    const marks = await this.#marks();
    const others = marks.filter(key => key !== this.#key);
    if (!takesOver) this.#requireOwn(others);
    if (others.length === marks.length) {
      if (!takesOver) await this.#requireNoBlobs();
      await this.#bucket.put(this.#key, payloadOfBytes(Buffer.from(`${this.#id}\n`)));
      if (!takesOver) await this.#requireStillOwn();
    }
    for (const key of others) await this.#bucket.delete(key);
  }

  /** Throws BlobsUnusable if the bucket can be reached, and does not belong to this store. */
  async check(): Promise<void> {
    if ((await this.#bucket.size(this.#key)) !== undefined) return;
    throw new BlobsUnusable(
      `${this.#bucket.name} does not have the blobs of this store (it has no object ${this.#key}): correct ` +
        'storage.s3, or, if the objects were copied there, copy this one, too',
    );
  }

  /**
   * Throws an S3Failure unless the bucket is there and is this store's: call it before an object counts as missing.
   * `seenWithinMs`: how long ago it may have been seen, for callers whom that satisfies. Default: it is looked for now.
   */
  async require(seenWithinMs = 0): Promise<void> {
    if (performance.now() - this.#seenAtMs < seenWithinMs) return;
    if ((await this.#bucket.size(this.#key)) === undefined) {
      const failure = new S3Failure(
        `${this.#bucket.name} has lost everything: it has no object ${this.#key}`,
        {
          code: LOST,
        },
      );
      this.#bucket.watch?.failed(failure);
      throw failure;
    }
    this.#seenAtMs = performance.now();
  }

  get #key(): string {
    return FOLDER + this.#id;
  }

  async #marks(): Promise<string[]> {
    const marks: string[] = [];
    for await (const { key } of this.#bucket.list(FOLDER)) marks.push(key);
    return marks;
  }

  #requireOwn([other]: readonly string[]): void {
    if (other !== undefined) throw this.#foreign(`belongs to another store (${other})`);
  }

  async #requireNoBlobs(): Promise<void> {
    for await (const { key } of this.#bucket.list('blobs/'))
      throw this.#foreign(`has blobs of a store that is not known (${key})`);
  }

  /** Another store may have marked it since: each then sees the mark of the other, and withdraws its own. */
  async #requireStillOwn(): Promise<void> {
    const others = (await this.#marks()).filter(key => key !== this.#key);
    if (others.length > 0) await this.#bucket.delete(this.#key);
    this.#requireOwn(others);
  }

  #foreign(what: string): BlobsUnusable {
    return new BlobsUnusable(
      `${this.#bucket.name} ${what}: use another prefix, or, if that store is gone, entrepot rebuild, which takes its ` +
        'blobs over',
    );
  }
}
