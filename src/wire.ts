/**
 * The composition root: makes each part of its piece of the configuration and hands neighbours what they need of each
 * other. Nothing else knows who implements what.
 */
import { mkdir } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { Access } from './access/access.ts';
import { Grants } from './access/grants.ts';
import type { BlobStore } from './blobs/blob-store.ts';
import { openFileBlobStore } from './blobs/file-blob-store.ts';
import type { Config, LoginConfig, UpstreamConfig } from './config/config.ts';
import { repositoryOptions } from './config/repository-options.ts';
import { Hosted } from './hosted/hosted.ts';
import { Publication } from './hosted/publication.ts';
import { Removal } from './hosted/removal.ts';
import { Uploads } from './hosted/uploads.ts';
import { hostedHandlers } from './http/hosted.ts';
import type { HostedHandlers } from './http/hosted-handlers.ts';
import { Naming } from './http/naming.ts';
import { createOpsServer } from './http/ops-server.ts';
import { createRegistryServer } from './http/server.ts';
import type { Log } from './lib/log.ts';
import type { Meter } from './lib/meter.ts';
import type { MetadataStore } from './metadata/metadata-store.ts';
import { openSqliteMetadataStore } from './metadata/sqlite-metadata-store.ts';
import { Mirror } from './mirror/mirror.ts';
import { type Credential, nameCredential } from './oci/credential.ts';
import type { Digest } from './oci/digest.ts';
import { OciError } from './oci/errors.ts';
import type { Repository } from './oci/repository.ts';
import { Upstream } from './upstream/upstream.ts';

/** What the parts report to. */
export interface Observers {
  readonly log: Log;
  readonly meter: Meter;
}

/** Everything below `http/`, opened on one store: what the server and the commands work with. */
export interface Parts {
  readonly config: Config;
  readonly metadata: MetadataStore;
  readonly blobs: BlobStore;
  readonly naming: Naming;
  readonly access: Access;
  /** By name. */
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly mirror: Mirror;
  readonly hosted: Hosted;
  readonly uploads: Uploads;
  readonly hostedHandlers: HostedHandlers;
  /** Asks upstream now what an image reference means, forgetting remembered failures. */
  refresh(reference: string): Promise<Digest>;
  /** Forgets a tag, a digest or a whole repository of a mirror; false when nothing of it was held. */
  remove(reference: string): Promise<boolean>;
  /** Fills under way may take so long to reach a moment at which they can be suspended; then everything is closed. */
  close(deadlineMs?: number): Promise<void>;
}

/** Opens the store in `storage.path`, which is made if it is not there. Close the parts when done. */
export async function openParts(config: Config, { log, meter }: Observers): Promise<Parts> {
  const { path } = config.storage;
  await mkdir(path, { recursive: true });
  const metadata = await openSqliteMetadataStore(join(path, INDEX_FILE), { log });
  const blobs = await openFileBlobStore(path, { log });
  const credentials = await upstreamCredentials(config, metadata);
  const upstreams = openUpstreams(config, credentials);
  const optionsOf = (repository: Repository) =>
    repositoryOptions(upstreamOf(config, repository), repository.name);
  const grants = new Grants(metadata, GRANT_RULES);
  const access = new Access({
    grants,
    hostedAnonymous: config.hosted.anonymous,
    upstreamRule: repository => ({
      credential: credentials.get(upstreamOf(config, repository).credentials),
      openToAll: optionsOf(repository).openToAll,
    }),
  });
  const mirror = new Mirror({
    upstreams,
    metadata,
    blobs,
    log,
    meter,
    recordProof: proof => grants.record(proof),
    pullPolicyOf: optionsOf,
    limits: { ...config.pulls, maxParallelImagePulls: config.pulls.maxParallelImagePulls },
  });
  const hosted = new Hosted({ blobs, metadata, log });
  const removal = new Removal({ metadata, isEnabled: config.hosted.delete });
  const uploads = new Uploads({ blobs, metadata, log });
  const publication = new Publication(metadata);
  const naming = namingOf(config);
  return {
    config,
    metadata,
    blobs,
    naming,
    access,
    upstreams,
    mirror,
    hosted,
    uploads,
    hostedHandlers: hostedHandlers({ hosted, uploads, publication, removal }),
    refresh: async reference => {
      const { repository, tag = 'latest', digest } = mirroredBy(naming, reference);
      return mirror.refresh(repository, digest ?? tag, access.operatorRight(repository));
    },
    remove: async reference => {
      const { repository, tag, digest } = mirroredBy(naming, reference);
      return mirror.remove(repository, digest ?? tag);
    },
    close: async (deadlineMs = 0) => {
      await mirror.close(deadlineMs);
      await uploads.close();
      await Promise.all([...upstreams.values()].map(upstream => upstream.close()));
      await blobs.close();
      await metadata.close();
    },
  };
}

export interface ServerOptions extends Observers {
  /** What `/metrics` answers. */
  readonly metrics: { readonly contentType: string; readonly text: () => Promise<string> };
}

