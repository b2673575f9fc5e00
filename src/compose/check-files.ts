/** Checks the files that a configuration names, without a store. */
import { access, constants, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Config } from '../config/config.ts';
import { ConfigError, messageOf, type Problem } from '../config/problems.ts';
import { systemClock } from '../lib/clock.ts';
import { absentAsUndefined } from '../lib/error-code.ts';
import { fileTrouble } from '../lib/file-trouble.ts';
import { type Log, silentLog } from '../lib/log.ts';
import type { RepositoryResolver } from '../oci/repository-resolver.ts';
import { certificateTrouble, readTls, type TlsPaths, UnusableTls } from '../ops/tls-files.ts';
import { InvalidImageList, wantedImages } from '../prepull/wanted-images.ts';
import { unusableSecrets } from '../tenants/file-secret-source.ts';
import { NodeConfig } from '../tenants/node-config.ts';
import { openPlugins, verificationPolicies } from './access.ts';
import { openClusterTls, tlsProblems } from './cluster-tls.ts';
import { clusterAccess } from './kubernetes.ts';
import { configuredNames } from './names-reader.ts';
import { postgresSettingsOf } from './postgres.ts';
import { repositoryResolverOf } from './repository-resolver.ts';
import { keysTrouble, s3SettingsOf } from './s3.ts';

/**
 * Reads certificates, keys, kubeconfig, credential providers, and the files for bucket and database, as a server does.
 * Throws a ConfigError with all problems.
 */
export async function checkFiles(config: Config, log: Log): Promise<void> {
  const found = await Promise.all([
    problemsOf(async () => {
      const { tls } = config.server;
      if (tls !== undefined) await readTls(tls).catch(error => throwTlsProblems(config, tls, error));
    }),
    problemsOf(async () => void verificationPolicies(config)),
    problemsOf(async () => (await openPlugins(config, { log }))?.close()),
    problemsOf(async () => {
      if (config.kubernetes !== undefined) await clusterAccess(config);
    }),
    problemsOf(() => checkAuditFile(config)),
    problemsOf(async () => (await openClusterTls(config, silentLog))?.close()),
    problemsOf(async () => {
      const { s3 } = config.storage;
      if (s3 !== undefined) await s3SettingsOf(s3, config);
    }),
    problemsOf(async () => {
      const { postgres } = config.index;
      if (postgres !== undefined) await postgresSettingsOf(postgres, config);
    }),
  ]);
  const problems = found.flat();
  if (problems.length > 0) throw new ConfigError(problems);
}

/**
 * The Secrets of tenants that cannot be used. They do not prevent the server from starting, and affect only their
 * tenant, whose pulls from upstream may fail.
 */
export async function secretWarnings({ tenants, origin }: Config): Promise<readonly Problem[]> {
  const warnings: Problem[] = [];
  for (const [index, { secrets }] of tenants.entries()) {
    for (const [at, file] of secrets.entries()) {
      const path = ['tenants', index, 'secrets', at];
      const source = origin.sourceOf(path);
      for (const message of await unusableSecrets(file)) {
        warnings.push({ path, value: file, message, source });
      }
    }
  }
  return warnings;
}

/** Certificates that clients or other replicas refuse, or will soon. The server starts with them. Their files have been checked. */
export async function certificateWarnings({ server, cluster, origin }: Config): Promise<readonly Problem[]> {
  const warnings: Problem[] = [];
  for (const [section, tls] of [
    ['server', server.tls],
    ['cluster', cluster?.tls],
  ] as const) {
    const message = tls && certificateTrouble(await readTls(tls));
    const path = [section, 'tls', 'certFile'];
    if (message !== undefined)
      warnings.push({ path, value: tls?.certFile, message, source: origin.sourceOf(path) });
  }
  return warnings;
}

/** Why the bucket cannot be used. A server whose store is in it starts nevertheless, and waits for keys. */
export async function bucketWarnings(config: Config): Promise<readonly Problem[]> {
  const { s3 } = config.storage;
  const message = s3 && (await keysTrouble(s3, config));
  if (message === undefined) return [];
  const path = ['storage', 's3', 'credentials'];
  return [{ path, value: s3?.credentials, message, source: config.origin.sourceOf(path) }];
}

