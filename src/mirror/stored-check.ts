import type { Log } from '../lib/log.ts';
import { Lru } from '../lib/lru.ts';
import { within } from '../lib/within.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';

/** A client waits for the answer: enough for a gibibyte or two. */
const CHECK_WITHIN_MS = 5_000;

/** For how long an intact blob is not read again, so that an upstream with wrong bytes does not cause a read each time. */
const INTACT_FOR_MS = 600_000;

/** As many blobs as an upstream with wrong answers to everything is asked for in that time. */
const MAX_INTACT = 10_000;

/** As many blobs as an image has; an upstream with wrong answers to everything must not queue up the whole store. */
const MAX_CHECKS = 128;

/** Reads a stored blob again, and sets it aside if it is damaged. Returns whether it was; rejects if that is not known. */
export type SetAsideIfDamaged = (digest: Digest) => Promise<boolean>;

/**
 * The stored blob was damaged and has been set aside, or it is gone or replaced: it has to be opened again. Clients get it if
 * that happens again and again.
 */
export class StoredBlobChanged extends OciError {
  constructor(digest: Digest) {
    super('UNAVAILABLE', {
      message: 'the stored content keeps changing: try again',
      headers: { 'Retry-After': '1' },
      detail: { digest },
    });
  }
}

/** Reads stored blobs again when upstream has other bytes: one of the two is wrong. */
export class StoredCheck {
  readonly #setAsideIfDamaged: SetAsideIfDamaged;
  readonly #log: Log;
  readonly #intact = new Lru<{ readonly digest: Digest }>({
    maxEntries: MAX_INTACT,
    maxAgeMs: INTACT_FOR_MS,
  });
  /** The checks that wait or run; whether each blob was damaged. */
  readonly #checks = new Map<Digest, Promise<boolean>>();
  #last: Promise<unknown> = Promise.resolve();

  constructor(setAsideIfDamaged: SetAsideIfDamaged, log: Log) {
    this.#setAsideIfDamaged = setAsideIfDamaged;
    this.#log = log;
  }

  /**
   * Rejects with `StoredBlobChanged` if the stored bytes did not match the digest. Resolves if they do, if they are gone, or if
   * that is not known soon: blobs are read one after the other.
   */
  async requireIntact(digest: Digest): Promise<void> {
    if (this.#intact.get(digest) !== undefined) return;
    const wasDamaged = this.#checks.get(digest) ?? this.#queue(digest);
    if ((await within(wasDamaged, CHECK_WITHIN_MS)) === true) throw new StoredBlobChanged(digest);
  }

  /** False without a check if too many wait. */
  async #queue(digest: Digest): Promise<boolean> {
    if (this.#checks.size >= MAX_CHECKS) return false;
    const wasDamaged = this.#last.then(() => this.#check(digest));
    this.#last = wasDamaged;
    this.#checks.set(digest, wasDamaged);
    return wasDamaged;
  }

  async #check(digest: Digest): Promise<boolean> {
    try {
      const wasDamaged = await this.#setAsideIfDamaged(digest);
      if (!wasDamaged) this.#intact.set(digest, { digest });
      return wasDamaged;
    } catch (error) {
      this.#log.warn({ err: error, digest }, 'a stored blob could not be checked');
      return false;
    } finally {
      this.#checks.delete(digest);
    }
  }
}
