/**
 * The composition root: makes each part of its piece of the configuration and hands neighbours what they need of each
 * other. Nothing else knows who implements what.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Access } from './access/access.ts';
import type { ExplainAnswer, Explanation } from './access/explanation.ts';
import { type FileBlobStore, openFileBlobStore } from './blobs/file-blob-store.ts';
import type { Config } from './config/config.ts';
import { repositoryOptions } from './config/repository-options.ts';
import { Hosted } from './hosted/hosted.ts';
import { Publication } from './hosted/publication.ts';
import { PrefixQuota, type Quota } from './hosted/quota.ts';
import { Removal } from './hosted/removal.ts';
import { Uploads } from './hosted/uploads.ts';
import { hostedHandlers } from './http/hosted.ts';
import type { HostedHandlers } from './http/hosted-handlers.ts';
import { Naming } from './http/naming.ts';
import { createOpsServer } from './http/ops-server.ts';
import { createRegistryServer } from './http/server.ts';
import { tokenHandler } from './http/token.ts';
import type { Log } from './lib/log.ts';
import type { Meter } from './lib/meter.ts';
import type { MetadataStore } from './metadata/metadata-store.ts';
import { openSqliteMetadataStore } from './metadata/sqlite-metadata-store.ts';
import { Mirror } from './mirror/mirror.ts';
import type { Digest } from './oci/digest.ts';
import { OciError } from './oci/errors.ts';
import { strictestPullPolicy } from './oci/pull-policy.ts';
import { InvalidReference } from './oci/reference.ts';
import type { Repository } from './oci/repository.ts';
import type { Right } from './oci/requester.ts';
import type { Issuer } from './tenants/issuer.ts';
import type { Tenants } from './tenants/tenant.ts';
import { tenantsDocument } from './tenants/tenants-document.ts';
import type { SurveyThread } from './upkeep/survey-thread.ts';
import type { Upkeep } from './upkeep/upkeep.ts';
import type { Audit } from './ops/audit.ts';
import { TlsFiles } from './ops/tls-files.ts';
import { Upstream } from './upstream/upstream.ts';
import {
  CREDENTIAL_KEY,
  openAccess,
  type UpstreamCredentials,
  upstreamCredentials,
  upstreamOf,
} from './wire-access.ts';
import { deedsTo } from './wire-audit.ts';
import { knownCluster, openCluster } from './wire-kubernetes.ts';
import { beginSchedule, openUpkeep, reportStore } from './wire-upkeep.ts';

/** What the parts report to. */
export interface Observers {
  readonly log: Log;
  readonly meter: Meter;
}

/** Everything below `http/`, opened on one store: what the server and the commands work with. */
export interface Parts {
  readonly config: Config;
  readonly metadata: MetadataStore;
  readonly blobs: FileBlobStore;
  readonly naming: Naming;
  readonly tenants: Tenants;
  readonly issuer: Issuer;
  readonly access: Access;
  /** By name. */
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly mirror: Mirror;
  readonly hosted: Hosted;
  readonly uploads: Uploads;
  /** Of tenants, for their repositories. */
  readonly quota: Quota;
  readonly upkeep: Upkeep;
  readonly survey: SurveyThread;
  readonly hostedHandlers: HostedHandlers;
  /** Asks upstream now what an image reference means, forgetting remembered failures. */
  refresh(reference: string): Promise<Digest>;
  /** Why the tenant may pull an image or not; `undefined` when there is no such tenant. */
  explain(reference: string, tenant: string): Promise<Explanation | undefined>;
  /** Forgets a tag, a digest or a whole repository of a mirror; false when nothing of it was held. */
  remove(reference: string): Promise<boolean>;
  /** Fills under way may take so long to reach a moment at which they can be suspended; then everything is closed. */
  close(deadlineMs?: number): Promise<void>;
}

/**
 * Opens the store in `storage.path`, which is made if it is not there. Close the parts when done. Who does not
 * follow the cluster knows of it what a server has noted in the store: the names of its tenants.
 */
export async function openParts(
  config: Config,
  { log, meter }: Observers,
  { followsCluster = false }: { readonly followsCluster?: boolean } = {},
): Promise<Parts> {
  const { path } = config.storage;
  await mkdir(path, { recursive: true });
  const metadata = await openSqliteMetadataStore(join(path, INDEX_FILE), { log });
  const blobs = await openFileBlobStore(path, { log });
  const credentials = await upstreamCredentials(config, metadata);
  const upstreams = openUpstreams(config, credentials);
  const needs = { metadata, log, meter };
  const cluster = followsCluster ? await openCluster(config, needs) : knownCluster(config, needs);
  const { tenants, issuer, grants, access } = await openAccess(config, { ...needs, credentials, cluster });
  const mirror = new Mirror({
    upstreams,
    metadata,
    blobs,
    log,
    meter,
    recordProof: async proof => {
      tenants.noteOutcome(proof.credentialId, proof.outcome === 'granted' ? 'used' : 'refused');
      await grants.record(proof);
    },
    isOffline: config.offline,
    prefetchRuleOf: repository => repositoryOptions(upstreamOf(config, repository), repository.name),
    pullPolicyOf: (repository, _tag, right) => pullPolicyOf(config, repository, right),
    limits: { ...config.pulls, maxParallelImagePulls: config.pulls.maxParallelImagePulls },
  });
  const stopFollowing = followSecrets({ tenants, metadata, mirror, log });
  const hosted = new Hosted({ blobs, metadata, log });
  const removal = new Removal({ metadata, isEnabled: config.hosted.delete });
  const quota = new PrefixQuota(metadata, owner => tenants.find(owner)?.options.quotaBytes);
  const uploads = new Uploads({ blobs, metadata, log, quota });
  const publication = new Publication(metadata, quota);
  const indexPath = join(path, INDEX_FILE);
  const { upkeep, survey } = openUpkeep(config, indexPath, { metadata, blobs, uploads, log, meter });
  const naming = namingOf(config, tenants);
  return {
    config,
    metadata,
    blobs,
    naming,
    tenants,
    issuer,
    access,
    upstreams,
    mirror,
    hosted,
    uploads,
    quota,
    upkeep,
    survey,
    hostedHandlers: hostedHandlers({ hosted, uploads, publication, removal }),
    refresh: async reference => {
      const { repository, tag = 'latest', digest } = mirroredBy(naming, reference);
      return mirror.refresh(repository, digest ?? tag, await access.operatorRight(repository));
    },
    explain: async (reference, name) => {
      const tenant = tenants.find(name);
      return tenant && access.explain(tenant, naming.repositoryOf(reference).repository);
    },
    remove: async reference => {
      const { repository, tag, digest } = mirroredBy(naming, reference);
      return mirror.remove(repository, digest ?? tag);
    },
    close: async (deadlineMs = 0) => {
      stopFollowing();
      await tenants.close();
      await mirror.close(deadlineMs);
      await uploads.close();
      await survey.close();
      await Promise.all([...upstreams.values()].map(upstream => upstream.close()));
      await blobs.close();
      await metadata.close();
    },
  };
}

