import type { Config } from './config.ts';
import { type PullLimits, pullLimitProblems } from '../oci/pull-policy.ts';
import { type Address, formatAddress, repositoryPrefix } from './fields.ts';
import { isLoopback } from './loopback.ts';
import type { Problem } from './problems.ts';
import type { ParsedFile } from './schema.ts';

/** A rule that involves several keys. It reads only the sections that it names. */
interface Rule {
  readonly sections: readonly (keyof ParsedFile)[];
  problems(file: ParsedFile): Problem[];
}

/**
 * First path components with a meaning of their own: our routes, and `library`, where Docker Hub has its official
 * repositories.
 */
const RESERVED_PREFIXES: ReadonlySet<string> = new Set([
  'v2',
  'token',
  'livez',
  'readyz',
  'metrics',
  'admin',
  'library',
]);

const RULES: readonly Rule[] = [
  { sections: ['upstreams'], problems: namesAreUnique },
  { sections: ['upstreams', 'server'], problems: passwordsHaveOneSource },
  { sections: ['server'], problems: adminsDiffer },
  { sections: ['server', 'cluster'], problems: addressesDiffer },
  { sections: ['upstreams', 'server'], problems: listenersNameUpstreams },
  { sections: ['upstreams', 'server'], problems: serverNamesAreOurs },
  { sections: ['upstreams', 'hosted'], problems: prefixesAreFree },
  { sections: ['upstreams', 'hosted', 'tenants'], problems: tenantsAreFree },
  { sections: ['upstreams', 'tenants'], problems: tenantsNameUpstreams },
  {
    sections: ['upstreams', 'hosted', 'tenants', 'kubernetes', 'server', 'defaultUpstream'],
    problems: defaultUpstreamShadowsNothing,
  },
  { sections: ['pulls'], problems: pullsAreLimited },
  { sections: ['hosted', 'server'], problems: anonymousPushStaysHome },
  { sections: ['tenants', 'kubernetes', 'server'], problems: passwordsStayEncrypted },
  { sections: ['audit'], problems: auditHasItsFile },
  { sections: ['index'], problems: postgresIsNamedOnce },
  { sections: ['cluster', 'index', 'storage', 'server'], problems: replicasShareEverything },
  { sections: ['storage'], problems: credentialsHaveTheirFile },
  { sections: ['storage'], problems: localBytesHaveTheirBucket },
  { sections: ['notifications'], problems: endpointNamesAreUnique },
  { sections: ['server', 'unknownCredentials'], problems: unknownCredentialsStayEncrypted },
];

/** The rules that `file` breaks, except for rules that read a section in `unreadable`. */
export function ruleProblems(file: ParsedFile, unreadable: ReadonlySet<string>): Problem[] {
  return RULES.filter(({ sections }) => !sections.some(name => unreadable.has(name))).flatMap(rule =>
    rule.problems(file),
  );
}

/** Names and aliases, by which repositories are found, with their upstreams. */
function upstreamNames({ upstreams }: ParsedFile): Map<string, string> {
  const names = new Map(Object.keys(upstreams).map(name => [name, name]));
  for (const [name, { aliases }] of Object.entries(upstreams)) {
    for (const alias of aliases) {
      names.set(alias, names.get(alias) ?? name);
    }
  }
  return names;
}

function namesAreUnique({ upstreams }: ParsedFile): Problem[] {
  const problems: Problem[] = [];
  for (const kind of ['aliases', 'hostAliases'] as const) {
    // A Host header and a first path component are different places: only names of the same place can collide.
    const owners = new Map(kind === 'aliases' ? Object.keys(upstreams).map(name => [name, name]) : []);
    for (const [name, upstream] of Object.entries(upstreams)) {
      for (const [index, alias] of upstream[kind].entries()) {
        const owner = owners.get(alias);
        if (owner !== undefined) {
          const key = kind === 'aliases' ? 'aliases' : 'hostAlias';
          problems.push({
            path: ['upstreams', name, key, index],
            value: alias,
            message: `already means ${owner}`,
          });
        }
        owners.set(alias, name);
      }
    }
  }
  return problems;
}

function passwordsHaveOneSource({ upstreams, server: { admins } }: ParsedFile): Problem[] {
  const logins = [
    ...Object.entries(upstreams).flatMap(([name, { credentials, mirrors }]) => [
      { path: ['upstreams', name, 'credentials'], login: credentials },
      ...mirrors.map((mirror, index) => ({
        path: ['upstreams', name, 'mirrors', index, 'credentials'],
        login: mirror.credentials,
      })),
    ]),
    ...admins.map((login, index) => ({ path: ['server', 'admins', index], login })),
  ];
  return logins
    .filter(
      ({ login }) =>
        login !== undefined && (login.passwordFile === undefined) === (login.passwordEnv === undefined),
    )
    .map(({ path }) => ({
      path,
      value: undefined,
      message: 'expected either passwordFile or passwordEnv',
    }));
}

