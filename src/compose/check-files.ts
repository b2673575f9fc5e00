/** Checks the files that a configuration names, without a store. */
import { access, constants, readFile, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Config } from '../config/config.ts';
import { ConfigError, messageOf, type Problem } from '../config/problems.ts';
import { absentAsUndefined } from '../lib/error-code.ts';
import { fileTrouble } from '../lib/file-trouble.ts';
import type { Log } from '../lib/log.ts';
import { readTls, UnusableTls } from '../ops/tls-files.ts';
import { referenceFault } from '../prepull/reference-text.ts';
import { InvalidImageList, type NamesReader, wantedImages } from '../prepull/wanted-images.ts';
import { unusableSecrets } from '../tenants/file-secret-source.ts';
import { openPlugins, verificationPolicies } from './access.ts';
import { clusterAccess } from './kubernetes.ts';

/**
 * Reads certificates, keys, kubeconfig and credential providers as a server does. Throws a ConfigError with all
 * problems.
 */
export async function checkFiles(config: Config, log: Log): Promise<void> {
  const found = await Promise.all([
    problemsOf(async () => {
      const { tls } = config.server;
      if (tls !== undefined) await readTls(tls).catch(error => throwTlsProblems(config, error));
    }),
    problemsOf(async () => void verificationPolicies(config)),
    problemsOf(async () => (await openPlugins(config, log))?.close()),
    problemsOf(async () => {
      if (config.kubernetes !== undefined) await clusterAccess(config);
    }),
    problemsOf(() => checkAuditFile(config)),
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

/** Names of `prepull.images` that are no references. The server starts and pulls the others. */
export function imageWarnings({ prepull, origin }: Config): readonly Problem[] {
  return prepull.images.flatMap((name, at) => {
    const message = referenceFault(name);
    const path = ['prepull', 'images', at];
    return message === undefined ? [] : [{ path, value: name, message, source: origin.sourceOf(path) }];
  });
}

/** Files of `prepull.from` that cannot be read or are malformed. The server starts and pulls what the others name. */
export async function listWarnings({ prepull, origin }: Config): Promise<readonly Problem[]> {
  const reader: NamesReader = {
    read: file => readFile(file, 'utf8'),
    shown: file => file,
    takesLikely: false,
    tell: () => {},
  };
  const { unread } = await wantedImages({ images: [], from: prepull.from }, reader);
  return [...unread].map(([file, error]) => {
    const path = ['prepull', 'from', prepull.from.indexOf(file)];
    const message =
      error instanceof InvalidImageList ? error.message : `cannot be read: ${fileTrouble(error)}`;
    return { path, value: file, message, source: origin.sourceOf(path) };
  });
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
  const message = `cannot be opened: ${messageOf(error)}`;
  return { path, value: audit.auditFile, message, source: origin.sourceOf(path) };
}

function throwTlsProblems({ server, origin }: Config, error: unknown): never {
  if (!(error instanceof UnusableTls)) throw error;
  throw new ConfigError(
    error.problems.map(({ key, what: message }) => {
      const path = ['server', 'tls', ...(key === undefined ? [] : [key])];
      return { path, value: key && server.tls?.[key], message, source: origin.sourceOf(path) };
    }),
  );
}
