/**
 * The composition root: makes each part of its piece of the configuration and hands neighbours what they need of each
 * other. Nothing else knows who implements what.
 */
import { randomBytes } from 'node:crypto';
import type { Access } from '../access/access.ts';
import type { Explanation } from '../access/explanation.ts';
import type { Grants } from '../access/grants.ts';
import type { Config } from '../config/config.ts';
import { putInForce } from '../config/reload.ts';
import { mayNameArch } from '../config/repository-options.ts';
import { Hosted } from '../hosted/hosted.ts';
import { Publication } from '../hosted/publication.ts';
import { PrefixQuota } from '../hosted/quota.ts';
import { Removal } from '../hosted/removal.ts';
import { Uploads } from '../hosted/uploads.ts';
import { Cursors } from '../http/cursors.ts';
import { hostedHandlers } from '../http/hosted.ts';
import type { HostedHandlers } from '../http/hosted-handlers.ts';
import { RepositoryResolver } from '../oci/repository-resolver.ts';
import type { Log } from '../lib/log.ts';
import { MemoryBudget } from '../lib/memory-budget.ts';
import type { Meter } from '../lib/meter.ts';
import { Opened } from '../lib/opened.ts';
import { storageFault } from '../metadata/storage-probe.ts';
import { baseOfArchName } from '../mirror/arch-names.ts';
import type { Mirror } from '../mirror/mirror.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { formatPlatform } from '../oci/platform.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Proof } from '../oci/requester.ts';
import type { Issuer } from '../tenants/issuer.ts';
import type { Tenants } from '../tenants/tenant.ts';
import type { ImageRemoval } from '../upkeep/image-removal.ts';
import type { SurveyThread } from '../upkeep/survey-thread.ts';
import type { Upkeep } from '../upkeep/upkeep.ts';
import type { Upstream } from '../upstream/upstream.ts';
import { openAccess, upstreamCredentials, verificationPolicies } from './access.ts';
import { knownCluster, openCluster } from './kubernetes.ts';
import { openMirror, Upstreams } from './mirror.ts';
import { openStorage, type Storage } from './storage.ts';
import { openUpkeep } from './upkeep.ts';

/** What the parts report to. */
export interface Observers {
  readonly log: Log;
  readonly meter: Meter;
}

/** Everything below `http/`, opened on one store: what the server and the commands work with. */
export interface Parts extends Storage {
  readonly config: Config;
  /** For bodies that are held as a whole. */
  readonly memory: MemoryBudget;
  readonly resolver: RepositoryResolver;
  readonly tenants: Tenants;
  readonly issuer: Issuer;
  readonly access: Access;
  /** By name. */
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly mirror: Mirror;
  readonly hosted: Hosted;
  readonly uploads: Uploads;
  /** Of tenants, for their repositories. */
  readonly quota: PrefixQuota;
  readonly upkeep: Upkeep;
  readonly survey: SurveyThread;
  readonly removal: ImageRemoval;
  readonly hostedHandlers: HostedHandlers;
  /** Asks upstream now what an image reference means, forgetting remembered failures. */
  refresh(reference: string): Promise<Digest>;
  /** Why the tenant, or without one anybody, may pull an image or not; `undefined` when there is no such tenant. */
  explain(reference: string, tenant: string | undefined): Promise<Explanation | undefined>;
  /**
   * Gives the way to work by another configuration (`planReload`), which `config` then becomes. Changes nothing yet, and
   * rejects, with a ConfigError perhaps, when it cannot be used. What fails on the way can be repeated from here.
   */
  prepareReload(next: Config): Promise<() => Promise<void>>;
  /** Fills under way may take so long to reach a moment at which they can be suspended; then everything is closed. */
  close(deadlineMs?: number): Promise<void>;
}

export interface PartsOptions {
  /** Who does not follow the cluster knows of it what a server has noted in the store: the names of its tenants. */
  readonly followsCluster?: boolean;
  /** It is not waited for: `tenants.waitingFor` says until when nobody can be told from anybody else. */
  readonly startsMeanwhile?: boolean;
}

