/** The part of the composition root that sends events to other programs. Loads nothing unless an endpoint is configured. */
import { hostname } from 'node:os';
import type { Config, EndpointConfig } from '../config/config.ts';
import type { EndpointClient } from '../events/endpoint-client.ts';
import type { EventSender, SendingProblem } from '../events/event-sender.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import type { Meter } from '../lib/meter.ts';
import { Restartable } from '../lib/restartable.ts';
import type { Observers, Parts } from './parts.ts';

/** A client of an endpoint; the caller closes it. */
export async function endpointClientOf(
  endpoint: EndpointConfig,
  { config, clock }: { readonly config: Config; readonly clock: Clock },
): Promise<EndpointClient> {
  const loaded = await import('../events/endpoint-client.ts');
  const { httpProxy, httpsProxy, noProxy } = config.proxy;
  const host = hostname();
  return new loaded.EndpointClient({
    endpoint,
    clock,
    proxy: { http: httpProxy, https: httpsProxy, no: noProxy },
    source: { uri: config.server.externalUrl ?? `//${host}`, host },
    userAgent: 'entrepot',
  });
}

/** What a server sends: one sender for each endpoint, which are replaced when the endpoints change. */
export class EventDelivery {
  readonly #senders: Restartable<Senders>;
  readonly #listeners = new Set<() => void>();
  #current: Senders | undefined;

  constructor(parts: SendersNeeds, observers: Observers) {
    this.#senders = new Restartable<Senders>({
      settings: () => parts.config.notifications,
      begin: async previous => {
        // They hold the Leases that the next ones need.
        await previous?.close();
        this.#current = await Senders.begin(parts, observers, () => this.#tell());
        this.#tell();
        return this.#current;
      },
    });
  }

  /** For `/readyz` and `status`: without reasons, which name hosts, since anybody may read it. */
  get problems(): readonly string[] {
    return this.#current?.problems ?? [];
  }

  /** Why nothing arrives at this endpoint; `undefined` if it does, or another process sends. */
  problemOf(endpoint: string): SendingProblem | undefined {
    return this.#current?.of(endpoint)?.problem;
  }

  /** Whether this process sends to the endpoint, rather than another one on the store. */
  isSending(endpoint: string): boolean {
    return this.#current?.of(endpoint)?.isSending === true;
  }

  /** Asks the endpoint now instead of after its back-off, if this process sends. */
  hurry(endpoint: string): void {
    this.#current?.of(endpoint)?.hurry();
  }

  /** Calls `listener` when who sends to an endpoint, or its problem, has changed; returns a function that stops this. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Follows the configuration. */
  follow(): Promise<void> {
    return this.#senders.follow();
  }

  close(): Promise<void> {
    return this.#senders.close();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}

type SendersNeeds = Pick<Parts, 'config' | 'metadata' | 'clock'>;

class Senders {
  readonly #senders: ReadonlyMap<string, EventSender>;

  private constructor(senders: ReadonlyMap<string, EventSender>) {
    this.#senders = senders;
  }

  static async begin(
    { config, metadata, clock }: SendersNeeds,
    { log, meter }: Observers,
    onChange: () => void,
  ): Promise<Senders> {
    const { outbox } = metadata;
    const { endpoints } = config.notifications;
    const senders = new Map<string, EventSender>();
    if (outbox === undefined || endpoints.length === 0) return new Senders(senders);
    const loaded = await import('../events/event-sender.ts');
    for (const endpoint of endpoints) {
      const { name } = endpoint;
      const client = await endpointClientOf(endpoint, { config, clock });
      const needs = { name, client, outbox, leases: metadata, clock, log, meter, onChange };
      senders.set(name, loaded.EventSender.begin(needs));
    }
    return new Senders(senders);
  }

  of(endpoint: string): EventSender | undefined {
    return this.#senders.get(endpoint);
  }

  get problems(): readonly string[] {
    return [...this.#senders].flatMap(([name, { problem }]) => {
      if (problem === undefined) return [];
      return problem.refused === undefined
        ? `the endpoint ${name} of notifications fails: its events wait (see the log)`
        : `the endpoint ${name} of notifications refuses an event: all others wait (see entrepot notify ${name} --waiting)`;
    });
  }

  async close(): Promise<void> {
    await Promise.all([...this.#senders.values()].map(sender => sender.close()));
  }
}

/** Reports what waits for each endpoint, when metrics are requested. */
export class OutboxReport {
  readonly #parts: SendersNeeds;
  readonly #meter: Meter;
  /** The endpoints that were reported last. */
  #known: readonly string[] = [];

  constructor(parts: SendersNeeds, meter: Meter) {
    this.#parts = parts;
    this.#meter = meter;
  }

  async report(): Promise<void> {
    const { config, metadata, clock } = this.#parts;
    const names = config.notifications.endpoints.map(({ name }) => name);
    for (const name of this.#known) if (!names.includes(name)) this.#set(name, {});
    this.#known = names;
    for (const name of names) {
      const state = await metadata.outbox?.readState(name);
      if (state === undefined) continue;
      const { waiting, oldestAtMs, dropped } = state;
      const waitedMs = oldestAtMs === undefined ? 0 : Math.max(0, clock.nowMs() - oldestAtMs);
      this.#set(name, { waiting, waitedMs, dropped });
    }
  }

  #set(
    endpoint: string,
    { waiting, waitedMs, dropped }: { waiting?: number; waitedMs?: number; dropped?: number },
  ): void {
    const seconds = waitedMs === undefined ? undefined : waitedMs / 1000;
    this.#meter.gauge('notifications_waiting', waiting, { endpoint });
    this.#meter.gauge('notifications_oldest_seconds', seconds, { endpoint });
    this.#meter.gauge('notifications_dropped', dropped, { endpoint });
  }
}

/** How an endpoint has answered a test. */
export interface TestedEndpoint {
  readonly id: string;
  /** Of its answer. */
  readonly status: number;
  readonly ms: number;
}

/**
 * Sends a test event to an endpoint, past whatever waits for it. Rejects with DeliveryFailed if the endpoint does not accept
 * it.
 */
export async function testEndpoint(config: Config, endpoint: EndpointConfig): Promise<TestedEndpoint> {
  const { storedEvent } = await import('../events/stored-event.ts');
  const clock = systemClock;
  const client = await endpointClientOf(endpoint, { config, clock });
  try {
    const event = storedEvent({ kind: 'test', actor: { name: 'operator' } }, clock.nowMs());
    const begunMs = clock.monotonicMs();
    const status = await client.send([event]);
    return { id: event.id, status, ms: Math.round(clock.monotonicMs() - begunMs) };
  } finally {
    await client.close();
  }
}
