/** Checks the files that a configuration names, without a store. */
import { access, constants, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Config } from '../config/config.ts';
import { ConfigError, messageOf, type Problem } from '../config/problems.ts';
import { absentAsUndefined } from '../lib/error-code.ts';
import type { Log } from '../lib/log.ts';
import { readTls } from '../ops/tls-files.ts';
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
      if (tls !== undefined) await readTls(tls).catch(throwTlsProblem);
    }),
    problemsOf(async () => void verificationPolicies(config)),
    problemsOf(async () => (await openPlugins(config, log))?.close()),
    problemsOf(async () => {
      if (config.kubernetes !== undefined) await clusterAccess(config);
    }),
    problemsOf(() => checkAuditFile(config.audit)),
  ]);
  const problems = found.flat();
  if (problems.length > 0) throw new ConfigError(problems);
}

/**
 * The Secrets of tenants that cannot be used. They do not prevent the server from starting, and affect only their
 * tenant, whose pulls from upstream may fail.
 */
export async function secretWarnings({ tenants }: Config): Promise<readonly Problem[]> {
  const warnings: Problem[] = [];
  for (const [index, { secrets }] of tenants.entries()) {
    for (const [at, file] of secrets.entries()) {
      const path = ['tenants', index, 'secrets', at];
      for (const message of await unusableSecrets(file)) warnings.push({ path, value: file, message });
    }
  }
  return warnings;
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
async function checkAuditFile(audit: Config['audit']): Promise<void> {
  const { output, auditFile } = audit;
  if (output !== 'file' || auditFile === undefined) return;
  try {
    const isThere = (await absentAsUndefined(stat(auditFile))) !== undefined;
    await access(isThere ? auditFile : dirname(auditFile), constants.W_OK);
  } catch (error) {
    throw new ConfigError([auditProblem(audit, error)]);
  }
}

/** The problem of an audit file that cannot be opened. */
export function auditProblem({ auditFile }: Config['audit'], error: unknown): Problem {
  const message = `cannot be opened: ${messageOf(error)}`;
  return { path: ['audit', 'auditFile'], value: auditFile, message, source: 'the configuration' };
}

function throwTlsProblem(error: unknown): never {
  const message = messageOf(error);
  throw new ConfigError([
    { path: ['server', 'tls'], value: undefined, message, source: 'the configuration' },
  ]);
}