function adminsDiffer({ server: { admins } }: ParsedFile): Problem[] {
  const names = admins.map(({ name }) => name);
  return names.flatMap((name, index) =>
    names.indexOf(name) < index
      ? [{ path: ['server', 'admins', index, 'name'], value: name, message: 'is used twice' }]
      : [],
  );
}

/** Otherwise one of the listeners would find its port in use. Port 0 is another one each time. */
function addressesDiffer({ server: { listen, opsListen }, cluster }: ParsedFile): Problem[] {
  const addresses = listen.map(({ address }) => address);
  const problems = addresses.map((address, index) => ({
    path: ['server', 'listen', index],
    value: formatAddress(address),
    before: addresses.slice(0, index).find(other => collide(address, other)),
  }));
  if (opsListen !== false) {
    const before = addresses.find(other => collide(opsListen, other));
    problems.push({ path: ['server', 'opsListen'], value: formatAddress(opsListen), before });
  }
  if (cluster !== undefined) {
    const { listen: address } = cluster;
    const others = opsListen === false ? addresses : [...addresses, opsListen];
    const before = others.find(other => collide(address, other));
    problems.push({ path: ['cluster', 'listen'], value: formatAddress(address), before });
  }
  return problems.flatMap(({ path, value, before }) =>
    before === undefined
      ? []
      : [
          {
            path,
            value,
            message: `uses the same port as ${formatAddress(before)} in ${before === opsListen ? 'server.opsListen' : 'server.listen'}`,
          },
        ],
  );
}

/** Whether the system refuses to listen on both. IPv6's unspecified address also takes the connections of IPv4. */
function collide(one: Address, other: Address): boolean {
  if (one.port === 0 || one.port !== other.port) return false;
  const hosts = [one.host, other.host];
  const isIpv6Alone = hosts.some(host => host !== '::' && host.includes(':'));
  return one.host === other.host || hosts.includes('::') || (hosts.includes('0.0.0.0') && !isIpv6Alone);
}

function listenersNameUpstreams({ server, upstreams }: ParsedFile): Problem[] {
  return server.listen
    .map((listener, index) => ({ upstream: listener.upstream, index }))
    .filter(({ upstream }) => upstream !== undefined && !Object.hasOwn(upstreams, upstream))
    .map(({ upstream, index }) => ({
      path: ['server', 'listen', index, 'upstream'],
      value: upstream,
      message: `expected the name of an upstream: ${Object.keys(upstreams).join(', ')}`,
    }));
}

function serverNamesAreOurs(file: ParsedFile): Problem[] {
  const upstreams = upstreamNames(file);
  for (const [name, { hostAliases }] of Object.entries(file.upstreams)) {
    hostAliases.forEach(alias => upstreams.set(alias, name));
  }
  return file.server.serverNames
    .map((name, index) => ({ name, index, owner: upstreams.get(name) }))
    .filter(({ owner }) => owner !== undefined)
    .map(({ name, index, owner }) => ({
      path: ['server', 'serverNames', index],
      value: name,
      message: `expected a name of this registry, but it means the upstream ${owner}`,
    }));
}

/**
 * Why `name` cannot be the first component of hosted repositories, and so not a tenant either; `undefined` if it can.
 * `upstreams` has all names and aliases, with the upstream that each means.
 */
function prefixProblem(name: string, upstreams: ReadonlyMap<string, string>): string | undefined {
  if (RESERVED_PREFIXES.has(name)) {
    return `is reserved, as are ${[...RESERVED_PREFIXES].join(', ')}`;
  }
  const owner = upstreams.get(name);
  return owner === undefined ? undefined : `already means the upstream ${owner}`;
}

/**
 * Why no tenant may have this name: for tenants that are not in the configuration, which are namespaces, and tenants of
 * the store.
 */
export function tenantNameProblem(
  name: string,
  { upstreams, hosted }: Pick<Config, 'upstreams' | 'hosted'>,
): string | undefined {
  if (!repositoryPrefix.safeParse(name).success) {
    return 'is not a valid component of a repository name';
  }
  const names = [...upstreams.values()].flatMap(upstream =>
    [upstream.name, ...upstream.aliases].map(alias => [alias, upstream.name] as const),
  );
  return prefixProblem(name, new Map(names)) ?? ownerlessProblem(name, hosted.prefixes);
}

/** Rights to what is below a hosted prefix follow `hosted.anonymous`, and no tenant owns it. */
function ownerlessProblem(name: string, prefixes: readonly string[]): string | undefined {
  return prefixes.includes(name) ? 'is one of hosted.prefixes, which no tenant owns' : undefined;
}

