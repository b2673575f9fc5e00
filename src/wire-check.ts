/** What a server would not start with of the files that its configuration names; it has no store yet. */
import type { Config } from './config/config.ts';
import { ConfigError, messageOf, type Problem } from './config/problems.ts';
import type { Log } from './lib/log.ts';
import { readTls } from './ops/tls-files.ts';
import { openPlugins, verificationPolicies } from './wire-access.ts';
import { clusterAccess } from './wire-kubernetes.ts';

/**
 * Reads certificates, keys, kubeconfig and credential providers as a server does, and keeps nothing. A ConfigError with
 * all that is wrong, so that whoever puts it right hears of it at once.
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
  ]);
  const problems = found.flat();
  if (problems.length > 0) throw new ConfigError(problems);
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

function throwTlsProblem(error: unknown): never {
  const message = messageOf(error);
  throw new ConfigError([
    { path: ['server', 'tls'], value: undefined, message, source: 'the configuration' },
  ]);
}