/** The Docker configs of the node that cannot be used, before the one that counts. The server starts without them. */
export async function nodeConfigWarnings({ nodeConfig, origin }: Config): Promise<readonly Problem[]> {
  const needs = { log: silentLog, clock: systemClock, onChange: () => {} };
  const node = new NodeConfig({ paths: nodeConfig, ...needs });
  await node.start();
  await node.close();
  const path = ['nodeConfig'];
  const source = origin.sourceOf(path);
  return node.states.flatMap(({ name, state, reason }) =>
    state === 'loaded' ? [] : [{ path, value: name, message: `is ${state}: ${reason}`, source }],
  );
}

/**
 * Names of `prepull.images` and images without verification that mean nothing here: no references, or of a registry that
 * is not configured. The server starts and pulls the others.
 */
export function imageWarnings(config: Config): readonly Problem[] {
  const { prepull, preloadedImagesVerificationAllowlist: allowlist } = config;
  const resolver = resolverOf(config);
  return [
    ...warningsOf(config, ['prepull', 'images'], prepull.images, name => nameFault(resolver, name)),
    ...warningsOf(config, ['preloadedImagesVerificationAllowlist'], allowlist, entry => {
      // Its form has been checked: a registry, and a repository or `*`.
      const [registry = ''] = entry.split('/', 1);
      return resolver.knownNamespace(registry) === undefined ? 'its registry is not configured' : undefined;
    }),
  ];
}

function warningsOf(
  { origin }: Config,
  list: readonly string[],
  values: readonly string[],
  faultOf: (value: string) => string | undefined,
): readonly Problem[] {
  return values.flatMap((value, at) => {
    const message = faultOf(value);
    const path = [...list, at];
    return message === undefined ? [] : [{ path, value, message, source: origin.sourceOf(path) }];
  });
}

/** How many images of a file are reported: it may have thousands. */
const MAX_REPORTED_IMAGES = 10;

/**
 * Files of `prepull.from` that cannot be read or are malformed, and their images that mean nothing here. The server
 * starts and pulls what the others name.
 */
export async function listWarnings(config: Config): Promise<readonly Problem[]> {
  const resolver = resolverOf(config);
  const warnings: Problem[] = [];
  for (const [at, file] of config.prepull.from.entries()) {
    const { images, unread } = await wantedImages({ images: [], from: [file] }, configuredNames());
    const faults = images.flatMap(({ name }) => {
      const fault = nameFault(resolver, name);
      return fault === undefined ? [] : [`${name}: ${fault}`];
    });
    const messages = [...[...unread.values()].map(listFault), ...faults.slice(0, MAX_REPORTED_IMAGES)];
    const others = faults.length - MAX_REPORTED_IMAGES;
    if (others > 0) messages.push(`${others} more images cannot be pulled`);
    const path = ['prepull', 'from', at];
    const source = config.origin.sourceOf(path);
    warnings.push(...messages.map(message => ({ path, value: file, message, source })));
  }
  return warnings;
}

function listFault(error: unknown): string {
  return error instanceof InvalidImageList ? error.message : `cannot be read: ${fileTrouble(error)}`;
}

/**
 * The meaning of names as far as the configuration tells: only the store and the cluster know all tenants, so any first
 * component may be one, except Docker Hub's own.
 */
function resolverOf(config: Config): RepositoryResolver {
  return repositoryResolverOf(config, prefix => prefix !== 'library');
}

/** Why nothing can be pulled by this name; `undefined` if it can. */
function nameFault(resolver: RepositoryResolver, name: string): string | undefined {
  try {
    resolver.repositoryOf(name);
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

async function problemsOf(check: () => Promise<void>): Promise<readonly Problem[]> {
  try {
    await check();
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.problems;
  }
}

/** Checks that this user may append to the file, or create it, without creating it. */
async function checkAuditFile(config: Config): Promise<void> {
  const { output, auditFile } = config.audit;
  if (output !== 'file' || auditFile === undefined) return;
  try {
    const isThere = (await absentAsUndefined(stat(auditFile))) !== undefined;
    await access(isThere ? auditFile : dirname(auditFile), constants.W_OK);
  } catch (error) {
    throw new ConfigError([auditProblem(config, error)]);
  }
}

/** The problem of an audit file that cannot be opened. */
export function auditProblem({ audit, origin }: Config, error: unknown): Problem {
  const path = ['audit', 'auditFile'];
  const message = `cannot be opened: ${fileTrouble(error)}`;
  return { path, value: audit.auditFile, message, source: origin.sourceOf(path) };
}

function throwTlsProblems(config: Config, paths: TlsPaths, error: unknown): never {
  if (!(error instanceof UnusableTls)) throw error;
  throw new ConfigError(tlsProblems(config, ['server', 'tls'], { paths, error }));
}
