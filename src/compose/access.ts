/** The part of the composition root for authentication and authorization: tenants, rights, tokens. */
import { randomBytes } from 'node:crypto';
import { Access } from '../access/access.ts';
import type { LoginNews } from '../access/failed-logins.ts';
import { Grants } from '../grants/grants.ts';
import type { UpstreamRule } from '../access/mirrored-rights.ts';
import { TokenKeys } from '../access/token-keys.ts';
import { Tokens } from '../access/tokens.ts';
import { InvalidAllowlist, VerificationPolicy } from '../grants/verification.ts';
import type { Config, LoginConfig, UpstreamConfig } from '../config/config.ts';
import { ConfigError } from '../config/problems.ts';
import { pathName } from '../config/path-name.ts';
import { type RepositoryOptions, repositoryOptions } from '../config/repository-options.ts';
import { plainTenantsProblem, tenantNameProblem } from '../config/rules.ts';
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { News } from '../lib/news.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type Credential, nameCredential } from '../oci/credential.ts';
import { OciError } from '../oci/errors.ts';
import { DOCKER_HUB } from '../oci/reference.ts';
import { parseRegistryUrl } from '../oci/registry-url.ts';
import type { Repository } from '../oci/repository.ts';
import { CredentialPlugins, type CredentialPluginsOptions } from '../tenants/credential-plugins.ts';
import { InvalidCredentialProvider } from '../tenants/credential-provider.ts';
import { FileSecretSource } from '../tenants/file-secret-source.ts';
import { Issuer } from '../tenants/issuer.ts';
import type { NoteSecret } from '../tenants/secret-changes.ts';
import { openTenants } from '../tenants/tenant-directory.ts';
import type { ConfiguredTenant, Tenants } from '../tenants/tenant.ts';
import type { Cluster } from './kubernetes.ts';

/** Tenants, and what decides about rights. */
export interface AccessParts {
  readonly tenants: Tenants;
  readonly issuer: Issuer;
  readonly grants: Grants;
  readonly access: Access;
  /** Applies a change of `config` and `credentials`, which it shares with the caller. */
  readonly follow: () => Promise<void>;
}

export interface AccessNeeds {
  readonly metadata: MetadataStore;
  readonly credentials: UpstreamCredentials;
  readonly cluster: Cluster | undefined;
  /** Whether to serve while the cluster is still being read. */
  readonly startsMeanwhile: boolean;
  /** As in `PartsOptions`. */
  readonly reportsSecretsOf: (tenant: string | undefined) => boolean;
  /** As in `AccessOptions`. */
  readonly loginNews: News<LoginNews> | undefined;
  /** As in `TenantsParts`. */
  readonly noteSecret: NoteSecret | undefined;
  readonly clock: Clock;
  readonly log: Log;
  readonly meter: Meter;
}

