import { setImmediate as settled } from 'node:timers/promises';
import type { BlobStore, StoredBlob } from '../blobs/blob-store.ts';
import type { Ingest, Spool } from '../blobs/spool.ts';
import { type Lease, LeaseLost } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import { leaseAfterWait } from '../lib/with-lease.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';

/**
 * How long an upload stays open after a request. The next request usually follows at once, and then the hash of what
 * arrived so far is already known. Short, since another process has to wait for it.
 */
const LINGER_MS = 1000;
/**
 * How long to wait for another process before the client is told that the upload is in use. A suspended process is
 * considered dead after 5 s, and a client should not have to try twice.
 */
const LEASE_WAIT_MS = 8000;

/** An upload while one request uses it. */
export class Session {
  readonly ingest: Ingest;
  #state: 'open' | 'ended' | 'broken' = 'open';

  constructor(ingest: Ingest) {
    this.ingest = ingest;
  }

  get lease(): Lease {
    return this.ingest.lease;
  }

  /** `broken`: it has ended, and its bytes may still be in the store. */
  get state(): 'open' | 'ended' | 'broken' {
    return this.#state;
  }

  /**
   * Makes it the blob `digest`. A failure ends the session, too, and leaves the bytes in the store; but while the store is
   * unavailable the session continues.
   */
  async commit(digest: Digest, blobs: Pick<BlobStore, 'put'>): Promise<StoredBlob> {
    this.#state = 'broken';
    try {
      const stored = await blobs.put(digest, this.ingest);
      this.#state = 'ended';
      return stored;
    } catch (error) {
      if (isUnavailable(error)) this.#state = 'open';
      throw error;
    }
  }

  async abort(): Promise<void> {
    this.#state = 'ended';
    await this.ingest.abort();
  }
}

/** Whether the store of blobs cannot be reached for now. */
function isUnavailable(error: unknown): boolean {
  return error instanceof OciError && error.code === 'UNAVAILABLE';
}

interface Parts {
  readonly spool: Spool;
  readonly metadata: MetadataStore;
  readonly log: Log;
  readonly leaseWaitMs?: number;
}

/**
 * The uploads that this process has open. An upload is used by one request at a time, here and in all processes on the
 * store; between requests it is a file and a row, which survive this process.
 */