export interface ServerOptions extends Observers {
  /** What `/metrics` answers. */
  readonly metrics: { readonly contentType: string; readonly text: () => Promise<string> };
  /** Told what every request came to; absent, nobody keeps it. */
  readonly audit?: Audit | undefined;
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
  const { tls } = config.server;
  const certificate = tls && (await TlsFiles.open(tls, options.log));
  const parts = await openParts(config, options, { followsCluster: true });
  try {
    const server = await createRegistryServer({
      ...options,
      ...parts,
      token: tokenHandler(parts.access, parts.naming),
      recordDeed: deedsTo(options.audit),
      listeners: config.server.listen.map(({ address, upstream }) => ({
        ...address,
        upstream,
        tls: certificate?.material,
      })),
      mayNameArch: ({ upstream }) => config.upstreams.get(upstream)?.archInName === true,
      trustedProxies: config.server.trustedProxies,
      externalUrl: config.server.externalUrl,
    });
    certificate?.follow(material => server.renewTls(material));
    const ops = await startOps(config, parts, options).catch(async (error: unknown) => {
      await server.close(0);
      throw error;
    });
    const schedule = await beginSchedule(config, parts.upkeep, options.log);
    return {
      parts,
      addresses: server.addresses.map(({ url, upstream }) => ({ address: hostOf(url), upstream })),
      opsAddress: ops && hostOf(ops.url),
      close: async deadlineMs => {
        const endMs = performance.now() + deadlineMs;
        certificate?.close();
        await schedule.close();
        await server.close(deadlineMs);
        await parts.close(Math.max(0, endMs - performance.now()));
        await ops?.close();
      },
    };
  } catch (error) {
    certificate?.close();
    await parts.close();
    throw error;
  }
}

function startOps(config: Config, parts: Parts, { log, meter, metrics }: ServerOptions) {
  const { metadata, tenants, upstreams } = parts;
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
    await reportStore(metadata, meter);
    return { contentType: metrics.contentType, text: await metrics.text() };
  };
  const extra = async (path: string, query: URLSearchParams): Promise<unknown> => {
    if (path === '/debug/tenants') return tenantsDocument(tenants, await metadata.listIssuedCredentials());
    return path === '/debug/explain' ? explained(parts, query) : undefined;
  };
  return createOpsServer({ ...opsListen, notReady, metrics: answer, extra, log });
}

/** For `entrepot explain`: what is wrong with the question is an answer too. */
async function explained(parts: Parts, query: URLSearchParams): Promise<ExplainAnswer> {
  try {
    const explanation = await parts.explain(query.get('reference') ?? '', query.get('tenant') ?? '');
    return { explanation: explanation ?? null };
  } catch (error) {
    if (error instanceof OciError || error instanceof InvalidReference) return { problem: error.message };
    throw error;
  }
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

function namingOf(config: Config, tenants: Tenants): Naming {
  const prefixes = new Set(config.hosted.prefixes);
  return new Naming({
    upstreams: [...config.upstreams.values()],
    serverNames: config.server.serverNames,
    hostedPrefixes: { has: prefix => prefixes.has(prefix) || tenants.find(prefix) !== undefined },
    defaultUpstream: config.defaultUpstream,
  });
}

function pullPolicyOf(config: Config, repository: Repository, right: Pick<Right, 'pullPolicy'>) {
  const options = repositoryOptions(upstreamOf(config, repository), repository.name);
  const policies = [config.offline ? ('Never' as const) : undefined, options.pullPolicy, right.pullPolicy];
  return { ...options, pullPolicy: strictestPullPolicy(policies) };
}

interface Followers {
  readonly tenants: Tenants;
  readonly metadata: MetadataStore;
  readonly mirror: Mirror;
  readonly log: Log;
}

/** A Secret that goes takes its Grants with it; any change ends what upstream refused before. Returns the way to stop. */
function followSecrets({ tenants, metadata, mirror, log }: Followers): () => void {
  return tenants.onChange(({ goneCredentialIds }) => {
    const ended = goneCredentialIds.map(id => metadata.endGrantsOf(id));
    Promise.all([...ended, mirror.secretsChanged()]).catch((error: unknown) => {
      log.error({ err: error }, 'a change of secrets could not be followed everywhere');
    });
  });
}