function prefixesAreFree(file: ParsedFile): Problem[] {
  const upstreams = upstreamNames(file);
  return file.hosted.prefixes.flatMap((prefix, index) => {
    const message = prefixProblem(prefix, upstreams);
    return message === undefined ? [] : [{ path: ['hosted', 'prefixes', index], value: prefix, message }];
  });
}

function tenantsAreFree(file: ParsedFile): Problem[] {
  const upstreams = upstreamNames(file);
  const names = file.tenants.map(({ name }) => name);
  return names.flatMap((name, index) => {
    const isTwice = names.indexOf(name) < index;
    const message = isTwice
      ? 'occurs twice'
      : (prefixProblem(name, upstreams) ?? ownerlessProblem(name, file.hosted.prefixes));
    return message === undefined ? [] : [{ path: ['tenants', index, 'name'], value: name, message }];
  });
}

function tenantsNameUpstreams(file: ParsedFile): Problem[] {
  const known = Object.keys(file.upstreams);
  const isUnknown = (name: string) => !name.includes('*') && !known.includes(name);
  return file.tenants.flatMap(({ upstreams = [], repositories = [] }, index) => [
    ...upstreams.filter(isUnknown).map(name => ({
      path: ['tenants', index, 'upstreams'],
      value: name,
      message: `expected names of upstreams: ${known.join(', ')}`,
    })),
    ...repositories
      .filter(pattern => isUnknown(pattern.slice(0, pattern.indexOf('/'))))
      .map(pattern => ({
        path: ['tenants', index, 'repositories'],
        value: pattern,
        message: `expected names of upstreams first: ${known.join(', ')}`,
      })),
  ]);
}

function defaultUpstreamShadowsNothing({
  defaultUpstream,
  upstreams,
  hosted,
  tenants,
  kubernetes,
  server,
}: ParsedFile): Problem[] {
  const path = ['defaultUpstream'];
  if (defaultUpstream === undefined) {
    return [];
  }
  if (!Object.hasOwn(upstreams, defaultUpstream)) {
    const message = `expected the name of an upstream: ${Object.keys(upstreams).join(', ')}`;
    return [{ path, value: defaultUpstream, message }];
  }
  // A listener of an upstream serves no hosted repositories.
  const open = server.listen.some(({ upstream }) => upstream === undefined);
  const message =
    'may be set only if nothing is hosted (hosted.prefixes, tenants, kubernetes): hosted names would hide repositories; ' +
    'give the upstream a listener of its own instead (server.listen: [{address: …, upstream: …}])';
  const isHosting = hosted.prefixes.length + tenants.length > 0 || kubernetes !== undefined;
  return open && isHosting ? [{ path, value: defaultUpstream, message }] : [];
}

/** The kubelet's own validation of these keys. */
function pullsAreLimited({ pulls: { serializeImagePulls, maxParallelImagePulls } }: ParsedFile): Problem[] {
  const limits: PullLimits = { serializeImagePulls, maxParallelImagePulls };
  return pullLimitProblems(limits).map(({ member, message }) => ({
    path: ['pulls', member],
    value: limits[member],
    message,
  }));
}

function anonymousPushStaysHome({ hosted, server }: ParsedFile): Problem[] {
  const reachable = server.listen.some(
    ({ address, upstream }) => upstream === undefined && !isLoopback(address.host),
  );
  const message =
    'lets anyone who can reach server.listen push; listen on 127.0.0.1, or set hosted.anonymousBeyondLoopback: true';
  return hosted.anonymous === 'push' && reachable && !hosted.anonymousBeyondLoopback
    ? [{ path: ['hosted', 'anonymous'], value: 'push', message }]
    : [];
}

/** Whether passwords would be sent in plain text over a network, without the configuration allowing that. */
function isPlainBeyondLoopback({ server }: Pick<ParsedFile | Config, 'server'>): boolean {
  const { listen, tls, allowPlainCredentials, externalUrl, trustedProxies } = server;
  const isBehindTls = externalUrl?.startsWith('https:') === true && trustedProxies.length > 0;
  const isReachable = listen.some(({ address }) => !isLoopback(address.host));
  return isReachable && tls === undefined && !allowPlainCredentials && !isBehindTls;
}

const PLAIN =
  'would send passwords over plain HTTP to server.listen; set server.tls, or an https externalUrl with trustedProxies, ' +
  'or listen on 127.0.0.1, or set server.allowPlainCredentials: true';

/** Why tenants that are not in the configuration may not log in here; `undefined` if they may. */
export function plainTenantsProblem(config: Pick<Config, 'server'>): string | undefined {
  return isPlainBeyondLoopback(config) ? PLAIN : undefined;
}

