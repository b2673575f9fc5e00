import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobStore } from '../blobs/blob-store.ts';
import type { Ingest, Spool } from '../blobs/spool.ts';
import { isStorageFull } from '../blobs/storage-full.ts';
import { removeStrays } from '../blobs/stray-removal.ts';
import { isLeased, LeaseLost, type Presence } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import type { MetadataStore, Upload } from '../metadata/metadata-store.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Requester } from '../oci/requester.ts';
import { type Arrived, type Chunk, type ChunkIngest, takeChunk, takeLastChunk } from './chunk.ts';
import { refusingWhenFull } from './full-storage.ts';
import { noQuota, type Quota } from './quota.ts';
import { ingestKey, type Session, Sessions, takenOver, uploadOf } from './sessions.ts';
import { newUploadId, replicaOfUpload, type UploadCalls, type UploadState } from './upload-calls.ts';

/**
 * Clients upload a few layers at a time, and a CI system that pushes to one repository stays far below this. olareg has
 * the same limit.
 */
const MAX_UPLOADS_PER_REPOSITORY = 1000;
/** So that one requester that never finishes cannot fill the folder of ingests. */
const MAX_UPLOADS_PER_REQUESTER = 5000;
/** How old the row's time may be: far below any sensible expiry, so that most chunks cost no transaction. */
const TOUCH_STEP_MS = 10 * 60 * 1000;
/** Expires this many uploads, then pauses for pushes. */
const EXPIRY_BATCH = 20;
const EXPIRY_PAUSE_MS = 20;
/** At startup, files are checked concurrently: there may be tens of thousands, and nothing is served meanwhile. */
const COUNTED_AT_ONCE = 64;
/** Digest algorithms that `?digest-algorithm=` may announce. */
const ALGORITHMS: ReadonlySet<string> = new Set(['sha256', 'sha512']);

/** Uploads that expired, and how many bytes they had. */
export interface ExpiredUploads {
  readonly items: number;
  readonly bytes: number;
}

/** Which upload a request is about. */
interface Wanted extends Arrived {
  readonly requester: Requester;
  readonly repository: Repository;
  readonly id: string;
}

export interface UploadsOptions {
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly log: Log;
  /** The id of this replica, if there may be several. */
  readonly replica?: string | undefined;
  /** Default: no limit. */
  readonly quota?: Quota | undefined;
  /** How long a client may send nothing. Default: 60 s. */
  readonly bodyIdleMs?: number;
  /** How long to wait for an upload that another process uses. */
  readonly leaseWaitMs?: number;
  /** How many may be unfinished. Default: 1,000. */
  readonly maxUploadsPerRepository?: number;
  /** How many may be unfinished, in all repositories. Default: 5,000. */
  readonly maxUploadsPerRequester?: number;
}

/**
 * Pushing blobs (distribution-spec, "Pushing blobs"). An upload belongs to one repository and one requester; for
 * anybody else it does not exist. Its state is a row and the length of its ingest, so it survives every process. A
 * chunk is acknowledged when it is written, a blob when file, folder and row are durable.
 */
export class Uploads implements UploadCalls {
  readonly #options: UploadsOptions;
  readonly #sessions: Sessions;

  constructor(options: UploadsOptions) {
    this.#options = options;
    this.#sessions = new Sessions(options);
  }