export class Sessions {
  readonly #parts: Parts;
  /** The request that currently uses each upload. */
  readonly #inUse = new Map<string, Promise<unknown>>();
  readonly #open = new Map<string, Ingest>();
  readonly #lingering = new Map<string, NodeJS.Timeout>();
  readonly #resting = new Map<string, Promise<void>>();
  #isStopping = false;
  #isClosed = false;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Runs `work` with exclusive use of the upload; TOOMANYREQUESTS if another request uses it. */
  async use<T>(id: string, work: (session: Session) => Promise<T>): Promise<T> {
    if (this.#inUse.has(id)) throw inUse();
    if (this.#isClosed) throw stopping();
    const using = this.#use(id, work).finally(() => this.#inUse.delete(id));
    this.#inUse.set(id, using);
    return using;
  }

  /** How many bytes have arrived, whoever is writing. */
  async offset(id: string): Promise<number> {
    const { metadata, spool } = this.#parts;
    const lease = await metadata.readLease(ingestKey(id));
    const open = this.#open.get(id);
    if (open !== undefined && open.lease.epoch === lease?.epoch) return open.offset;
    return spool.length(ingestKey(id), lease?.epoch);
  }

  /** From now on no request waits for an upload that another process uses. */
  stopWaiting(): void {
    this.#isStopping = true;
  }

  /**
   * Waits until no upload is in use, however long that takes, and suspends them all. Only then may this process give up
   * its leases: another one would continue in the same files.
   */
  async close(): Promise<void> {
    this.#isStopping = true;
    while (this.#inUse.size > 0) {
      await Promise.allSettled(this.#inUse.values());
      // A request that fails may then end its upload, which is another use.
      await settled();
    }
    this.#isClosed = true;
    for (const id of this.#lingering.keys()) this.#rest(id);
    await Promise.all(this.#resting.values());
  }

  async #use<T>(id: string, work: (session: Session) => Promise<T>): Promise<T> {
    const session = new Session(await this.#enter(id));
    try {
      return await work(session);
    } finally {
      await this.#leave(id, session);
    }
  }

  async #enter(id: string): Promise<Ingest> {
    await this.#resting.get(id);
    clearTimeout(this.#lingering.get(id));
    this.#lingering.delete(id);
    const open = this.#open.get(id);
    try {
      if (open !== undefined && (await isOurs(open))) return open;
    } catch (error) {
      this.#linger(id);
      throw error;
    }
    this.#open.delete(id);
    await open?.close();
    const { spool, metadata } = this.#parts;
    const lease = await this.#acquireLease(ingestKey(id));
    try {
      const ingest = await spool.ingest(lease);
      this.#open.set(id, ingest);
      return ingest;
    } catch (error) {
      await metadata.setAside(lease);
      throw error;
    }
  }

  async #leave(id: string, session: Session): Promise<void> {
    if (session.state === 'open') {
      this.#linger(id);
      return;
    }
    const { metadata } = this.#parts;
    this.#open.delete(id);
    await session.ingest.close();
    await (session.state === 'ended' ? metadata.release(session.lease) : metadata.setAside(session.lease));
  }

  #linger(id: string): void {
    this.#lingering.set(id, setTimeout(() => this.#rest(id), LINGER_MS).unref());
  }

  /** Gives the upload back to the store, where any process may continue it. */
  #rest(id: string): void {
    const open = this.#open.get(id);
    clearTimeout(this.#lingering.get(id));
    this.#lingering.delete(id);
    this.#open.delete(id);
    if (open === undefined) return;
    const resting = this.#suspend(id, open).finally(() => this.#resting.delete(id));
    this.#resting.set(id, resting);
  }

  async #suspend(id: string, ingest: Ingest): Promise<void> {
    try {
      await ingest.suspend();
      await ingest.close();
      await this.#parts.metadata.setAside(ingest.lease);
    } catch (error) {
      this.#parts.log.error({ err: error, upload: id }, 'an upload could not be suspended');
    }
  }

  async #acquireLease(key: string): Promise<Lease> {
    const { metadata, leaseWaitMs = LEASE_WAIT_MS } = this.#parts;
    const mayWait = (waitedMs: number): boolean => waitedMs < leaseWaitMs && !this.#isStopping;
    const lease = await leaseAfterWait(metadata, key, { mayWait });
    if (lease === undefined) throw inUse();
    return lease;
  }
}

/** False if another process has taken it over while this one was suspended. */
async function isOurs({ lease }: Ingest): Promise<boolean> {
  try {
    await lease.confirm();
    return true;
  } catch (error) {
    if (error instanceof LeaseLost) return false;
    throw error;
  }
}

const KEY_PREFIX = 'upload-';

/** The key of an upload's ingest, and of its Lease. */
export function ingestKey(id: string): string {
  return KEY_PREFIX + id;
}

/** The upload that an ingest's key belongs to; `undefined` for the key of anything else. */
export function uploadOf(key: string): string | undefined {
  return key.startsWith(KEY_PREFIX) ? key.slice(KEY_PREFIX.length) : undefined;
}

/**
 * The error for a request whose upload another process has taken over, from what had arrived before this one was
 * suspended.
 */
export function takenOver(): OciError {
  return new OciError('UNAVAILABLE', {
    message: 'another process has taken over this upload: get its status and continue from there',
    headers: { 'Retry-After': '1' },
  });
}

function stopping(): OciError {
  return new OciError('UNAVAILABLE', { message: 'this server is stopping', headers: { 'Retry-After': '1' } });
}

function inUse(): OciError {
  return new OciError('TOOMANYREQUESTS', {
    message: 'another request is writing to this upload',
    headers: { 'Retry-After': '1' },
  });
}
