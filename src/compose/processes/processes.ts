/**
 * compose/processes/: several processes that serve clients, for `server.processes`.
 *
 * The main idea: each serves as a server of its own would, on the same store, and learns of the others' work from the
 * index. The process that starts them binds the ports and passes each connection to one of them (`http/acceptor.ts`). It
 * serves no client. What has to be limited for all together is asked of it (the pull queue, quotas), told to all (failed
 * logins, failures of upstreams) or divided (memory); it alone does upkeep, pulls ahead, and answers on the operations
 * port. If a process dies, its connections break and another one replaces it; if this one dies, they all end.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type BackoffSchedule, backoffMs } from '../../lib/backoff.ts';
import type { Log } from '../../lib/log.ts';
import { within, LATE } from '../../lib/within.ts';
import { lastingSum, type MetricsSnapshot } from '../../ops/metrics.ts';
import type { Notice } from './news-board.ts';
import type { ReportScope, ServingReport } from '../../admin/serving-report.ts';
import type { SentConfig, ServingOrders } from './protocol.ts';
import type { TlsMaterial } from '../../ops/tls-files.ts';
import { ServingFailed } from './serving-failed.ts';
import { type End, ServingChild, type ServingNeeds } from './serving-child.ts';

export interface ProcessesOptions extends Omit<ServingNeeds, 'onNews'> {
  readonly count: number;
  /** What a process is told when it starts; called each time. */
  readonly orders: () => Omit<ServingOrders, 'number' | 'processes'>;
  /** Called with what a process tells the others, for this one. */
  readonly onNews: (notice: Notice) => void;
  readonly log: Log;
  /** How often processes are asked whether they live. Default: 5 s. */
  readonly askEveryMs?: number;
}

/** For a process that dies soon after its start, from the second time on. */
const REPLACE: BackoffSchedule = { firstMs: 1_000, maxMs: 30_000 };
/** One that has lived this long did not die of its start. */
const SOON_MS = 60_000;

const ASK_EVERY_MS = 5_000;
/**
 * Questions without an answer after which a process counts as hung: after half a minute, as for the kubelet's default
 * probe. Counted, since this process may have been suspended, too.
 */
const HUNG_AFTER = 6;

/** Prometheus and people wait 10 s. */
const ANSWER_WITHIN_MS = 2_000;
/** Kubelets wait one second for both, of which the server's own checks take a part. */
const READY_WITHIN_MS = 500;
const PROBLEMS_WITHIN_MS = 200;

const NO_ANSWER = 'no serving process answers';

/** After its deadline, a process has this long to close its store. */
const CLOSE_STORE_MS = 4_000;

/** The serving processes of a server, until they are closed. */
export class Processes {
  readonly #options: ProcessesOptions;
  /** By number; a new one takes the place of the one that it replaces. */
  readonly #children = new Map<number, ServingChild>();
  readonly #closing = new AbortController();
  #keeping: Promise<unknown> = Promise.resolve();
  #asking: NodeJS.Timeout | undefined;
  /** What each process has last reported. */
  readonly #metrics = new Map<ServingChild, MetricsSnapshot>();
  /** What those have counted that have ended. */
  #lasting: Promise<MetricsSnapshot> = Promise.resolve([]);

  private constructor(options: ProcessesOptions) {
    this.#options = options;
  }

  /** Starts all; resolves when all serve. If one cannot be started, ends the others and rejects with ServingFailed. */
  static async start(options: ProcessesOptions): Promise<Processes> {
    const processes = new Processes(options);
    const numbers = Array.from({ length: options.count }, (_, index) => index + 1);
    const children = numbers.map(number => processes.#begin(number));
    try {
      await Promise.all(children.map(requireServing));
    } catch (error) {
      processes.#killAll();
      await Promise.all(children.map(({ ended }) => ended));
      throw error;
    }
    processes.#keeping = Promise.all(children.map(child => processes.#keep(child)));
    processes.#asking = setInterval(() => processes.#askAll(), options.askEveryMs ?? ASK_EVERY_MS).unref();
    return processes;
  }

  /** Passes on what this process has to tell. */
  tell(notice: Notice, except?: ServingChild): void {
    for (const child of this.#children.values()) if (child !== except) child.channel.tell('news', notice);
  }

  renewTls(material: TlsMaterial): void {
    for (const child of this.#children.values()) child.channel.tell('renewTls', material);
  }

  /**
   * Makes all apply the configuration, which was checked. Resolves when all have. One that fails is replaced by one that
   * begins with it.
   */
  async reload(config: SentConfig, deadlineMs: number): Promise<void> {
    await this.#each(async child => {
      try {
        await child.channel.ask('reload', config);
      } catch (error) {
        if (!child.isServing) return;
        this.#options.log.error(
          { err: error, ...nameOf(child) },
          'a serving process could not apply the configuration and is replaced',
        );
        child.close(deadlineMs);
      }
    });
  }

  /** Resolves when all have reopened the audit log. Rejects with the reason of the first that could not. */
  async reopenAudit(): Promise<void> {
    await this.#each(child => child.channel.ask('reopenAudit', undefined));
  }

  /** Why no client can be served; `undefined` if some process can, whatever the others say. */
  async notReady(): Promise<string | undefined> {
    const serving = this.#serving;
    if (serving.length === 0) return 'no serving process runs';
    return new Promise(resolve => {
      const ask = async (child: ServingChild): Promise<string | undefined> => {
        const reason = await answer(child.channel.ask('notReady', undefined), NO_ANSWER, READY_WITHIN_MS);
        if (reason === undefined) resolve(undefined);
        return reason;
      };
      void Promise.all(serving.map(ask)).then(([first]) => resolve(first));
    });
  }