  /**
   * Starts an upload. `algorithm` is what the client announces; an unsupported one is refused before the client sends
   * anything.
   */
  async begin(requester: Requester, repository: Repository, algorithm?: string): Promise<UploadState> {
    if (algorithm !== undefined && !ALGORITHMS.has(algorithm)) {
      throw new OciError('DIGEST_INVALID', { message: 'digest-algorithm must be sha256 or sha512' });
    }
    await this.#admit(requester, repository);
    const id = newUploadId(this.#options.replica);
    const now = Date.now();
    const upload = { id, repository, requester: requester.id, startedAtMs: now, touchedAtMs: now };
    // A client whose quota is used up is told before it sends anything. Reserved as what it is not yet: the reservation of
    // an upload without a row is taken for that of one that has ended.
    const beginning = `beginning of ${ingestKey(id)}`;
    await this.#quota.reserve(beginning, repository, 0);
    try {
      await refusingWhenFull(async () => {
        await this.#options.spool.space.admit(1);
        await this.#options.metadata.putUpload(upload);
      });
      await this.#quota.hold(ingestKey(id), repository, 0);
    } finally {
      this.#quota.release(beginning);
    }
    return { id, offset: 0 };
  }

  /** Receives the whole blob in one request. */
  async push(requester: Requester, repository: Repository, digest: Digest, chunk: Chunk): Promise<void> {
    const { id } = await this.begin(requester, repository);
    try {
      await this.complete(requester, repository, id, digest, chunk);
    } catch (error) {
      // The client never learns the id, so nobody could resume it.
      await this.#discard(id);
      throw error;
    }
  }

  /**
   * Links a stored blob of `from` into `repository`. False if that is not possible, for whatever reason: the client
   * then has to push it. The caller has checked that the requester may pull from `from`. `during`: as of a `Chunk`.
   */
  async mount(
    repository: Repository,
    digest: Digest,
    { from, during }: { readonly from: Repository; readonly during: Presence },
  ): Promise<boolean> {
    const { metadata } = this.#options;
    if (!(await metadata.isLinked(from, digest))) return false;
    const row = await metadata.statBlob(digest);
    if (row === undefined) return false;
    if (!(await metadata.isLinked(repository, digest))) {
      const key = `mount ${repositoryText(repository)} ${digest}`;
      await this.#quota.reserve(key, repository, row.size);
      await refusingWhenFull(() => metadata.linkBlob(repository, digest, row.size, { during })).finally(() =>
        this.#quota.release(key),
      );
    }
    // From now on the Link keeps it, but it may have been removed just before.
    const size = (await this.#options.blobs.stat(digest))?.size;
    return size !== undefined && size === (await metadata.statBlob(digest))?.size;
  }

  async status(requester: Requester, repository: Repository, id: string): Promise<UploadState> {
    await this.#find(requester, repository, id);
    return { id, offset: await this.#sessions.offset(id) };
  }

  /** PATCH: appends a chunk or, without Content-Range, a stream. If the client disconnects, what it sent is kept. */
  async append(requester: Requester, repository: Repository, id: string, chunk: Chunk): Promise<UploadState> {
    return this.#use({ requester, repository, id, during: chunk.during }, async ({ ingest }, upload) => {
      await this.#requireRoom(ingest, upload, chunk);
      await takeChunk(this.#bounded(ingest, upload), chunk, this.#options.bodyIdleMs);
      return { id, offset: ingest.offset };
    });
  }

  /** PUT: receives the rest of the bytes, if any, and the digest of the whole. A wrong digest ends the upload. */
  async complete(
    requester: Requester,
    repository: Repository,
    id: string,
    digest: Digest,
    chunk: Chunk,
  ): Promise<void> {
    await this.#use({ requester, repository, id, during: chunk.during }, async (session, upload) => {
      await this.#requireRoom(session.ingest, upload, chunk);
      const bounded = this.#bounded(session.ingest, upload);
      const start = bounded.offset;
      await takeLastChunk(bounded, chunk, this.#options.bodyIdleMs);
      const actual = await session.ingest.hash(digest);
      if (actual !== digest) {
        await this.#end(id, session);
        throw new OciError('DIGEST_INVALID', { detail: { provided: digest, received: actual } });
      }
      try {
        await this.#publish(upload, session, digest, chunk);
      } catch (error) {
        // The client may send the same request again.
        if (session.state === 'open' && bounded.offset > start) await bounded.truncate(start);
        throw error;
      }
    });
  }

  async cancel(requester: Requester, repository: Repository, id: string, { during }: Arrived): Promise<void> {
    await this.#use({ requester, repository, id, during }, session => this.#end(id, session));
  }

  /** Ends uploads that were not used since `untouchedSinceMs`. */
  async expire(untouchedSinceMs: number, signal?: AbortSignal): Promise<ExpiredUploads> {
    const { metadata, log } = this.#options;
    const expired = { items: 0, bytes: 0 };
    for (;;) {
      const idle = await metadata.listUploads(untouchedSinceMs, EXPIRY_BATCH);
      const before = expired.items;
      for (const { id, repository } of idle) {
        if (signal?.aborted === true) return expired;
        const bytes = this.#isOwn(id) ? await this.#discard(id, untouchedSinceMs) : await this.#forget(id);
        if (bytes === undefined) continue;
        expired.items += 1;
        expired.bytes += bytes;
        log.info(
          { upload: id, repository: repositoryText(repository), bytes },
          'an idle upload was canceled',
        );
      }
      // Uploads in use are listed again, so a batch with nothing else would be repeated for ever.
      if (idle.length < EXPIRY_BATCH || expired.items === before) return expired;
      await sleep(EXPIRY_PAUSE_MS);
    }
  }

  /** What `expire` would end. */
  async expirable(untouchedSinceMs: number): Promise<ExpiredUploads> {
    const { metadata } = this.#options;
    const found = { items: 0, bytes: 0 };
    for (const { id } of await metadata.listUploads(untouchedSinceMs, Number.MAX_SAFE_INTEGER)) {
      if (await isLeased(metadata, ingestKey(id))) continue;
      found.items += 1;
      found.bytes += await this.#sessions.offset(id);
    }
    return found;
  }

  /** Makes the quotas count the unfinished uploads of earlier processes. Call once, before anything is pushed. */
  async countUnfinished(): Promise<void> {
    const { metadata } = this.#options;
    const all = await metadata.listUploads(Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
    const count = async ({ id, repository }: Upload) =>
      this.#quota.hold(ingestKey(id), repository, await this.#sessions.offset(id));
    for (let from = 0; from < all.length; from += COUNTED_AT_ONCE) {
      await Promise.all(all.slice(from, from + COUNTED_AT_ONCE).map(count));
    }
  }

  /** Whether `key` is the ingest of an upload, which `expire` ends in time. */
  async owns(key: string): Promise<boolean> {
    const id = uploadOf(key);
    return id !== undefined && (await this.#options.metadata.readUpload(id)) !== undefined;
  }

  /** Before stopping: requests that wait for an upload of another process are told at once that it is in use. */
  stopWaiting(): void {
    this.#sessions.stopWaiting();
  }

  /** Suspends all uploads when no request uses them any more. No other request begins from now on. */
  async close(): Promise<void> {
    await this.#sessions.close();
  }

  async #admit(requester: Requester, repository: Repository): Promise<void> {
    const { metadata } = this.#options;
    const perRepository = this.#options.maxUploadsPerRepository ?? MAX_UPLOADS_PER_REPOSITORY;
    if ((await metadata.countUploads(repository)) >= perRepository) {
      throw tooManyUploads(`this repository has ${perRepository} unfinished uploads`);
    }
    const perRequester = this.#options.maxUploadsPerRequester ?? MAX_UPLOADS_PER_REQUESTER;
    if ((await metadata.countUploadsOf(requester.id)) >= perRequester) {
      throw tooManyUploads(`you have ${perRequester} unfinished uploads`);
    }
  }

  /** The requester's own upload in this repository. Any other is answered like one that does not exist. */
  async #find(requester: Requester, repository: Repository, id: string): Promise<Upload> {
    const upload = this.#isOwn(id) ? await this.#options.metadata.readUpload(id) : undefined;
    if (
      upload === undefined ||
      upload.requester !== requester.id ||
      repositoryText(upload.repository) !== repositoryText(repository)
    ) {
      throw new OciError('BLOB_UPLOAD_UNKNOWN');
    }
    return upload;
  }

  /** Whether this replica has begun it, and so has its bytes. */
  #isOwn(id: string): boolean {
    return replicaOfUpload(id) === this.#options.replica;
  }

