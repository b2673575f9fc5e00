import { randomUUID } from 'node:crypto';
import type { Lease } from '../../lib/lease.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Bucket } from './bucket.ts';
import type { ObjectUpload, UploadLedger } from './object-upload.ts';
import { S3Failure } from './s3-failure.ts';

/** S3 copies no more at once. */
export const MAX_COPIED_BYTES = 5 * 1024 ** 3;

export interface ObjectCopyOptions {
  readonly bucket: Bucket;
  readonly ledger: UploadLedger;
  readonly digest: Digest;
  /** What the key begins with. */
  readonly folder: string;
  readonly lease: Lease;
  /** Bytes. */
  readonly size: number;
}

/**
 * Makes the object of a digest from an upload that was begun before the digest was known: S3 copies what it has to a key that
 * names it, which costs no transfer.
 */
export class ObjectCopy {
  readonly key: string;
  readonly #upload: ObjectUpload;
  readonly #options: ObjectCopyOptions;
  #isAnnounced = false;

  constructor(upload: ObjectUpload, options: ObjectCopyOptions) {
    this.#upload = upload;
    this.#options = options;
    this.key = `${options.folder}${randomUUID()}`;
  }

  /** Completes the upload and copies its object, which is removed; the ingest has all bytes, and the right ones. */
  async finish(): Promise<void> {
    const { bucket, ledger, digest, lease, size } = this.#options;
    await this.#upload.finish();
    await lease.confirm();
    this.#isAnnounced = true;
    await ledger.announceObject({ digest, key: this.key }, lease);
    await bucket.copy(this.#upload.key, this.key);
    const copied = await bucket.size(this.key);
    if (copied !== size) throw new S3Failure(`S3 has copied ${copied ?? 'no'} bytes of ${size}`);
    await this.#upload.remove();
  }

  /** Ends it without an object; resolves when the ingest is not read any more. */
  async drop(): Promise<void> {
    if (this.#isAnnounced) await this.#options.ledger.giveUpObject(this.key).catch(() => {});
    await this.#upload.remove();
  }
}
