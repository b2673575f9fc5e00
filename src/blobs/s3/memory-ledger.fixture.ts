// What an index knows of objects, in memory.
import { LeaseTable, MemoryLeases } from '../../lib/memory-leases.fixture.ts';
import type { Digest } from '../../oci/digest.ts';
import type { BlobRows } from '../blob-store.suite.ts';
import type { ObjectLedger } from './s3-blob-store.ts';

export class MemoryLedger implements ObjectLedger, BlobRows {
  readonly #table = new LeaseTable();
  readonly #leases = new MemoryLeases(this.#table);
  readonly rows = new Map<Digest, { size: number; key?: string }>();
  /** By key, with the multipart upload. */
  readonly announced = new Map<string, string | undefined>();
  readonly givenUp = new Map<string, string | undefined>();

  readonly acquireLease: ObjectLedger['acquireLease'] = key => this.#leases.acquireLease(key);
  readonly readLease: ObjectLedger['readLease'] = key => this.#leases.readLease(key);
  readonly release: ObjectLedger['release'] = (...leases) => this.#leases.release(...leases);

  async statBlob(digest: Digest) {
    return this.rows.get(digest);
  }

  async announceObject({ key, uploadId }: { readonly key: string; readonly uploadId?: string }) {
    this.announced.set(key, uploadId);
  }

  async giveUpObject(key: string) {
    this.givenUp.set(key, this.announced.get(key));
    this.announced.delete(key);
  }

  put(digest: Digest, size: number, { key }: { readonly key?: string }) {
    this.rows.set(digest, { size, ...(key !== undefined && { key }) });
    if (key !== undefined) this.announced.delete(key);
  }

  remove(digest: Digest) {
    this.rows.delete(digest);
  }

  /** As another process sees it. */
  ofAnotherProcess(): ObjectLedger {
    const leases = new MemoryLeases(this.#table);
    return {
      statBlob: digest => this.statBlob(digest),
      announceObject: object => this.announceObject(object),
      giveUpObject: key => this.giveUpObject(key),
      acquireLease: key => leases.acquireLease(key),
      readLease: key => leases.readLease(key),
      release: (...all) => leases.release(...all),
    };
  }
}