function passwordsStayEncrypted(file: ParsedFile): Problem[] {
  const mayPush = file.tenants.some(({ push }) => push);
  const who = mayPush ? 'tenants' : file.kubernetes && 'kubernetes';
  return who !== undefined && isPlainBeyondLoopback(file)
    ? [{ path: [who], value: undefined, message: PLAIN }]
    : [];
}

function unknownCredentialsStayEncrypted(file: ParsedFile): Problem[] {
  return file.unknownCredentials === 'verify' && isPlainBeyondLoopback(file)
    ? [{ path: ['unknownCredentials'], value: 'verify', message: PLAIN }]
    : [];
}

function credentialsHaveTheirFile({ storage: { s3 } }: ParsedFile): Problem[] {
  const isMissing = s3?.credentials === 'file' && s3.credentialsFile === undefined;
  const isUnused = s3 !== undefined && s3.credentials !== 'file' && s3.credentialsFile !== undefined;
  const path = ['storage', 's3', 'credentialsFile'];
  const problem = (message: string) => [{ path, value: s3?.credentialsFile, message }];
  if (isMissing) return problem('is required for credentials: file');
  return isUnused ? problem('is only read for credentials: file') : [];
}

function localBytesHaveTheirBucket({ storage: { s3, maxLocalBytes } }: ParsedFile): Problem[] {
  if (maxLocalBytes === undefined || s3?.redirect === false) return [];
  const message =
    s3 === undefined
      ? 'is only used with storage.s3'
      : 'is not used with storage.s3.redirect: clients read the bucket';
  return [{ path: ['storage', 'maxLocalBytes'], value: undefined, message }];
}

function postgresIsNamedOnce({ index: { postgres } }: ParsedFile): Problem[] {
  if (postgres === undefined) return [];
  const path = ['index', 'postgres'];
  const problems: Problem[] = [];
  if (postgres.url === undefined && postgres.host === undefined) {
    problems.push({ path: [...path, 'host'], value: undefined, message: 'either url or host is required' });
  }
  for (const key of ['host', 'port', 'database', 'user'] as const) {
    if (postgres.url !== undefined && postgres[key] !== undefined) {
      problems.push({ path: [...path, key], value: postgres[key], message: 'is part of url already' });
    }
  }
  if (postgres.passwordFile !== undefined && postgres.passwordEnv !== undefined) {
    const message = 'expected either passwordFile or passwordEnv';
    problems.push({ path: [...path, 'passwordEnv'], value: postgres.passwordEnv, message });
  }
  return problems;
}

/** Addresses that mean all of a machine's own. */
const UNSPECIFIED: readonly string[] = ['0.0.0.0', '::'];

/** Whatever one replica stores, all others read. */
function replicasShareEverything({ cluster, index, storage, server }: ParsedFile): Problem[] {
  if (cluster === undefined) return [];
  const missing = [
    ...(index.postgres === undefined ? ['index.postgres'] : []),
    ...(storage.s3 === undefined ? ['storage.s3'] : []),
  ];
  const message = `requires ${missing.join(' and ')}, which all replicas share`;
  const problems: Problem[] = missing.length > 0 ? [{ path: ['cluster'], value: undefined, message }] : [];
  const { keyFile, tls } = cluster;
  if ((keyFile === undefined) === (tls === undefined)) {
    problems.push({
      path: ['cluster', 'keyFile'],
      value: keyFile,
      message: 'either keyFile or tls is required, by which replicas recognize each other',
    });
  }
  if (UNSPECIFIED.includes(cluster.advertise.host) || cluster.advertise.port === 0) {
    problems.push({
      path: ['cluster', 'advertise'],
      value: formatAddress(cluster.advertise),
      message: 'no replica can be reached at this address: expected that of this one, as others see it',
    });
  }
  if (server.processes !== 1) {
    problems.push({
      path: ['server', 'processes'],
      value: server.processes,
      message: 'must be 1 with cluster: more replicas take its place',
    });
  }
  return problems;
}

function auditHasItsFile({ audit }: ParsedFile): Problem[] {
  const isMissing = audit.output === 'file' && audit.auditFile === undefined;
  return isMissing
    ? [{ path: ['audit', 'auditFile'], value: undefined, message: 'is required for output: file' }]
    : [];
}

function endpointNamesAreUnique({ notifications: { endpoints } }: ParsedFile): Problem[] {
  const names = endpoints.map(({ name }) => name);
  return names.flatMap((name, index) =>
    names.indexOf(name) < index
      ? [{ path: ['notifications', 'endpoints', index, 'name'], value: name, message: 'occurs twice' }]
      : [],
  );
}
