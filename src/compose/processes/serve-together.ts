import type { Config } from '../../config/config.ts';
import { Acceptor } from '../../http/acceptor.ts';
import { HTTP_LIMITS } from '../../http/limits.ts';
import type { Refusal } from '../../http/refusal.ts';
import type { Log } from '../../lib/log.ts';
import { PullQueue } from '../../mirror/fill/pull-queue.ts';
import { SharedQueue } from '../../mirror/fill/shared-queue.ts';
import { FlightBoard, flightsOn } from '../../mirror/shared-flights.ts';
import type { TlsMaterial } from '../../ops/tls-files.ts';
import type { Common, Parts } from '../parts.ts';
import { listenersOf } from '../registry-server.ts';
import type { Serving } from '../serving.ts';
import { NewsBoard } from './news-board.ts';
import { Processes } from './processes.ts';
import { sentConfig } from './protocol.ts';

export interface TogetherNeeds {
  readonly parts: Parts;
  /** The certificate that is in use now. */
  readonly tls: () => TlsMaterial | undefined;
  /** When this server started, epoch ms. */
  readonly startedAtMs: number;
  /** Called with what clients are refused. */
  readonly onRefusal: (refusal: Refusal) => void;
  readonly log: Log;
}

/** This process with those that serve for it: what its parts have in common with theirs, and how to start them. */
export class Together {
  readonly common: Common;
  readonly #config: Config;
  readonly #board: NewsBoard;
  readonly #flights = new FlightBoard();
  #processes: Processes | undefined;

  /** `count`: how many serve. */
  constructor(config: Config, count: number) {
    this.#config = config;
    this.#board = new NewsBoard(notice => this.#processes?.tell(notice));
    const queue = new SharedQueue(new PullQueue(config.pulls));
    const flights = flightsOn(this.#flights.of(this));
    this.common = { processes: count, news: this.#board, queue, flights };
  }

  /** Binds the ports and starts the processes. If either fails, nothing is left of both, and it rejects. */
  async serve({ parts, tls, startedAtMs, onRefusal, log }: TogetherNeeds): Promise<Serving> {
    const config = this.#config;
    const acceptor = await Acceptor.open({
      listeners: listenersOf(config, tls()),
      maxConnections: HTTP_LIMITS.maxConnections,
    });
    try {
      const processes = await Processes.start({
        count: this.common.processes,
        acceptor,
        queue: this.common.queue,
        flights: this.#flights,
        quota: parts.quota,
        makeRoom: bytes => parts.spool.space.makeRoom(bytes),
        orders: () => ({ startedAtMs, config: sentConfig(config), tls: tls() }),
        onRefusal,
        onNews: notice => this.#board.post(notice),
        log,
      });
      this.#processes = processes;
      return {
        addresses: acceptor.addresses,
        renewTls: material => processes.renewTls(material),
        reload: () => processes.reload(sentConfig(config), config.server.shutdownTimeoutMs),
        reopenAudit: () => processes.reopenAudit(),
        notReady: () => processes.notReady(),
        get servingPids() {
          return processes.pids;
        },
        problems: () => processes.problems(),
        reports: scope => processes.reports(scope),
        metrics: () => processes.metrics(),
        close: deadlineMs => processes.close(deadlineMs),
      };
    } catch (error) {
      acceptor.close();
      throw error;
    }
  }
}
