import type { RunningServer } from '../compose/server.ts';
import { readVersion } from '../compose/version.ts';
import type { Config } from '../config/config.ts';
import { loadConfig } from '../config/load.ts';
import { ConfigError, problemText } from '../config/problems.ts';
import { PartlyReloaded } from '../config/reload.ts';
import { optionsWithoutEffect } from '../config/without-effect.ts';
import type { Log } from '../lib/log.ts';
import { type Audit, createAudit } from '../ops/audit.ts';
import { HangUps } from '../ops/hang-ups.ts';
import { createLogger, type Logger } from '../ops/logger.ts';
import { createMetrics } from '../ops/metrics.ts';
import { Shutdown } from '../ops/shutdown.ts';
import { bannerText } from './banner.ts';
import { CONFIG_OPTION, type Command, type ExitCode, type Input, textOption } from './command.ts';
import { requireOwn } from './store-owner.ts';

/**
 * Time after the last body to sync downloads, release leases and close the index. If a process skips this, the next one
 * has to wait some seconds for its leases.
 */
const STORE_CLOSE_MS = 5_000;

/** `entrepot serve`: runs the registry until a signal ends it. */
export const serve: Command = {
  name: 'serve',
  summary: 'run the registry',
  description:
    'Runs the registry. Without a configuration file it mirrors the preset registries on http://127.0.0.1:5000 ' +
    'and stores what it fetches in ./storage. SIGTERM or Ctrl-C lets transfers finish (server.shutdownTimeout); ' +
    'a second one ends it at once. SIGHUP reads the configuration again, applies the changes that need no restart (the log ' +
    'says which do), and reopens the audit log.',
  options: [
    { flags: '--offline', description: 'contact no upstream, whatever the configuration says' },
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot serve', 'with the defaults'],
    ['entrepot serve --config /etc/entrepot.yaml', 'with this configuration'],
    ['ENTREPOT_SERVER__LISTEN=0.0.0.0:5000 entrepot serve', 'reachable from other machines'],
  ],
  run: async input => {
    // Before anything else: until then `entrepot.ts` ignores the signal.
    const hangUps = new HangUps();
    const config = await load(input);
    await requireOwn(config.storage.path);
    // With one process nobody else writes there.
    const isShared = config.server.processes !== 1;
    const logger = createLogger({ ...config.log, isShared });
    const { log, flush } = logger;
    if (config.origin.isDefaultPath) log.info({ path: config.storage.path }, 'the default store');
    const metrics = createMetrics();
    process.on('uncaughtExceptionMonitor', error => {
      log.error({ err: error }, 'terminated by an internal error');
      flush();
    });
    const audit = await openAudit(config, isShared);
    const flushAll = () => {
      flush();
      audit?.flush();
    };
    const starting = import('../compose/server.ts').then(({ startServer }) =>
      startServer(config, { log, meter: metrics.meter, metrics, audit }),
    );
    const stopped = untilStopped(starting, { config, log, flush: flushAll });
    const serving = starting.then(server => {
      announce(server, config, logger);
      warnOfOptions(config, log);
      hangUps.begin(() => reload({ input, config, server, logger }));
      return stopped;
    });
    // A second signal does not wait for the start.
    return Promise.race([serving, stopped]);
  },
};

interface Stoppable {
  readonly config: Config;
  readonly log: Log;
  readonly flush: () => void;
}

/**
 * The exit code, once a signal has ended the server. Signals count from now on: a start may take long, and the first process
 * of a container ignores those that it does not handle.
 */
function untilStopped(
  starting: Promise<RunningServer>,
  { config, log, flush }: Stoppable,
): Promise<ExitCode> {
  const { shutdownTimeoutMs } = config.server;
  // If the start fails, that is the error of the command.
  const close = async () => (await starting.catch(() => undefined))?.close(shutdownTimeoutMs);
  const limits = {
    transfersTimeoutMs: shutdownTimeoutMs,
    timeoutMs: shutdownTimeoutMs + STORE_CLOSE_MS,
  };
  return new Promise(resolve => {
    const source = { on: process.on.bind(process), exit: resolve };
    new Shutdown([{ name: 'server', close }], { log, ...limits, flush, process: source }).listen();
  });
}

/** Says what is served where: to a person, or in the log. */
function announce(server: RunningServer, config: Config, { log, isPretty, print }: Logger): void {
  const version = readVersion();
  if (isPretty) {
    print(bannerText(config, server, version));
    return;
  }
  const { addresses, opsAddress, servingProcesses } = server;
  const more = {
    ...(servingProcesses > 1 && { servingProcesses }),
    ...(config.offline && { offline: true }),
  };
  log.info({ version, addresses, opsAddress, ...more }, 'serving');
}

function warnOfOptions(config: Config, log: Log): void {
  for (const problem of optionsWithoutEffect(config)) {
    log.warn({ option: problemText(problem) }, 'an option has no effect');
  }
}

function load(input: Input): Promise<Config> {
  const overrides = input.options['offline'] === true ? { offline: true } : {};
  return loadConfig({ file: textOption(input, 'config'), overrides });
}

/** Throws ConfigError if its file cannot be opened. */
async function openAudit(config: Config, isShared: boolean): Promise<Audit | undefined> {
  try {
    return createAudit({ ...config.audit, isShared });
  } catch (error) {
    const { auditProblem } = await import('../compose/check-files.ts');
    throw new ConfigError([auditProblem(config, error)]);
  }
}

interface Serving {
  readonly input: Input;
  /** The current configuration. */
  readonly config: Config;
  readonly server: RunningServer;
  readonly logger: Logger;
}

/**
 * Reopens files, and applies the configuration as far as that needs no restart. Never rejects: the result is logged.
 */
async function reload({ input, config, server, logger }: Serving): Promise<void> {
  const { log } = logger;
  try {
    await server.reopenAudit();
  } catch (error) {
    log.error({ err: error }, 'the audit log could not be reopened: writing to the old file');
  }
  try {
    const next = await load(input);
    warnOfOptions(next, log);
    // Also if only a part was applied.
    const reloading = server.reload(next).finally(() => logger.setLevel(config.log.level));
    const { changed, needsRestart } = await reloading;
    if (needsRestart.length > 0) log.warn({ needsRestart }, 'these changes need a restart');
    log.info({ changed }, 'configuration reloaded');
  } catch (error) {
    if (error instanceof PartlyReloaded) {
      log.error({ err: error.cause }, 'configuration partly reloaded: the next SIGHUP applies the rest');
      return;
    }
    const why = error instanceof ConfigError ? { problems: error.problems.map(problemText) } : { err: error };
    log.error(why, 'configuration not reloaded: the previous one stays in force');
  }
}
