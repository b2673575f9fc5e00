// A Mirror with real stores in a temporary folder, or with an index in memory, in front of real (fake) upstreams.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { Grants } from '../../src/grants/grants.ts';
import type { BlobStore } from '../../src/blobs/blob-store.ts';
import { type FileStores, openFileStores } from '../../src/blobs/file-stores.ts';
import type { Spool } from '../../src/blobs/spool.ts';
import type { BlobReader } from '../../src/lib/blob-reader.ts';
import { type Clock, systemClock } from '../../src/lib/clock.ts';
import { type Log, silentLog } from '../../src/lib/log.ts';
import { createMetrics } from '../../src/ops/metrics.ts';
import { openMemoryMetadataStore } from '../../src/metadata/memory-metadata-store.fixture.ts';
import type { MetadataStore } from '../../src/metadata/metadata-store.ts';
import { openSqliteMetadataStore } from '../../src/metadata/sqlite-metadata-store.ts';
import { Mirror, type MirrorOptions } from '../../src/mirror/mirror.ts';
import type { PrefetchRule } from '../../src/mirror/prefetch.ts';
import type { PullRule } from '../../src/mirror/freshness.ts';
import { type Credential, credentialId } from '../../src/oci/credential.ts';
import type { Digest } from '../../src/oci/digest.ts';
import type { PullTarget } from '../../src/oci/pull-read.ts';
import { ANY_MANIFEST, type ManifestWant } from '../../src/oci/pull-source.ts';
import type { Repository } from '../../src/oci/repository.ts';
import type { Right } from '../../src/oci/requester.ts';
import { Quarantine } from '../../src/upkeep/quarantine.ts';
import { Upstream, type UpstreamOptions } from '../../src/upstream/upstream.ts';
import type { Content } from './content.ts';
import type { FakeUpstream } from './fake-upstream.ts';
import type { RecordedRequest } from './fake-upstream-requests.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

export const UPSTREAM = 'up.example';
export const repositoryOf = (name: string): Repository => ({ upstream: UPSTREAM, name });
export const APP = repositoryOf('app');

export interface MirrorWorldOptions
  extends Partial<
    Pick<
      MirrorOptions,
      | 'limits'
      | 'maxBytes'
      | 'completeRanged'
      | 'endNews'
      | 'flights'
      | 'connectionsPerBlobOf'
      | 'replica'
      | 'replicas'
    >
  > {
  readonly policy?: Partial<PullRule>;
  readonly prefetch?: PrefetchRule;
  readonly isOffline?: boolean;
  readonly upstream?: Partial<UpstreamOptions>;
  /** Whether the index is a file in the folder, for other processes and later ones, or else in memory. */
  readonly isIndexOnDisk?: boolean;
  /** A folder that another world has made, with its index on disk: two processes on one store. */
  readonly folder?: string;
  /** An index that is shared by other means; closed with the world. */
  readonly metadata?: MetadataStore;
  readonly log?: Log;
  /** What the mirror waits by. Default: the system's. Its wall clock is the world's. */
  readonly clock?: Clock;
  /** Where blobs stay, if not in the folder. */
  readonly blobs?: BlobStore;
  /** Wraps the spool, to make it fail. */
  readonly spool?: (spool: Spool) => Spool;
}

const FRESH_FOR_MS = 60_000;
const VERIFY_FOR_MS = 24 * 3_600_000;

export class MirrorWorld {
  readonly folder: string;
  readonly mirror: Mirror;
  readonly metadata: MetadataStore;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  /** The wall clock; move it at will. */
  nowMs = Date.UTC(2026, 0, 1);
  policy: PullRule;
  readonly #metrics = createMetrics();
  readonly #files: FileStores;
  readonly #grants: Grants;
  readonly #upstream: Upstream;
  #closed = false;

