import { blobFault, FILE_MISSING } from '../blobs/blob-fault.ts';
import type { RehashOptions } from '../blobs/blob-store.ts';
import { FORBIDDEN } from '../blobs/unreadable.ts';
import { damagedManifest } from '../metadata/manifest-check.ts';
import type { Content } from '../metadata/metadata-store.ts';
import type { SizedContent } from '../metadata/survey.ts';
import { type Digest, DIGEST_MISMATCH, isDigest } from '../oci/digest.ts';
import type { Stores } from './stores.ts';

/** A damaged page of the index may have changed the digest itself. */
const NO_DIGEST = 'its digest in the index is invalid';

/** Content that was found damaged. */
export interface DamagedContent extends SizedContent {
  readonly reason: string;
  /**
   * `hosted`: it was pushed here, and has to be pushed again. `undefined`: it is still in use, because of a dry run, or
   * because its file may not be read.
   */
  readonly loss: 'hosted' | 'mirrored' | undefined;
}

/**
 * Finds damage, and takes damaged content out of use. It loses its row, so that it is absent rather than wrong: mirrored
 * content is removed, and downloaded again when it is requested; hosted content is refused until it is stored again, and
 * its file is kept in case it can be recovered. The damage is remembered, shown and counted until the content is replaced.
 */
export class Quarantine {
  readonly #stores: Pick<Stores, 'metadata' | 'blobs' | 'log' | 'meter'>;

  constructor(stores: Pick<Stores, 'metadata' | 'blobs' | 'log' | 'meter'>) {
    this.#stores = stores;
  }

  /**
   * Reads a blob at full speed; if it is damaged, adds it and logs that. Returns whether it did. Rejects if the blob cannot
   * be checked.
   */
  async check(digest: Digest): Promise<boolean> {
    const reason = await this.faultOf(digest);
    if (reason === undefined) return false;
    if (reason === FORBIDDEN) throw new Error(reason);
    const content = { kind: 'blob', digest } as const;
    const loss = await this.add(content, reason);
    if (loss !== undefined) this.logLoss({ ...content, reason, loss });
    return loss !== undefined;
  }

  /** What is wrong with the blob; `undefined` if nothing is. Rejects with a failure that is not the blob's own damage. */
  async faultOf(digest: string, read: RehashOptions = { bytesPerSecond: 0 }): Promise<string | undefined> {
    if (!isDigest(digest)) return NO_DIGEST;
    const { metadata, blobs } = this.#stores;
    const fault = await blobFault(blobs, digest, read);
    // It was removed meanwhile.
    if (fault === FILE_MISSING && (await metadata.statBlob(digest)) === undefined) return undefined;
    return fault;
  }

  /** What is wrong with a manifest that the survey has found damaged. */
  faultOfManifest(digest: string): string {
    return isDigest(digest) ? DIGEST_MISMATCH : NO_DIGEST;
  }

  /**
   * Takes damaged content out of use, and counts it. A blob is read a second time, since a push may have replaced it after
   * it was found damaged. `undefined` if it was replaced or removed meanwhile, or if its file may not be read any more.
   */
  async add(content: Content, reason: string, read?: RehashOptions): Promise<DamagedContent['loss']> {
    const loss = await this.#removeRow(content, reason, read);
    if (loss !== undefined) this.#stores.meter.count('scrub_damaged_total', { source: loss });
    return loss;
  }

  /** Tells the operator what to do. */
  logLoss({ kind, digest, reason, loss }: Omit<DamagedContent, 'size'>): void {
    const { log } = this.#stores;
    if (loss === undefined) {
      log.error({ kind, digest, reason }, 'content could not be verified, and stays in use');
    } else if (loss === 'hosted') {
      log.error({ kind, digest, reason }, 'pushed content is damaged and is now refused: push it again');
    } else {
      log.warn(
        { kind, digest, reason },
        'mirrored content was damaged; it is downloaded again when it is requested',
      );
    }
  }

  async #removeRow(
    { kind, digest }: Content,
    reason: string,
    read?: RehashOptions,
  ): Promise<DamagedContent['loss']> {
    const { metadata, blobs } = this.#stores;
    if (!isDigest(digest)) return metadata.quarantine({ kind, digest }, reason);
    if (kind === 'manifest') return metadata.quarantine({ kind, digest }, reason, damagedManifest(digest));
    const removal = await blobs.removal(digest);
    const fault = await this.faultOf(digest, read);
    if (fault === undefined || fault === FORBIDDEN) return undefined;
    let free: (() => Promise<void>) | undefined;
    const loss = await metadata.quarantine({ kind, digest }, reason, {
      key: removal.key,
      isSame: () => removal.isSame(),
      takeAway: () => {
        free ??= removal.takeAway();
      },
    });
    await free?.();
    return loss;
  }
}
