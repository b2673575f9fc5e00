import { type BackoffSchedule, backoffMs, jittered } from '../lib/backoff.ts';
import type { Clock } from '../lib/clock.ts';
import { type Lease, LeaseLost, type Leases } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import { KEPT_WAITING_MS, type Outbox, senderLease } from '../metadata/outbox.ts';
import { DeliveryFailed, type EndpointClient } from './endpoint-client.ts';
import { parseStoredEvent, type StoredEvent, subjectOf } from './stored-event.ts';

/** How often the outbox is looked at while it is empty: all processes put messages there. */
const LOOK_EVERY_MS = 1_000;
/** How often a process asks for the Lease that another one holds. */
const ASK_EVERY_MS = 5_000;

/** After a failure. A receiver that restarts misses a few seconds; one that is away is asked every five minutes. */
const RETRY: BackoffSchedule = { firstMs: 1_000, maxMs: 300_000 };

/** How often the process that sends looks for messages that have waited for too long. */
const DROP_EVERY_MS = 60_000;

export interface EventSenderOptions {
  readonly name: string;
  readonly client: Pick<EndpointClient, 'send' | 'close' | 'eventsPerRequest'>;
  readonly outbox: Outbox;
  readonly leases: Pick<Leases, 'acquireLease' | 'release'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly meter: Meter;
  /** Called when `problem` or `isSending` has changed. */
  readonly onChange?: () => void;
}

/** Why nothing arrives at an endpoint at the moment. */
export interface SendingProblem {
  /** For people. */
  readonly reason: string;
  /** The id of the event that the endpoint refuses for what it is; `undefined` if it is not known to refuse one. */
  readonly refused: string | undefined;
}

/**
 * Sends the messages of one endpoint in order, as long as no other process on the store does; the next ones when those
 * before were accepted. If some together are refused for what they are, fewer are sent at once, until the one stands alone
 * that holds up all others: it is for people to decide whether it may be skipped.
 */
export class EventSender {
  readonly #options: EventSenderOptions;
  #isClosing = false;
  /** Ends the current pause. */
  #waking = new AbortController();
  #running: Promise<void> = Promise.resolve();
  /** How many messages the next request has at most. */
  #atOnce: number;
  #failures = 0;
  #problem: SendingProblem | undefined;
  #isSending = false;
  #droppedAtMs: number | undefined;

  private constructor(options: EventSenderOptions) {
    this.#options = options;
    this.#atOnce = options.client.eventsPerRequest;
  }

  static begin(options: EventSenderOptions): EventSender {
    const sender = new EventSender(options);
    sender.#running = sender.#run();
    return sender;
  }

  /** Whether it is this process that sends. */
  get isSending(): boolean {
    return this.#isSending;
  }

  /** `undefined` if none is known. */
  get problem(): SendingProblem | undefined {
    return this.#problem;
  }

  /** Asks the endpoint now, however long its back-off would last. */
  hurry(): void {
    this.#failures = 0;
    this.#waking.abort();
  }

  /** Lets the endpoint answer what it was sent, within its timeout. */
  async close(): Promise<void> {
    this.#isClosing = true;
    this.#waking.abort();
    await this.#running;
    await this.#options.client.close();
  }

  async #run(): Promise<void> {
    const { name, leases, log } = this.#options;
    while (!this.#isClosing) {
      let lease: Lease | undefined;
      try {
        lease = await leases.acquireLease(senderLease(name));
        this.#setSending(lease !== undefined);
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
    const { name, outbox } = this.#options;
    while (!this.#isClosing) {
      await this.#dropOld();
      await lease.confirm();
      const messages = await outbox.listNext(name, this.#atOnce);
      const last = messages.at(-1);
      if (last === undefined) {
        // What was refused or too old may be gone.
        this.#setProblem(undefined);
        await this.#pause(LOOK_EVERY_MS);
        continue;
      }
      const failure = await this.#send(messages.map(({ body }) => parseStoredEvent(body)));
      if (failure === undefined) await outbox.remove(name, last.position, lease);
      else if (failure.isRefusal && messages.length > 1) this.#atOnce = Math.ceil(messages.length / 2);
      else await this.#pause(jittered(backoffMs(RETRY, this.#failures)));
    }
  }

  /** `undefined` if the endpoint has accepted them. */
  async #send(events: readonly StoredEvent[]): Promise<DeliveryFailed | undefined> {
    const { name, client, log, meter } = this.#options;
    const labels = { endpoint: name };
    try {
      await client.send(events);
    } catch (error) {
      if (!(error instanceof DeliveryFailed)) throw error;
      meter.count('notification_failures_total', labels);
      this.#failed(error, events);
      return error;
    }
    meter.count('notifications_sent_total', labels, events.length);
    if (this.#problem !== undefined)
      log.info({ endpoint: name }, 'an endpoint of notifications accepts events again');
    this.#failures = 0;
    this.#setProblem(undefined);
    this.#atOnce = Math.min(client.eventsPerRequest, this.#atOnce * 2);
    return undefined;
  }

  #failed({ message, isRefusal }: DeliveryFailed, [first, ...others]: readonly StoredEvent[]): void {
    const { name, log } = this.#options;
    // Fewer are sent at once: that is another request, for which nothing has to be waited.
    if (isRefusal && others.length > 0) {
      log.debug(
        { endpoint: name, reason: message },
        'an endpoint of notifications refuses events: fewer are sent at a time',
      );
      return;
    }
    this.#failures += 1;
    const refused = isRefusal ? first : undefined;
    const reason =
      refused === undefined
        ? message
        : `${message} to ${refused.kind} of ${subjectOf(refused) ?? refused.id}`;
    const fields = { endpoint: name, reason, event: refused?.id };
    // The first one of a row, and whenever the reason changes.
    const isKnown = this.#problem?.reason === reason && this.#problem.refused === refused?.id;
    if (isKnown) log.debug(fields, 'an endpoint of notifications fails again');
    else if (refused === undefined) log.warn(fields, 'an endpoint of notifications fails: its events wait');
    else
      log.warn(
        fields,
        'an endpoint of notifications refuses an event: all others wait (entrepot notify --skip)',
      );
    if (!isKnown) this.#setProblem({ reason, refused: refused?.id });
  }

  #setProblem(problem: SendingProblem | undefined): void {
    if (problem === this.#problem) return;
    this.#problem = problem;
    this.#options.onChange?.();
  }

  #setSending(isSending: boolean): void {
    // What this process knew is of no use while another one sends.
    if (!isSending) this.#setProblem(undefined);
    if (isSending === this.#isSending) return;
    this.#isSending = isSending;
    this.#options.onChange?.();
  }

  async #dropOld(): Promise<void> {
    const { name, outbox, clock, log } = this.#options;
    const atMs = clock.monotonicMs();
    if (this.#droppedAtMs !== undefined && atMs - this.#droppedAtMs < DROP_EVERY_MS) return;
    this.#droppedAtMs = atMs;
    let count = 0;
    for (let some = -1; some !== 0 && !this.#isClosing; count += some)
      some = await outbox.dropBefore(clock.nowMs() - KEPT_WAITING_MS);
    if (count > 0) log.error({ endpoint: name, count }, 'events that had waited for a week were dropped');
  }

  async #pause(ms: number): Promise<void> {
    if (this.#isClosing) return;
    const { clock } = this.#options;
    this.#waking = new AbortController();
    await clock.sleep(ms, { signal: this.#waking.signal, ref: false }).catch(() => {});
  }
}
