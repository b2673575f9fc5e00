/** A process that serves clients for the one that has started it; see `processes.ts`. */
import { servingReport } from '../../admin/serving-report.ts';
import { PartlyReloaded, planReload } from '../../config/reload.ts';
import type { QuotaCalls } from '../../hosted/shared-quota.ts';
import type { RegistryServer } from '../../http/server.ts';
import { Channel, type ChannelEnd } from '../../lib/channel.ts';
import { loadHttpClient } from '../../lib/http-client.ts';
import { Opened } from '../../lib/opened.ts';
import { type QueueCalls, RemoteQueue } from '../../mirror/fill/shared-queue.ts';
import { flightsOn } from '../../mirror/shared-flights.ts';
import { createAudit } from '../../ops/audit.ts';
import { createLogger } from '../../ops/logger.ts';
import { createMetrics } from '../../ops/metrics.ts';
import { TransferTotals } from '../../ops/transfer-totals.ts';
import { UpstreamGauges } from '../mirror.ts';
import { openParts, type Parts } from '../parts.ts';
import { hostAliasesOf, openRegistryServer } from '../registry-server.ts';
import { transferKeeper } from '../transfers.ts';
import { NewsBoard } from './news-board.ts';
import { RefusalBatch } from './refusal-batch.ts';
import { type ParentAnswers, receivedConfig, type ServingAnswers, type ServingOrders } from './protocol.ts';

/** What serves in this process. */
interface Running {
  readonly parts: Parts;
  readonly server: RegistryServer;
  readonly answers: Pick<
    ServingAnswers,
    'reload' | 'reopenAudit' | 'notReady' | 'problems' | 'report' | 'metrics'
  >;
  readonly close: (deadlineMs: number) => Promise<void>;
}

class ServingProcess {
  readonly #channel: Channel<ParentAnswers>;
  readonly #board = new NewsBoard(notice => this.#channel.tell('news', notice));
  readonly #queue: RemoteQueue;
  readonly #left: number[] = [];
  /** The connection that was passed on last. */
  #lastTaken = 0;
  readonly #running: Promise<Running>;
  #flush = () => {};