/** Which setting of the store holds the secret that seals cursors. */
const CURSOR_KEY = 'cursor-key';

/**
 * Opens the store in `storage.path`, which is made if it is not there. Close the parts when done. Rejects, with
 * everything closed again, when one of them cannot be opened.
 */
export async function openParts(
  config: Config,
  observers: Observers,
  options: PartsOptions = {},
): Promise<Parts> {
  const opened = new Opened();
  try {
    const parts = await openOn(opened, config, observers, options);
    return { ...parts, close: (deadlineMs = 0) => opened.close(deadlineMs) };
  } catch (error) {
    await opened.close(0);
    // What failed may be no more than the first thing that the file system has not.
    throw (await storageFault(config.storage.path)) ?? error;
  }
}

async function openOn(
  opened: Opened,
  config: Config,
  { log, meter }: Observers,
  { followsCluster = false, startsMeanwhile = false }: PartsOptions,
): Promise<Omit<Parts, 'close'>> {
  const atEachBeat: (() => void)[] = [];
  const onBeat = () => atEachBeat.forEach(act => act());
  const { metadata, spool, blobs } = await openStorage(opened, config, { log, onBeat });
  const credentials = await upstreamCredentials(config, metadata);
  const memory = new MemoryBudget();
  const upstreams = opened.add(new Upstreams(config, credentials, memory));
  const needs = { metadata, log, meter };
  const cluster = followsCluster ? await openCluster(config, needs) : knownCluster(config, needs);
  const accessParts = await openAccess(config, { ...needs, credentials, cluster, startsMeanwhile });
  const { tenants, issuer, grants, access } = accessParts;
  opened.add(tenants);
  atEachBeat.push(() => void grants.removeEnded());
  opened.add({ close: () => grants.removeEnded() });
  const quota = new PrefixQuota(metadata, owner => tenants.find(owner)?.options.quotaBytes, config.hosted);
  const uploads = opened.add(
    new Uploads({
      spool,
      blobs,
      metadata,
      log,
      quota,
      get maxUploadsPerRequester() {
        return config.hosted.maxUploads;
      },
    }),
  );
  const { upkeep, survey, removal } = openUpkeep(config, {
    metadata,
    spool,
    blobs,
    uploads,
    log,
    meter,
  });
  opened.add(survey);
  const recordProof = async (proof: Proof): Promise<void> => {
    if (proof.outcome === 'granted') access.noteGranted(proof.credentialId);
    tenants.noteOutcome(proof.credentialId, proof.outcome === 'granted' ? 'used' : 'refused');
    await grants.record(proof);
  };
  const mirror = opened.add(
    openMirror(config, { ...needs, credentials, upstreams: upstreams.byName, spool, blobs, recordProof }),
  );
  opened.add({ close: followSecrets({ tenants, grants, mirror, log }) });
  const hosted = new Hosted({ blobs, metadata, log });
  const deleting = new Removal({
    metadata,
    get isEnabled() {
      return config.hosted.delete;
    },
  });
  const publication = new Publication({ metadata, admit: bytes => spool.space.admit(bytes), quota, memory });
  const resolver = repositoryResolverOf(config, name => tenants.find(name) !== undefined);
  const cursors = new Cursors(await metadata.initSetting(CURSOR_KEY, randomBytes(32).toString('hex')));
  return {
    config,
    metadata,
    spool,
    blobs,
    memory,
    resolver,
    tenants,
    issuer,
    access,
    upstreams: upstreams.byName,
    mirror,
    hosted,
    uploads,
    quota,
    upkeep,
    survey,
    removal,
    hostedHandlers: hostedHandlers({ hosted, uploads, publication, removal: deleting, cursors }),
    ...ofReferences({ config, resolver, mirror, access, tenants }),
    prepareReload: async next => {
      verificationPolicies(next);
      const named = await upstreamCredentials(next, metadata);
      return async () => {
        putInForce(config, next);
        credentials.clear();
        for (const [login, credential] of named) credentials.set(login, credential);
        upstreams.follow(config, credentials);
        resolver.setUpstreams([...config.upstreams.values()]);
        mirror.limitsChanged();
        await accessParts.follow();
        await mirror.secretsChanged().catch((error: unknown) => {
          log.error(
            { err: error },
            'the other processes on the store could not be notified of new credentials',
          );
        });
      };
    },
  };
}

