import { type FoundRecord, type RecordStore, requireRecordName, RecordTooLarge } from '../record-store.ts';
import { available, unavailable } from './available.ts';
import { payloadOfBytes } from './payload.ts';
import { MARK_SEEN_WITHIN_MS, type OwnBucket } from './s3-blob-store.ts';
import { S3Failure } from './s3-failure.ts';

/** Records as objects of a bucket, by their names. */
export class S3RecordStore implements RecordStore {
  readonly #own: OwnBucket;

  constructor(own: OwnBucket) {
    this.#own = own;
  }

  async put(name: string, bytes: Uint8Array): Promise<void> {
    await this.#do(({ bucket }) => bucket.put(requireRecordName(name), payloadOfBytes(bytes)));
  }

  read(name: string, maxBytes: number): Promise<Uint8Array | undefined> {
    return this.#do(({ bucket }) =>
      bucket.read(requireRecordName(name), maxBytes, () => new RecordTooLarge(name)),
    );
  }

  async remove(name: string): Promise<void> {
    await this.#do(({ bucket }) => bucket.delete(requireRecordName(name)));
  }

  async *list(folder: string, after?: string): AsyncIterable<FoundRecord> {
    try {
      await this.#own.mark.require();
      for await (const { key, size } of this.#own.bucket.list(`${folder}/`, after)) yield { name: key, size };
    } catch (error) {
      throw error instanceof S3Failure ? unavailable(error) : error;
    }
  }

  /** Does nothing in a bucket that has become another store's. */
  #do<T>(work: (own: OwnBucket) => Promise<T>): Promise<T> {
    return available(
      (async () => {
        await this.#own.mark.require(MARK_SEEN_WITHIN_MS);
        return work(this.#own);
      })(),
    );
  }
}