  private constructor(
    folder: string,
    { metadata, files }: { metadata: MetadataStore; files: FileStores },
    fake: FakeUpstream,
    options: MirrorWorldOptions,
  ) {
    this.folder = folder;
    this.metadata = metadata;
    this.#files = files;
    this.spool = options.spool?.(files.spool) ?? files.spool;
    this.blobs = options.blobs ?? files.blobs;
    this.policy = { pullPolicy: undefined, freshForMs: FRESH_FOR_MS, ...options.policy };
    const clock = { ...(options.clock ?? systemClock), nowMs: () => this.nowMs };
    const rules = { verifyForMs: VERIFY_FOR_MS, staleGrantForMs: VERIFY_FOR_MS };
    this.#grants = new Grants(metadata, rules, clock);
    this.#upstream = new Upstream({ name: UPSTREAM, url: fake.url, ...options.upstream });
    const { metadata: index, blobs } = this;
    const log = options.log ?? silentLog;
    const quarantine = new Quarantine({ metadata: index, blobs, log, meter: this.#metrics.meter });
    this.mirror = new Mirror({
      upstreams: new Map([[UPSTREAM, this.#upstream]]),
      metadata,
      spool: this.spool,
      blobs: this.blobs,
      grants: this.#grants,
      pullRuleOf: () => this.policy,
      verifyForMs: VERIFY_FOR_MS,
      prefetchRuleOf: () => options.prefetch ?? { prefetch: false },
      isOffline: options.isOffline ?? false,
      maxBytes: options.maxBytes,
      setAsideIfDamaged: digest => quarantine.check(digest),
      completeRanged: options.completeRanged,
      endNews: options.endNews,
      flights: options.flights,
      replica: options.replica,
      replicas: options.replicas,
      ...(options.connectionsPerBlobOf && { connectionsPerBlobOf: options.connectionsPerBlobOf }),
      // That of a test says nothing about the network.
      measureLoad: () => () => 0,
      limits: options.limits ?? {
        maxConnections: 128,
        serializeImagePulls: false,
        maxParallelImagePulls: undefined,
      },
      log: options.log ?? silentLog,
      meter: this.#metrics.meter,
      clock,
    });
  }

  static async open(fake: FakeUpstream, options: MirrorWorldOptions = {}): Promise<MirrorWorld> {
    const folder = options.folder ?? (await makeTempFolder('mirror'));
    const isOnDisk = options.isIndexOnDisk ?? options.folder !== undefined;
    const metadata =
      options.metadata ??
      (isOnDisk
        ? await openSqliteMetadataStore(join(folder, 'index.db'), { log: silentLog })
        : openMemoryMetadataStore());
    const files = await openFileStores(folder, { log: silentLog });
    return new MirrorWorld(folder, { metadata, files }, fake, options);
  }

  /** How many bytes the metrics say were received from upstream. */
  async fetchedBytes(): Promise<number> {
    return this.sample('bytes_from_upstream_total');
  }

  /** What the metrics say of `name`, with its first labels if it has any; 0 if they do not have it. */
  async sample(name: string): Promise<number> {
    const text = await this.#metrics.text();
    return Number(new RegExp(`^entrepot_${name}(?:\\{.*\\})? (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
  }

  /** What `access` would say of this requester now, and what the index says of `target`. */
  async right(
    repository: Repository = APP,
    credentials: readonly (Credential | undefined)[] = [undefined],
    id = 'anonymous',
    target?: PullTarget,
  ): Promise<Right> {
    const credentialIds = credentials.map(credentialId);
    const state = await this.#grants.stateOf(repository, { credentialIds, target });
    return { requester: { tenant: undefined, id }, credentials, ...state };
  }

  async manifest(reference: string, repository: Repository = APP, want: ManifestWant = ANY_MANIFEST) {
    return this.mirror.manifest(repository, reference, await this.right(repository), want);
  }

  async open(digest: Digest, repository: Repository = APP) {
    return this.mirror.openBlob(repository, digest, await this.right(repository));
  }

  /** Opens, reads to the end and closes; rejects when the body breaks. */
  async pull(digest: Digest, repository: Repository = APP): Promise<Pulled> {
    const { reader, outcome } = await this.open(digest, repository);
    return { outcome, ...(await readAll(reader)) };
  }

  async close(deadlineMs = 0): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.mirror.close(deadlineMs);
    await this.#upstream.close();
    await this.#files.close();
    await this.metadata.close();
  }

  async remove(): Promise<void> {
    await this.close();
    await removeFolder(this.folder);
  }
}

export interface Pulled {
  readonly bytes: number;
  readonly digest: string;
  readonly outcome: string;
}

const READ_BYTES = 256 * 1024;

/** Reads to the end, hashing; `onBytes` is told after each read, and ends it early by giving false. Closes. */
export async function readAll(
  reader: BlobReader,
  onBytes: (bytes: number) => boolean | void = () => true,
): Promise<{ bytes: number; digest: string }> {
  const hash = createHash('sha256');
  const buffer = new Uint8Array(READ_BYTES);
  let bytes = 0;
  try {
    for (let count = await reader.read(buffer, bytes); count > 0; count = await reader.read(buffer, bytes)) {
      hash.update(buffer.subarray(0, count));
      bytes += count;
      if (onBytes(bytes) === false) break;
    }
  } finally {
    await reader.close();
  }
  return { bytes, digest: `sha256:${hash.digest('hex')}` };
}

/** Whether it asks for all of a blob, or for all that is missing. */
export function isDownload({ method, headers }: Pick<RecordedRequest, 'method' | 'headers'>): boolean {
  return method === 'GET' && (headers.range === undefined || headers.range.endsWith('-'));
}

export function whole(blob: Content): Pick<Pulled, 'bytes' | 'digest'> {
  return { bytes: blob.size, digest: blob.digest };
}
