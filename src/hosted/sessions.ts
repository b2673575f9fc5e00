import type { BlobStore, Ingest } from '../blobs/blob-store.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Log } from '../lib/log.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';

/**
 * After a request an upload stays open for so long: the next one mostly follows at once, and then finds the hash of
 * what came so far already made. Short, because another process has to wait for it.
 */
const LINGER_MS = 1000;
/**
 * How long another process is waited for before the client hears that the upload is in use: one that was killed is
 * known to be dead after 5 s, and a client that resumes right after a restart should not have to try twice.
 */
const CLAIM_WAIT_MS = 8000;
const CLAIM_POLL_MS = 50;

/** An upload in the hands of one request. */
export class Session {
  readonly ingest: Ingest;
  #ended = false;

  constructor(ingest: Ingest) {
    this.ingest = ingest;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** Makes it the blob `digest`. A failure ends the session too; the bytes then wait in the store. */
  async commit(digest: Digest): Promise<void> {
    this.#ended = true;
    await this.ingest.commit(digest);
  }

  async abort(): Promise<void> {
    this.#ended = true;
    await this.ingest.abort();
  }
}

interface Parts {
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly log: Log;
  readonly claimWaitMs?: number;
}

/**
 * The uploads that are open in this process. An upload is one request's at a time, here and in every process on the
 * store; between requests it is a file and a row, which survive this process.
 */
export class Sessions {
  readonly #parts: Parts;
  readonly #inUse = new Set<string>();
  readonly #open = new Map<string, Ingest>();
  readonly #lingering = new Map<string, NodeJS.Timeout>();
  readonly #resting = new Map<string, Promise<void>>();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Runs `work` with the upload to itself; TOOMANYREQUESTS when another request has it. */
  async use<T>(id: string, work: (session: Session) => Promise<T>): Promise<T> {
    if (this.#inUse.has(id)) throw inUse();
    this.#inUse.add(id);
    try {
      const session = new Session(await this.#enter(id));
      try {
        return await work(session);
      } finally {
        await this.#leave(id, session);
      }
    } finally {
      this.#inUse.delete(id);
    }
  }

  /** Bytes received so far, whoever is writing. */
  async offset(id: string): Promise<number> {
    const ingest = this.#open.get(id);
    if (ingest !== undefined) return ingest.offset;
    const follower = await this.#parts.blobs.follow(ingestKey(id));
    if (follower === undefined) return 0;
    try {
      return await follower.length();
    } finally {
      await follower.close();
    }
  }

  /** Suspends what lingers. Call it when no request is left. */
  async close(): Promise<void> {
    for (const id of this.#lingering.keys()) this.#rest(id);
    await Promise.all(this.#resting.values());
  }

  async #enter(id: string): Promise<Ingest> {
    await this.#resting.get(id);
    clearTimeout(this.#lingering.get(id));
    this.#lingering.delete(id);
    const open = this.#open.get(id);
    if (open !== undefined) return open;
    const key = ingestKey(id);
    await this.#claim(key);
    try {
      const ingest = await this.#parts.blobs.ingest(key);
      this.#open.set(id, ingest);
      return ingest;
    } catch (error) {
      await this.#parts.metadata.release(key);
      throw error;
    }
  }

  async #leave(id: string, session: Session): Promise<void> {
    if (session.ended) {
      this.#open.delete(id);
      await session.ingest.close();
      await this.#parts.metadata.release(ingestKey(id));
      return;
    }
    this.#lingering.set(id, setTimeout(() => this.#rest(id), LINGER_MS).unref());
  }

  /** Gives the upload back to the store, where any process may take it up. */
  #rest(id: string): void {
    const ingest = this.#open.get(id);
    clearTimeout(this.#lingering.get(id));
    this.#lingering.delete(id);
    this.#open.delete(id);
    if (ingest === undefined) return;
    const resting = this.#suspend(id, ingest).finally(() => this.#resting.delete(id));
    this.#resting.set(id, resting);
  }

  async #suspend(id: string, ingest: Ingest): Promise<void> {
    try {
      await ingest.suspend();
      await ingest.close();
      await this.#parts.metadata.release(ingestKey(id));
    } catch (error) {
      this.#parts.log.error({ err: error, upload: id }, 'an upload could not be put aside');
    }
  }

  async #claim(key: string): Promise<void> {
    const { metadata, claimWaitMs = CLAIM_WAIT_MS } = this.#parts;
    for (let waitedMs = 0; !(await metadata.claim(key)); waitedMs += CLAIM_POLL_MS) {
      if (waitedMs >= claimWaitMs) throw inUse();
      await sleep(CLAIM_POLL_MS);
    }
  }
}

const KEY_PREFIX = 'upload-';

/** The key of an upload's ingest, and of the Claim on it. */
export function ingestKey(id: string): string {
  return KEY_PREFIX + id;
}

/** The upload that an ingest's key belongs to; `undefined` for a key of somebody else's. */
export function uploadOf(key: string): string | undefined {
  return key.startsWith(KEY_PREFIX) ? key.slice(KEY_PREFIX.length) : undefined;
}

function inUse(): OciError {
  return new OciError('TOOMANYREQUESTS', {
    message: 'another request is writing to this upload',
    headers: { 'Retry-After': '1' },
  });
}
