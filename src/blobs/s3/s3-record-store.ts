import { collectBytes } from '../../lib/collect-bytes.ts';
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
    return this.#do(async ({ bucket }) => {
      const size = await bucket.size(requireRecordName(name));
      if (size === undefined) return undefined;
      if (size > maxBytes) throw new RecordTooLarge(name);
      if (size === 0) return new Uint8Array();
      const response = await bucket.get(name, { start: 0, end: size }, { size });
      return response && collectBytes(response.body, size, () => new RecordTooLarge(name));
    });
  }

  async remove(name: string): Promise<void> {
    await this.#do(({ bucket }) => bucket.delete(requireRecordName(name)));
  }

  async *list(folder: string): AsyncIterable<FoundRecord> {
    try {
      await this.#own.mark.require();
      for await (const { key, size } of this.#own.bucket.list(`${folder}/`)) yield { name: key, size };
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
