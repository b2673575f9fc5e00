import type { BlobStore } from '../blobs/blob-store.ts';
import type { Log } from '../lib/log.ts';
import { Lru } from '../lib/lru.ts';
import { LATE, within } from '../lib/within.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';

/** A client waits for the answer: enough for a gibibyte or two. */
const CHECK_WITHIN_MS = 5_000;

/** For how long a blob that was right is not read again, so that an upstream with wrong bytes does not cause a read each time. */
const RIGHT_FOR_MS = 600_000;

/** As many blobs as an upstream with wrong answers to everything is asked for in that time. */
const MAX_RIGHT = 10_000;

/** Until a scrub has replaced or given up the blob; somebody has to begin it. */
const RETRY_AFTER_S = '60';

/** Reads stored blobs again when upstream has other bytes: one of the two is wrong. */
export class StoredCheck {
  readonly #blobs: Pick<BlobStore, 'rehash'>;
  readonly #log: Log;
  readonly #right = new Lru<{ readonly digest: Digest }>({ maxEntries: MAX_RIGHT, maxAgeMs: RIGHT_FOR_MS });
  #isChecking = false;

  constructor(blobs: Pick<BlobStore, 'rehash'>, log: Log) {
    this.#blobs = blobs;
    this.#log = log;
  }

  /**
   * Rejects with UNAVAILABLE if the stored bytes do not match the digest. Resolves if they do, or if that is not known soon:
   * one blob is read at a time.
   */
  async require(digest: Digest): Promise<void> {
    if (this.#isChecking || this.#right.get(digest) !== undefined) return;
    const actual = await within(this.#check(digest), CHECK_WITHIN_MS);
    if (actual === LATE || actual === digest) return;
    throw new OciError('UNAVAILABLE', {
      message: 'the stored content does not match its digest',
      headers: { 'Retry-After': RETRY_AFTER_S },
      detail: { digest },
    });
  }

  /** The digest of the stored bytes; the blob's own if that cannot be found out. */
  async #check(digest: Digest): Promise<Digest> {
    this.#isChecking = true;
    try {
      const actual = (await this.#blobs.rehash(digest, { bytesPerSecond: 0 })) ?? digest;
      if (actual === digest) this.#right.set(digest, { digest });
      else this.#log.error({ digest, actual }, 'a stored blob is damaged: entrepot scrub sets it aside');
      return actual;
    } catch (error) {
      this.#log.warn({ err: error, digest }, 'a stored blob could not be checked');
      return digest;
    } finally {
      this.#isChecking = false;
    }
  }
}