  /** Runs `work` with exclusive use of the requester's upload. */
  async #use<T>(
    { requester, repository, id, during }: Wanted,
    work: (session: Session, upload: Upload) => Promise<T>,
  ): Promise<T> {
    await this.#find(requester, repository, id);
    const found = async (session: Session) => {
      try {
        return await this.#find(requester, repository, id);
      } catch (error) {
        // Another request ended the upload while this one waited. Any other error says nothing about the upload.
        if (error instanceof OciError) await session.abort();
        throw error;
      }
    };
    const using = () =>
      this.#sessions.use(id, async session => {
        const upload = await found(session);
        // Not earlier: from here on, nobody else can change the upload, however long this takes.
        await this.#options.metadata.requirePresence(during);
        try {
          return await work(session, upload);
        } catch (error) {
          // Only the quota throws DENIED here. After that, or on a full disk, no client continues, and what arrived
          // would take space from smaller pushes until the upload expires.
          const isDenied = error instanceof OciError && error.code === 'DENIED';
          if (isDenied || isStorageFull(error)) await this.#giveUp(id, session);
          throw error;
        } finally {
          // However the request ended: a client may have sent data for hours.
          if (session.state === 'open') await this.#touch(upload, session);
        }
      });
    try {
      return await refusingWhenFull(using);
    } catch (error) {
      throw error instanceof LeaseLost ? takenOver() : error;
    }
  }

  async #publish(
    { id, repository }: Upload,
    session: Session,
    digest: Digest,
    { during }: Arrived,
  ): Promise<void> {
    const { metadata, blobs } = this.#options;
    const size = session.ingest.offset;
    await this.#quota.reserve(ingestKey(id), repository, size);
    const stored = await session.commit(digest, blobs);
    const [isKept] = await Promise.all([
      metadata.putBlob(digest, size, repository, { ...stored, during }),
      metadata.removeUpload(id, session.lease),
    ])
      .catch(async (error: unknown) => {
        // Without a row, the bytes would take space until garbage is collected.
        if (isStorageFull(error)) await removeStrays(blobs, metadata, [digest]);
        throw error;
      })
      .finally(() => this.#quota.release(ingestKey(id)));
    if (!isKept) {
      // An equal blob was being collected or found damaged, and this one was removed with it.
      throw new OciError('UNAVAILABLE', {
        message: 'the blob was removed while it was being pushed: push it again',
        headers: { 'Retry-After': '1' },
      });
    }
  }

  /**
   * Refuses a body whose announced size exceeds the quota or the disk. The quota is checked first, so that nothing is
   * evicted for a body that it does not allow.
   */
  async #requireRoom(
    ingest: Ingest,
    { id, repository }: Upload,
    { contentLength = 0 }: Chunk,
  ): Promise<void> {
    // Bytes are reserved as they arrive, since the client may never send all that it announced.
    await this.#quota.check(ingestKey(id), repository, ingest.offset + contentLength);
    await this.#options.spool.space.admit(contentLength);
  }

  /** The ingest, which only grows as far as the quota allows. */
  #bounded(ingest: Ingest, { id, repository }: Upload): ChunkIngest {
    const quota = this.#quota;
    const key = ingestKey(id);
    return {
      get offset() {
        return ingest.offset;
      },
      write: async chunks => {
        const bytes = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
        await quota.reserve(key, repository, ingest.offset + bytes);
        await ingest.write(chunks);
      },
      truncate: async length => {
        await ingest.truncate(length);
        await quota.reserve(key, repository, length);
      },
    };
  }

  get #quota(): Quota {
    return this.#options.quota ?? noQuota;
  }

  /** First the row, then the bytes: a file without a row is allowed, but not an upload without its bytes. */
  async #end(id: string, session: Session): Promise<void> {
    await this.#options.metadata.removeUpload(id, session.lease);
    await session.abort();
    this.#quota.release(ingestKey(id));
  }

  /**
   * Like `#end`, but removes the bytes even if the disk is too full for the index to remove the row, which then
   * expires.
   */
  async #giveUp(id: string, session: Session): Promise<void> {
    try {
      await this.#end(id, session);
    } catch (error) {
      if (!isStorageFull(error)) throw error;
      await session.abort();
    }
  }

  /**
   * Ends an upload of any requester. Returns how many bytes it had; `undefined` if it is in use, or was used since
   * `untouchedSinceMs`.
   */
  async #discard(id: string, untouchedSinceMs = Infinity): Promise<number | undefined> {
    try {
      return await this.#sessions.use(id, async session => {
        const upload = await this.#options.metadata.readUpload(id);
        if (upload !== undefined && upload.touchedAtMs >= untouchedSinceMs) return undefined;
        const bytes = session.ingest.offset;
        await this.#end(id, session);
        return bytes;
      });
    } catch (error) {
      if (error instanceof LeaseLost) return undefined;
      if (error instanceof OciError && error.code === 'TOOMANYREQUESTS') return undefined;
      throw error;
    }
  }

  /**
   * Ends the upload of a replica that is gone, with its bytes, which then are 0; `undefined` if it lives and does this
   * itself.
   */
  async #forget(id: string): Promise<number | undefined> {
    const { metadata } = this.#options;
    const replica = replicaOfUpload(id);
    if ((await metadata.listReplicas()).some(other => other.id === replica)) return undefined;
    return (await metadata.removeUpload(id)) ? 0 : undefined;
  }

  async #touch(upload: Upload, { lease }: Session): Promise<void> {
    const now = Date.now();
    if (now - upload.touchedAtMs >= TOUCH_STEP_MS) {
      await this.#options.metadata.putUpload({ ...upload, touchedAtMs: now }, lease);
    }
  }
}

function tooManyUploads(message: string): OciError {
  return new OciError('TOOMANYREQUESTS', {
    message: `${message}: finish or cancel some`,
    headers: { 'Retry-After': '60' },
  });
}
