import type { Log } from '../lib/log.ts';
import { Lru } from '../lib/lru.ts';
import { within } from '../lib/within.ts';
import type { Digest } from '../oci/digest.ts';

/** A client waits for the answer: enough for a gibibyte or two. */
const CHECK_WITHIN_MS = 5_000;

/** For how long a blob that was right is not read again, so that an upstream with wrong bytes does not cause a read each time. */
const RIGHT_FOR_MS = 600_000;

/** As many blobs as an upstream with wrong answers to everything is asked for in that time. */
const MAX_RIGHT = 10_000;

/** Reads a stored blob again, and sets it aside if it is damaged. Returns whether it was; rejects if that is not known. */
export type SetAsideIfDamaged = (digest: Digest) => Promise<boolean>;

/** The stored blob was damaged and has been set aside, or it is gone or replaced: it has to be opened again. */
export class StoredBlobChanged extends Error {
  constructor(digest: Digest) {
    super(`the stored bytes of ${digest} were damaged, or are gone`);
  }
}

/** Reads stored blobs again when upstream has other bytes: one of the two is wrong. */
export class StoredCheck {
  readonly #setAsideIfDamaged: SetAsideIfDamaged;
  readonly #log: Log;
  readonly #right = new Lru<{ readonly digest: Digest }>({ maxEntries: MAX_RIGHT, maxAgeMs: RIGHT_FOR_MS });
  #checking: { readonly digest: Digest; readonly wasDamaged: Promise<boolean> } | undefined;

  constructor(setAsideIfDamaged: SetAsideIfDamaged, log: Log) {
    this.#setAsideIfDamaged = setAsideIfDamaged;
    this.#log = log;
  }

  /**
   * Rejects with `StoredBlobChanged` if the stored bytes did not match the digest. Resolves if they do, or if that is not known
   * soon: one blob is read at a time.
   */
  async require(digest: Digest): Promise<void> {
    if (this.#right.get(digest) !== undefined) return;
    this.#checking ??= { digest, wasDamaged: this.#check(digest) };
    const { digest: checked, wasDamaged } = this.#checking;
    if (checked === digest && (await within(wasDamaged, CHECK_WITHIN_MS)) === true)
      throw new StoredBlobChanged(digest);
  }

  async #check(digest: Digest): Promise<boolean> {
    try {
      const wasDamaged = await this.#setAsideIfDamaged(digest);
      if (!wasDamaged) this.#right.set(digest, { digest });
      return wasDamaged;
    } catch (error) {
      this.#log.warn({ err: error, digest }, 'a stored blob could not be checked');
      return false;
    } finally {
      this.#checking = undefined;
    }
  }
}