/** Opens all tenants, and what decides about rights. The caller closes `tenants`. */
export async function openAccess(config: Config, needs: AccessNeeds): Promise<AccessParts> {
  const { metadata, credentials, cluster, clock, log, meter } = needs;
  const credentialKey = await readCredentialKey(metadata);
  const nameProblem = (name: string) => tenantNameProblem(name, config);
  const issuing = { store: metadata, credentialKey, nameProblem };
  const files = new FileSecretSource(config.tenants, log, clock);
  const tenants = await openTenants({
    ...issuing,
    sources: [files, ...(cluster === undefined ? [] : [cluster.source])],
    configured: configuredTenants(config),
    nodeConfig: config.nodeConfig,
    plugins: await openPlugins(config, { clock, log }),
    startsMeanwhile: needs.startsMeanwhile,
    reportsSecretsOf: needs.reportsSecretsOf,
    noteSecret: needs.noteSecret,
    clock,
    log,
    meter,
  });
  let configured = idsOf(credentials);
  const grants = new Grants(metadata, config, clock, id => configured.has(id) || tenants.isHeld(id));
  let verification = verificationPolicies(config);
  const ruleOf = (upstream: UpstreamConfig, options: RepositoryOptions): UpstreamRule => ({
    ...options,
    credential: credentials.get(upstream.credentials),
    imagesOf: repository => imagesOf(upstream, repository),
    verification: verification(upstream),
  });
  /** By the options of an upstream and rule, since every request needs one. */
  let rules = new Map<RepositoryOptions, UpstreamRule>();
  const access = new Access({
    tenants,
    grants,
    tokens: new Tokens(new TokenKeys(metadata), serviceName(config)),
    nameCredential: (username, password) => nameCredential(credentialKey, username, password),
    serviceAccounts: cluster?.serviceAccounts,
    upstreamRule: repository => {
      const upstream = upstreamOf(config, repository);
      const options = repositoryOptions(upstream, repository.name);
      const rule = rules.get(options) ?? ruleOf(upstream, options);
      rules.set(options, rule);
      return rule;
    },
    hosted: config.hosted,
    serverNames: config.server.serverNames,
    unknownCredentials: config.unknownCredentials,
    externalUrl: config.server.externalUrl,
    allowPlainCredentials: config.server.allowPlainCredentials,
    nameInScope: name => nameInScope(config, name),
    loginNews: needs.loginNews,
    log,
    meter,
  });
  const follow = async (): Promise<void> => {
    configured = idsOf(credentials);
    verification = verificationPolicies(config);
    rules = new Map();
    tenants.configure(configuredTenants(config));
    await files.follow(config.tenants);
  };
  return { tenants, issuer: new Issuer(issuing), grants, access, follow };
}

function configuredTenants({ tenants }: Config): readonly ConfiguredTenant[] {
  return tenants.map(({ name, secrets: _secrets, ...options }) => ({ name, options }));
}

function idsOf(credentials: UpstreamCredentials): ReadonlySet<string> {
  return new Set([...credentials.values()].flatMap(credential => credential?.id ?? []));
}

/**
 * Throws ConfigError if tenants of the store could push over plain HTTP beyond loopback; those of the configuration are
 * checked when it is read.
 */
export function requireEncryption(config: Config, tenants: Tenants): void {
  const problem = plainTenantsProblem(config);
  const pushing = tenants.list().filter(({ options }) => options.push !== false);
  if (problem === undefined || pushing.length === 0) return;
  const message = `tenants added with entrepot tenant add (${pushing.map(({ name }) => name).join(', ')}) ${problem}`;
  throw new ConfigError([{ path: ['tenants'], value: undefined, message, source: 'the store' }]);
}

/**
 * The kubelet's plugins, if configured; throws ConfigError for a configuration with which the kubelet would not start.
 */
export async function openPlugins(
  config: Config,
  needs: Pick<CredentialPluginsOptions, 'clock' | 'log'>,
): Promise<CredentialPlugins | undefined> {
  const { credentialProviders, environment, origin } = config;
  if (credentialProviders === undefined) return undefined;
  try {
    return await CredentialPlugins.open({ ...credentialProviders, ...needs, environment });
  } catch (error) {
    if (!(error instanceof InvalidCredentialProvider)) throw error;
    const { message } = error;
    const path = ['credentialProviders'];
    throw new ConfigError([{ path, value: undefined, message, source: origin.sourceOf(path) }]);
  }
}

/** By the configuration's credentials; `undefined` for none. */
export type UpstreamCredentials = ReadonlyMap<LoginConfig | undefined, Credential | undefined>;

/** The credentials of the configuration, with their ids in this store. */
export async function upstreamCredentials(
  config: Config,
  metadata: MetadataStore,
): Promise<Map<LoginConfig | undefined, Credential | undefined>> {
  const key = await readCredentialKey(metadata);
  const logins = [...config.upstreams.values()].flatMap(({ credentials, mirrors }) => [
    credentials,
    ...mirrors.map(mirror => mirror.credentials),
  ]);
  return new Map(
    logins.map(login => [login, login && nameCredential(key, login.username, login.password)] as const),
  );
}

