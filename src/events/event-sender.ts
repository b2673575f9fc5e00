import { type BackoffSchedule, backoffMs, jittered } from '../lib/backoff.ts';
import type { Clock } from '../lib/clock.ts';
import { type Lease, LeaseLost, type Leases } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { Outbox } from '../metadata/outbox.ts';
import { DeliveryFailed, type EndpointClient } from './endpoint-client.ts';
import { parseStoredEvent } from './stored-event.ts';

/** How often the outbox is looked at while it is empty: all processes put messages there. */
const LOOK_EVERY_MS = 1_000;
/** How often a process asks for the Lease that another one holds. */
const ASK_EVERY_MS = 5_000;

/** After a failure. A receiver that restarts misses a few seconds; one that is away is asked every five minutes. */
const RETRY: BackoffSchedule = { firstMs: 1_000, maxMs: 300_000 };

/** Messages that are older are dropped, by whichever process sends: a receiver will hardly come back after that. */
const KEEP_MS = 7 * 24 * 3_600_000;
const DROP_EVERY_MS = 60_000;

export interface EventSenderOptions {
  readonly name: string;
  readonly client: Pick<EndpointClient, 'send' | 'close' | 'eventsPerRequest'>;
  readonly outbox: Outbox;
  readonly leases: Pick<Leases, 'acquireLease' | 'release'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly meter: Meter;
}

/**
 * Sends the messages of one endpoint in order, as long as no other process on the store does; the next ones when those
 * before were accepted.
 */
export class EventSender {
  readonly #options: EventSenderOptions;
  readonly #closing = new AbortController();
  #running: Promise<void> = Promise.resolve();
  #failures = 0;
  #problem: string | undefined;
  #droppedAtMs: number | undefined;

  private constructor(options: EventSenderOptions) {
    this.#options = options;
  }

  static begin(options: EventSenderOptions): EventSender {
    const sender = new EventSender(options);
    sender.#running = sender.#run();
    return sender;
  }

  /** Why nothing arrives at the moment, for people; `undefined` if that is not known. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Lets the endpoint answer what it was sent, within its timeout. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#running;
    await this.#options.client.close();
  }

  get #isClosing(): boolean {
    return this.#closing.signal.aborted;
  }

  async #run(): Promise<void> {
    const { name, leases, log } = this.#options;
    while (!this.#isClosing) {
      let lease: Lease | undefined;
      try {
        lease = await leases.acquireLease(`notifications-${name}`);
        if (lease !== undefined) await this.#sendUnder(lease);
      } catch (error) {
        if (!(error instanceof LeaseLost)) log.warn({ err: error, endpoint: name }, 'events cannot be sent');
      }
      // The index may be broken or busy, and another process may have the Lease by now.
      if (lease !== undefined) await leases.release(lease).catch(() => {});
      await this.#pause(ASK_EVERY_MS);
    }
  }

  async #sendUnder(lease: Lease): Promise<void> {
    const { name, outbox, client } = this.#options;
    while (!this.#isClosing) {
      await this.#dropOld();
      await lease.confirm();
      const messages = await outbox.listNext(name, client.eventsPerRequest);
      const last = messages.at(-1);
      if (last === undefined) {
        await this.#pause(LOOK_EVERY_MS);
      } else if (await this.#send(messages.map(({ body }) => body))) {
        await outbox.remove(name, last.position, lease);
      } else {
        await this.#pause(jittered(backoffMs(RETRY, this.#failures)));
      }
    }
  }

  /** Whether the endpoint has accepted them. */
  async #send(bodies: readonly string[]): Promise<boolean> {
    const { name, client, log, meter } = this.#options;
    const labels = { endpoint: name };
    try {
      await client.send(bodies.map(parseStoredEvent));
    } catch (error) {
      if (!(error instanceof DeliveryFailed)) throw error;
      this.#failures += 1;
      meter.count('notification_failures_total', labels);
      // The first one of a row, and whenever the reason changes.
      const fields = { endpoint: name, reason: error.message };
      if (this.#problem === error.message) log.debug(fields, 'an endpoint of notifications fails again');
      else log.warn(fields, 'an endpoint of notifications fails: its events wait');
      this.#problem = error.message;
      return false;
    }
    meter.count('notifications_sent_total', labels, bodies.length);
    if (this.#failures > 0) log.info({ endpoint: name }, 'an endpoint of notifications accepts events again');
    this.#failures = 0;
    this.#problem = undefined;
    return true;
  }

  async #dropOld(): Promise<void> {
    const { name, outbox, clock, log } = this.#options;
    const atMs = clock.monotonicMs();
    if (this.#droppedAtMs !== undefined && atMs - this.#droppedAtMs < DROP_EVERY_MS) return;
    this.#droppedAtMs = atMs;
    let count = 0;
    for (let some = -1; some !== 0 && !this.#isClosing; count += some)
      some = await outbox.dropBefore(clock.nowMs() - KEEP_MS);
    if (count > 0) log.error({ endpoint: name, count }, 'events were dropped that have waited for a week');
  }

  async #pause(ms: number): Promise<void> {
    const { clock } = this.#options;
    await clock.sleep(ms, { signal: this.#closing.signal, ref: false }).catch(() => {});
  }
}