/** What people ask about an image by its reference. */
function ofReferences({
  config,
  resolver,
  mirror,
  access,
  tenants,
}: Pick<Parts, 'config' | 'resolver' | 'mirror' | 'access' | 'tenants'>): Pick<Parts, 'refresh' | 'explain'> {
  return {
    refresh: async reference => {
      const { repository, tag = DEFAULT_TAG, digest } = mirroredBy(resolver, reference);
      return mirror.refresh(repository, digest ?? tag, await access.operatorRight(repository));
    },
    explain: async (reference, name) => {
      const tenant = name === undefined ? undefined : tenants.find(name);
      if (name !== undefined && tenant === undefined) return undefined;
      const { repository, tag = DEFAULT_TAG, digest } = resolver.repositoryOf(reference);
      const explanation = await access.explain(tenant, repository);
      if (repository.upstream === '') return explanation;
      const right = await access.rightOf(tenant, repository).catch((error: unknown) => {
        // Whoever may not pull it at all has been told so.
        if (error instanceof OciError) return undefined;
        throw error;
      });
      if (right === undefined) return explanation;
      const outlook = await mirror.explain(repository, digest ?? tag, right);
      const conclusions = [...outlook, ...archNameLines(config, repository), ...explanation.conclusions];
      return { ...explanation, conclusions };
    },
  };
}

/** What `ArchNames` makes of the repository's name, for people. */
function archNameLines(config: Config, repository: Repository): readonly string[] {
  const meant = mayNameArch(config, repository) ? baseOfArchName(repository) : undefined;
  if (meant === undefined) return [];
  const { base, platform } = meant;
  return [
    `if there is no such repository, the pull gets the ${formatPlatform(platform)} image of ${repositoryText(base)} ` +
      '(archInName)',
  ];
}

/** What an image reference on the command line means, where only a mirror can be meant. */
function mirroredBy(
  resolver: RepositoryResolver,
  reference: string,
): ReturnType<RepositoryResolver['repositoryOf']> {
  const named = resolver.repositoryOf(reference);
  if (named.repository.upstream === '') {
    throw new OciError('UNSUPPORTED', { message: `${reference} is hosted here and has no upstream` });
  }
  return named;
}

/** What names mean by `config`, where `isTenant` says whose repositories live here besides. */
export function repositoryResolverOf(
  config: Config,
  isTenant: (name: string) => boolean,
): RepositoryResolver {
  return new RepositoryResolver({
    upstreams: [...config.upstreams.values()],
    serverNames: config.server.serverNames,
    hostedPrefixes: { has: prefix => config.hosted.prefixes.includes(prefix) || isTenant(prefix) },
    defaultUpstream: config.defaultUpstream,
  });
}

interface Followers {
  readonly tenants: Tenants;
  readonly grants: Grants;
  readonly mirror: Mirror;
  readonly log: Log;
}

/** A Secret that goes takes its Grants with it; any change ends what upstream refused before. Returns the way to stop. */
function followSecrets({ tenants, grants, mirror, log }: Followers): () => void {
  return tenants.onChange(({ goneCredentialIds }) => {
    const ended = goneCredentialIds.map(id => grants.endAllOf(id));
    Promise.all([...ended, mirror.secretsChanged()]).catch((error: unknown) => {
      log.error({ err: error }, 'a change of Secrets could not be applied everywhere');
    });
  });
}