export interface RunningServer {
  readonly parts: Parts;
  /** In the order of the configuration. */
  readonly addresses: readonly { readonly address: string; readonly upstream: string | undefined }[];
  /** `undefined` when the ops port is switched off. */
  readonly opsAddress: string | undefined;
  /** No new work; bodies finish within the deadline; Fills are kept to resume. */
  close(deadlineMs: number): Promise<void>;
}

/** Serves what `config` says, until it is closed. Rejects, with everything closed again, when a port cannot be bound. */
export async function startServer(config: Config, options: ServerOptions): Promise<RunningServer> {
  const parts = await openParts(config, options);
  try {
    const server = await createRegistryServer({
      ...options,
      ...parts,
      listeners: config.server.listen.map(({ address, upstream }) => ({ ...address, upstream })),
      trustedProxies: config.server.trustedProxies,
      externalUrl: config.server.externalUrl,
    });
    const ops = await startOps(config, parts, options).catch(async (error: unknown) => {
      await server.close(0);
      throw error;
    });
    return {
      parts,
      addresses: server.addresses.map(({ url, upstream }) => ({ address: hostOf(url), upstream })),
      opsAddress: ops && hostOf(ops.url),
      close: async deadlineMs => {
        const endMs = performance.now() + deadlineMs;
        await server.close(deadlineMs);
        await parts.close(Math.max(0, endMs - performance.now()));
        await ops?.close();
      },
    };
  } catch (error) {
    await parts.close();
    throw error;
  }
}

function startOps(config: Config, { metadata, upstreams }: Parts, { log, meter, metrics }: ServerOptions) {
  const { opsListen } = config.server;
  if (opsListen === false) {
    return Promise.resolve(undefined);
  }
  // One look-up, so that it takes no longer on a large store; it throws when the index is broken.
  const notReady = async () => {
    await metadata.readSetting(CREDENTIAL_KEY);
    return undefined;
  };
  const answer = async () => {
    reportBudgets(upstreams, meter);
    return { contentType: metrics.contentType, text: await metrics.text() };
  };
  return createOpsServer({ ...opsListen, notReady, metrics: answer, log });
}

/** Budgets run down and fill up by themselves, so they are read when somebody asks; of several credentials the least. */
function reportBudgets(upstreams: Parts['upstreams'], meter: Meter): void {
  for (const [name, upstream] of upstreams) {
    const known = upstream.budget().flatMap(({ remaining }) => remaining ?? []);
    if (known.length > 0) {
      meter.gauge('upstream_budget_remaining', Math.min(...known), { upstream: name });
    }
  }
}

/** `host:port` of a URL without a path. */
function hostOf(url: string): string {
  return url.slice(url.indexOf('//') + 2);
}

/** What an image reference on the command line means, where only a mirror can be meant. */
function mirroredBy(naming: Naming, reference: string): ReturnType<Naming['repositoryOf']> {
  const named = naming.repositoryOf(reference);
  if (named.repository.upstream === '') {
    throw new OciError('UNSUPPORTED', { message: `${reference} lives here and has no upstream` });
  }
  return named;
}

const INDEX_FILE = 'index.db';
const CREDENTIAL_KEY = 'credential-key';

const HOUR_MS = 3_600_000;
const GRANT_RULES = { verifyForMs: 24 * HOUR_MS, staleGrantForMs: 72 * HOUR_MS };

function upstreamOf(config: Config, repository: Repository): UpstreamConfig {
  const upstream = config.upstreams.get(repository.upstream);
  if (upstream === undefined) {
    throw new Error(`${repository.upstream} is not configured`);
  }
  return upstream;
}

/** By what the configuration says; none for none. */
type UpstreamCredentials = ReadonlyMap<LoginConfig | undefined, Credential | undefined>;

/** Names the credentials of the configuration, once, under the store's own key. */
async function upstreamCredentials(config: Config, metadata: MetadataStore): Promise<UpstreamCredentials> {
  const key = await metadata.initSetting(CREDENTIAL_KEY, randomBytes(32).toString('hex'));
  const logins = [...config.upstreams.values()].flatMap(({ credentials, mirrors }) => [
    credentials,
    ...mirrors.map(mirror => mirror.credentials),
  ]);
  return new Map(
    logins.map(login => [login, login && nameCredential(key, login.username, login.password)] as const),
  );
}

function openUpstreams(config: Config, credentials: UpstreamCredentials): ReadonlyMap<string, Upstream> {
  const { httpProxy, httpsProxy, noProxy } = config.proxy;
  return new Map(
    [...config.upstreams].map(([name, upstream]) => [
      name,
      new Upstream({
        ...upstream,
        mirrors: upstream.mirrors.map(({ url, credentials: login }) => ({
          url,
          credential: credentials.get(login),
        })),
        proxy: { http: httpProxy, https: httpsProxy, no: noProxy },
      }),
    ]),
  );
}

function namingOf(config: Config): Naming {
  return new Naming({
    upstreams: [...config.upstreams.values()],
    serverNames: config.server.serverNames,
    hostedPrefixes: new Set(config.hosted.prefixes),
    defaultUpstream: config.defaultUpstream,
  });
}