  /** For `/readyz` and `status`: what is known of them, and what each reports that answers soon. */
  async problems(): Promise<readonly string[]> {
    const isClosing = this.#closing.signal.aborted;
    const missing = isClosing ? 0 : this.#options.count - this.#serving.length;
    const hung = this.#serving.filter(({ unanswered }) => unanswered > 1).length;
    const reported = await this.#answers(
      child => child.channel.ask('problems', undefined),
      PROBLEMS_WITHIN_MS,
    );
    return [
      ...reported.flat(),
      ...(missing === 0
        ? []
        : [`serving processes that are being replaced: ${missing} of ${this.#options.count}`]),
      ...(hung === 0 ? [] : [`serving processes that do not answer: ${hung} of ${this.#options.count}`]),
    ];
  }

  /** What each reports that answers in time. */
  async reports(scope: ReportScope): Promise<readonly ServingReport[]> {
    return this.#answers(child => child.channel.ask('report', scope));
  }

  /** The process ids of those that serve. */
  get pids(): readonly number[] {
    return this.#serving.flatMap(({ pid }) => pid ?? []);
  }

  /** The metrics of all, and what ended ones have counted. Of one that does not answer, those of its last answer. */
  async metrics(): Promise<readonly MetricsSnapshot[]> {
    await this.#answers(async child => {
      const snapshot = await child.channel.ask('metrics', undefined);
      if (child.isServing) this.#metrics.set(child, snapshot);
    });
    // Both as of now: a process that ends meanwhile is in neither twice, nor in none.
    const [lasting, serving] = [this.#lasting, [...this.#metrics.values()]];
    return [await lasting, ...serving];
  }

  /** Lets all finish within the deadline, and ends what is left then. */
  async close(deadlineMs: number): Promise<void> {
    this.#closing.abort();
    clearInterval(this.#asking);
    this.#options.acceptor.close();
    for (const child of this.#children.values()) child.close(deadlineMs);
    const late = setTimeout(() => this.#killAll(), deadlineMs + CLOSE_STORE_MS);
    await this.#keeping;
    clearTimeout(late);
  }

  get #serving(): readonly ServingChild[] {
    return [...this.#children.values()].filter(({ isServing }) => isServing);
  }

  #begin(number: number): ServingChild {
    const { orders, count, log } = this.#options;
    const child = new ServingChild(number, () => ({ ...orders(), number, processes: count }), {
      ...this.#options,
      onNews: (notice, from) => {
        this.#options.onNews(notice);
        this.tell(notice, from);
      },
    });
    this.#children.set(number, child);
    log.debug(nameOf(child), 'a serving process begins');
    return child;
  }

  /** Replaces the process whenever it ends, until all are closed. */
  async #keep(first: ServingChild): Promise<void> {
    let child = first;
    for (let failures = 0; ; ) {
      const end = await child.ended;
      this.#remember(child);
      if (this.#closing.signal.aborted) return;
      failures = performance.now() - child.startedAtMs < SOON_MS ? failures + 1 : 1;
      const delayMs = backoffMs(REPLACE, failures - 1);
      this.#report(child, end, delayMs);
      try {
        await sleep(delayMs, undefined, { signal: this.#closing.signal });
      } catch {
        return;
      }
      child = this.#begin(child.number);
    }
  }

  #report(child: ServingChild, { code, signal, reason }: End, delayMs: number): void {
    const fields = { ...nameOf(child), code, signal, reason, delayMs };
    const { log } = this.#options;
    if (code === 0) log.info(fields, 'a serving process has ended and is replaced');
    else log.error(fields, 'a serving process has died and is replaced: its connections are lost');
  }

  /** Keeps what the process had counted when it was last asked. */
  #remember(child: ServingChild): void {
    const last = this.#metrics.get(child);
    this.#metrics.delete(child);
    if (last !== undefined) this.#lasting = this.#lasting.then(lasting => lastingSum([lasting, last]));
  }

  /** Also those that still start, which can hang, too. Of one that has ended, the question fails. */
  #askAll(): void {
    for (const child of this.#children.values()) {
      if (child.unanswered >= HUNG_AFTER) {
        this.#options.log.error(nameOf(child), 'a serving process does not answer and is killed');
        child.kill();
        continue;
      }
      child.unanswered += 1;
      const answered = () => void (child.unanswered = 0);
      child.channel.ask('lives', undefined).then(answered, answered);
    }
  }

  #killAll(): void {
    for (const child of this.#children.values()) child.kill();
  }

  async #each(work: (child: ServingChild) => Promise<void>): Promise<void> {
    await Promise.all([...this.#children.values()].map(work));
  }

  async #answers<T>(
    ask: (child: ServingChild) => Promise<T>,
    withinMs = ANSWER_WITHIN_MS,
  ): Promise<readonly T[]> {
    const all = await Promise.all(this.#serving.map(child => answer(ask(child), undefined, withinMs)));
    return all.filter(given => given !== undefined);
  }
}

async function requireServing(child: ServingChild): Promise<void> {
  if (await child.serves) return;
  const { reason, code, signal } = await child.ended;
  throw new ServingFailed(
    `a serving process cannot be started: ${reason ?? `it ended with ${signal ?? code}`}`,
  );
}

/** `instead` if the process fails, or does not answer in time. */
async function answer<T, Instead>(
  asked: Promise<T>,
  instead: Instead,
  withinMs: number,
): Promise<T | Instead> {
  const given = await within(
    asked.catch(() => instead),
    withinMs,
  );
  return given === LATE ? instead : given;
}

function nameOf({ number, pid }: ServingChild): {
  readonly worker: number;
  readonly pid: number | undefined;
} {
  return { worker: number, pid };
}