/** The setting of the store with the secret for credential ids. */
export const CREDENTIAL_KEY = 'credential-key';

/** The configured upstream of a repository; throws NAME_UNKNOWN. */
export function upstreamOf(config: Config, repository: Repository): UpstreamConfig {
  const upstream = config.upstreams.get(repository.upstream);
  if (upstream === undefined) {
    // A reload may remove it during a request.
    throw new OciError('NAME_UNKNOWN', {
      message: `${repository.upstream} is no longer an upstream of this registry`,
    });
  }
  return upstream;
}

function readCredentialKey(metadata: MetadataStore): Promise<string> {
  return metadata.initSetting(CREDENTIAL_KEY, randomBytes(32).toString('hex'));
}

/** By configured upstream, since every request needs it. */
const places = new WeakMap<UpstreamConfig, readonly string[]>();

/**
 * The names that Secrets may use for a repository: first as a part of another registry, if it is one, since a login for
 * that part is the most specific; then as pods name it.
 */
function imagesOf(upstream: UpstreamConfig, { name }: Repository): readonly string[] {
  const known = places.get(upstream) ?? placesOf(upstream);
  places.set(upstream, known);
  return known.map(place => `${place}/${name}`);
}

function placesOf(upstream: UpstreamConfig): readonly string[] {
  const { host, prefix } = parseRegistryUrl(upstream.url);
  const names = registryNames(upstream);
  return prefix === '' ? names : [`${host}/${prefix}`.slice(0, -1), ...names];
}

/** The names by which pods know the registry. For Docker Hub only one: the kubelet does not know its other names. */
function registryNames({ name, aliases }: UpstreamConfig): readonly string[] {
  const names = [name, ...aliases];
  return names.includes(DOCKER_HUB) ? [DOCKER_HUB] : names;
}

/**
 * A repository name with the upstream's name or alias without a port in front, if it has one; unchanged for a hosted
 * repository.
 */
function nameInScope({ upstreams }: Config, name: string): string {
  const slash = name.indexOf('/');
  const upstream = upstreams.get(name.slice(0, slash));
  const plain = upstream && pathName(upstream);
  return plain === undefined ? name : plain + name.slice(slash);
}

/** The service name in tokens and challenges. */
function serviceName({ server }: Config): string {
  const { externalUrl, serverNames } = server;
  return externalUrl === undefined ? (serverNames[0] ?? 'entrepot') : new URL(externalUrl).host;
}

/**
 * The policy of each upstream; there is one object for each policy name. Throws ConfigError for an invalid allow-list.
 */
export function verificationPolicies(config: Config): (upstream: UpstreamConfig) => VerificationPolicy {
  type Written = Config['imagePullCredentialsVerificationPolicy'];
  const policies = new Map<string, VerificationPolicy>();
  const policyOf = (written: Written): VerificationPolicy => {
    // The kubelet has used both spellings.
    const name = written === 'NeverVerifyAllowListedImages' ? 'NeverVerifyAllowlistedImages' : written;
    const known = policies.get(name);
    if (known !== undefined) return known;
    const policy = new VerificationPolicy(name, config.preloadedImagesVerificationAllowlist);
    policies.set(name, policy);
    return policy;
  };
  try {
    const general = config.imagePullCredentialsVerificationPolicy;
    policyOf(general);
    return upstream => policyOf(upstream.imagePullCredentialsVerificationPolicy ?? general);
  } catch (error) {
    if (!(error instanceof InvalidAllowlist)) throw error;
    const { message } = error;
    const path = ['preloadedImagesVerificationAllowlist'];
    throw new ConfigError([{ path, value: undefined, message, source: config.origin.sourceOf(path) }]);
  }
}
