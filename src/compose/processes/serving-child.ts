import type { ChildProcess } from 'node:child_process';
import type { Socket } from 'node:net';
import { PlacesOfProcess } from '../../mirror/fill/shared-queue.ts';
import type { PullTurns } from '../../mirror/fill/pull-queue.ts';
import { ReservationsOfProcess } from '../../hosted/shared-quota.ts';
import type { FlightBoard } from '../../mirror/shared-flights.ts';
import type { Quota } from '../../hosted/quota.ts';
import type { Accepted, Acceptor, Taker } from '../../http/acceptor.ts';
import type { Refusal } from '../../http/refusal.ts';
import { Channel } from '../../lib/channel.ts';
import { startChildProcess } from '../../lib/child-process.ts';
import type { Notice } from './news-board.ts';
import type { ParentAnswers, ServingAnswers, ServingOrders } from './protocol.ts';

/** What serving processes need of the one that starts them. */
export interface ServingNeeds {
  readonly acceptor: Acceptor;
  readonly queue: PullTurns;
  readonly flights: FlightBoard;
  readonly quota: Quota;
  readonly makeRoom: (bytes: number) => Promise<void>;
  /** Called with what clients of the process were refused. */
  readonly onRefusal: (refusal: Refusal) => void;
  /** Called with what a process tells the others. */
  readonly onNews: (notice: Notice, from: ServingChild) => void;
}

/** How a process has ended. */
export interface End {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Why it could not start, if that is how it has ended. */
  readonly reason: string | undefined;
}

/** A serving process, as the one sees it that has started it. */
export class ServingChild implements Taker {
  readonly number: number;
  /** Resolves when it serves, to true, or when it has ended before that. */
  readonly serves: Promise<boolean>;
  /** Resolves when it has ended and everything that it held is given back. */
  readonly ended: Promise<End>;
  readonly startedAtMs = performance.now();
  readonly channel: Channel<ServingAnswers>;
  /** How many questions whether it lives it has not answered yet. */
  unanswered = 0;
  readonly #child: ChildProcess;
  readonly #needs: ServingNeeds;
  readonly #places: PlacesOfProcess;
  readonly #reservations: ReservationsOfProcess;
  #isServing = false;
  #reason: string | undefined;

  /** `orders` is called when the process asks, so that it begins with the configuration that is in force by then. */
  constructor(number: number, orders: () => ServingOrders, needs: ServingNeeds) {
    this.number = number;
    this.#needs = needs;
    this.#child = startChildProcess(import.meta.url, 'serving-process');
    this.#places = new PlacesOfProcess(needs.queue, {
      begin: place => this.channel.tell('begin', place),
      recall: place => this.channel.tell('recall', place),
    });
    this.#reservations = new ReservationsOfProcess(needs.quota);
    let served: (() => void) | undefined;
    const serving = new Promise<boolean>(resolve => {
      served = () => resolve(true);
    });
    const answers: ParentAnswers = {
      orders,
      serving: () => {
        this.#isServing = true;
        needs.acceptor.add(this);
        served?.();
      },
      failed: reason => void (this.#reason = reason),
      took: id => needs.acceptor.took(id),
      refused: id => needs.acceptor.refused(id),
      left: ids => needs.acceptor.left(ids),
      news: notice => needs.onNews(notice, this),
      refusals: refusals => refusals.forEach(needs.onRefusal),
      makeRoom: bytes => needs.makeRoom(bytes),
      enter: request => this.#places.enter(request),
      join: request => this.#places.join(request),
      leave: place => this.#places.leave(place),
      ...needs.flights.of(this),
      reserve: request => this.#reservations.reserve(request),
      check: request => this.#reservations.check(request),
      hold: request => this.#reservations.hold(request),
      release: key => this.#reservations.release(key),
    };
    this.channel = new Channel(this.#child, { ...answers });
    this.ended = this.#end();
    this.serves = Promise.race([serving, this.ended.then(() => false)]);
  }

  /** `undefined` if it could not be started. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  get isServing(): boolean {
    return this.#isServing;
  }

  take(accepted: Accepted, socket: Socket): void {
    this.channel.tell('take', accepted, socket);
    // Node drops a message whose descriptor the other process could not receive, and tells neither.
    this.channel.tell('passed', accepted.id);
  }

  /** Lets it finish within the deadline; it gets no more connections. */
  close(deadlineMs: number): void {
    this.#needs.acceptor.remove(this);
    this.channel.tell('close', deadlineMs);
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  async #end(): Promise<End> {
    const end = await new Promise<Omit<End, 'reason'>>(resolve => {
      this.#child.once('exit', (code, signal) => resolve({ code, signal }));
      this.#child.on('error', error => {
        // It could not be started; after other errors it goes on, or its end follows.
        this.#reason ??= error.message;
        if (this.#child.pid === undefined) resolve({ code: null, signal: null });
      });
    });
    this.#isServing = false;
    this.#needs.acceptor.forget(this);
    this.#places.leaveAll();
    this.#needs.flights.forget(this);
    this.#reservations.releaseAll();
    return { ...end, reason: this.#reason };
  }
}