  private constructor(end: ChannelEnd) {
    const answers: ServingAnswers = {
      take: ({ id, listener }, socket) => {
        this.#lastTaken = id;
        if (socket === undefined) {
          this.#leave(id);
          return;
        }
        this.#channel.tell('took', id);
        socket.once('close', () => this.#leave(id));
        this.#whenRunning(({ server }) => server.take(listener, socket));
      },
      passed: id => {
        if (this.#lastTaken !== id) this.#channel.tell('refused', id);
      },
      begin: place => this.#queue.begin(place),
      recall: place => this.#queue.recall(place),
      news: notice => this.#board.post(notice),
      renewTls: material => this.#whenRunning(({ server }) => server.renewTls(material)),
      lives: () => {},
      reload: async config => (await this.#running).answers.reload(config),
      reopenAudit: async () => (await this.#running).answers.reopenAudit(),
      notReady: async () => (await this.#running).answers.notReady(),
      problems: async () => (await this.#running).answers.problems(),
      report: async scope => (await this.#running).answers.report(scope),
      metrics: async () => (await this.#running).answers.metrics(),
      close: deadlineMs => void this.#close(deadlineMs),
    };
    this.#channel = new Channel<ParentAnswers>(end, { ...answers });
    const calls: QueueCalls = {
      enter: request => this.#channel.tell('enter', request),
      join: request => this.#channel.tell('join', request),
      leave: place => this.#channel.tell('leave', place),
    };
    this.#queue = new RemoteQueue(calls);
    this.#running = this.#start();
    void this.#report();
  }

  static begin(end: ChannelEnd): ServingProcess {
    return new ServingProcess(end);
  }

  /** Does nothing if it cannot be started, which is reported elsewhere. */
  #whenRunning(act: (running: Running) => void): void {
    this.#running.then(act, () => {});
  }

  async #start(): Promise<Running> {
    const orders = await this.#channel.ask('orders', undefined);
    const opened = new Opened();
    try {
      return await this.#open(opened, orders);
    } catch (error) {
      await opened.close(0);
      throw error;
    }
  }

  async #open(opened: Opened, orders: ServingOrders): Promise<Running> {
    const { number, processes, startedAtMs, tls } = orders;
    const config = receivedConfig(orders.config);
    const logger = createLogger({ ...config.log, isShared: true });
    const log = logger.log.child({ worker: number });
    const metrics = createMetrics();
    const audit = createAudit({ ...config.audit, isShared: true });
    this.#flush = () => {
      logger.flush();
      audit?.flush();
    };
    process.on('uncaughtExceptionMonitor', error => {
      log.error({ err: error }, 'terminated by an internal error');
      this.#flush();
    });
    await loadHttpClient();
    const totals = new TransferTotals(metrics.meter, upstream => config.upstreams.has(upstream));
    const observers = { log, meter: totals };
    const quotaCalls: QuotaCalls = {
      reserve: request => this.#channel.ask('reserve', request),
      check: request => this.#channel.ask('check', request),
      hold: request => this.#channel.ask('hold', request),
      release: key => this.#channel.tell('release', key),
    };
    const parts = opened.add(
      await openParts(config, observers, {
        followsCluster: true,
        startsMeanwhile: true,
        // The process that has started this one reports them.
        reportsSecretsOf: () => false,
        reportsDoubts: false,
        common: {
          processes,
          news: this.#board,
          queue: this.#queue,
          flights: flightsOn({
            fly: asked => this.#channel.ask('fly', asked),
            land: landed => this.#channel.tell('land', landed),
          }),
          quotaCalls,
          makeRoom: bytes => this.#channel.ask('makeRoom', bytes),
        },
      }),
    );
    totals.keep(transferKeeper(parts.metadata, startedAtMs), log);
    opened.add(totals);
    const upstreams = new UpstreamGauges(parts, totals);
    const refusals = new RefusalBatch(batch => this.#channel.tell('refusals', batch));
    const onRefusal = refusals.add.bind(refusals);
    const server = opened.add(
      await openRegistryServer(config, parts, { ...observers, audit, tls, processes, onRefusal }),
    );
    return {
      parts,
      server,
      answers: {
        reload: async next => {
          const plan = planReload(config, receivedConfig(next));
          const apply = await parts.prepareReload(plan.config);
          try {
            await apply();
          } catch (cause) {
            throw new PartlyReloaded('the configuration was applied in part', { cause });
          }
          server.setHostAliases(hostAliasesOf(config));
          logger.setLevel(config.log.level);
        },
        reopenAudit: async () => audit?.reopen(),
        notReady: async () => {
          const { waitingFor } = parts.tenants;
          return parts.metadata.loss()?.message ?? (waitingFor && `waiting for ${waitingFor}`);
        },
        problems: async () => [parts.blobs.bucket?.problem ?? [], parts.mirror.problems].flat(),
        report: scope => servingReport(parts, totals, scope),
        metrics: () => {
          upstreams.report();
          return metrics.snapshot();
        },
      },
      close: deadlineMs => {
        parts.uploads.stopWaiting();
        return opened.close(deadlineMs);
      },
    };
  }

  /** Told together for all that close at the same time. */
  #leave(id: number): void {
    this.#left.push(id);
    if (this.#left.length === 1) setImmediate(() => this.#channel.tell('left', this.#left.splice(0)));
  }

  async #close(deadlineMs: number): Promise<void> {
    let code = 0;
    try {
      await (await this.#running).close(deadlineMs);
    } catch {
      code = 1;
    }
    this.#flush();
    process.exit(code);
  }

  /** Tells that it serves; or why it cannot, and ends. */
  async #report(): Promise<void> {
    try {
      await this.#running;
      this.#channel.tell('serving', undefined);
    } catch (error) {
      this.#flush();
      const reason = error instanceof Error ? error.message : String(error);
      await this.#channel.ask('failed', reason).catch(() => {});
      process.exit(1);
    }
  }
}

// They are sent to a whole group of processes, too: the one that has started this one acts on them.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => {});
// Nobody passes on connections any more, and somebody may be starting the server again.
process.on('disconnect', () => process.exit(1));

ServingProcess.begin(process);
