/**
 * events/: telling other programs what happens. May import upstream/ (which addresses may be connected to), metadata/, oci/
 * and lib/.
 *
 * The main idea: whoever changes something writes a message for each endpoint that wants to know into the outbox, in the
 * transaction of the change. One process at a time, the holder of an endpoint's Lease, sends them in order, and removes
 * them when the endpoint has acknowledged them: so each arrives at least once, whatever dies in between. What changes nothing
 * there, such as a pull, is noted in memory, where equal events become one, and is written a second later.
 *
 * This file is where events come in. Nothing of this folder is loaded unless an endpoint is configured.
 */
import type { Clock, Timer } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { Outbox, OutboxMessage } from '../metadata/outbox.ts';
import { EVENT_KINDS, type EventKind, type RegistryEvent } from '../oci/event.ts';
import { type EventFilter, wantsEvent } from './event-filter.ts';
import { storedEvent } from './stored-event.ts';

/** An endpoint, for those who have something to tell. */
export interface Subscriber extends EventFilter {
  readonly name: string;
}

export interface AnnouncementsOptions {
  readonly subscribers: readonly Subscriber[];
  readonly outbox: Outbox;
  readonly clock: Clock;
  readonly log: Log;
  readonly meter: Meter;
}

/** How long a noted event waits to be written with others: each write costs a commit. */
const WRITE_EVERY_MS = 1_000;

/** How many different ones may wait for that, about 10 MB. A herd of a thousand nodes pulls a few images each in a second. */
const MAX_NOTED = 10_000;

/** Messages in one transaction, which takes some milliseconds. */
const MESSAGES_PER_WRITE = 500;

/** Clients and upstreams cause any number of these. */
const MINOR: ReadonlySet<EventKind> = new Set(['pull', 'download', 'download-failed', 'evict']);

/** Messages of upstreams may have some KiB. */
const MAX_REASON_LENGTH = 1_000;

interface Noted {
  readonly event: RegistryEvent;
  readonly atMs: number;
  count: number;
}

/** Makes messages of events, and puts those into the outbox that no other write takes along. */
export class Announcements {
  readonly #subscribers: readonly Subscriber[];
  readonly #outbox: Outbox;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #meter: Meter;
  readonly #wanted: ReadonlySet<EventKind>;
  #noted = new Map<string, Noted>();
  /** The last one of each digest and client: it is most often noted again, and is found without a key. */
  #latest = new Map<string | undefined, Map<string | undefined, Noted>>();
  /** Events that there was no room for since the last write. */
  #overlooked = 0;
  #timer: Timer | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor({ subscribers, outbox, clock, log, meter }: AnnouncementsOptions) {
    this.#subscribers = subscribers;
    this.#outbox = outbox;
    this.#clock = clock;
    this.#log = log;
    this.#meter = meter;
    this.#wanted = new Set(subscribers.flatMap(({ events = EVENT_KINDS }) => events));
  }

  /** What is to be written in the transaction of what the event tells of. */
  announce(event: RegistryEvent): readonly OutboxMessage[] {
    return this.#messagesOf({ event, atMs: this.#clock.nowMs(), count: 1 });
  }

  /**
   * Notes an event, which is written within about a second, with how many alike there were: about the same, by the same
   * client. A crash may lose it. Called for each pull, so it makes no string of what was noted a moment ago.
   */
  note(event: RegistryEvent): void {
    if (!this.#wanted.has(event.kind)) return;
    const latest = this.#latest.get(event.digest)?.get(event.actor?.remote);
    const noted = latest !== undefined && areAlike(latest.event, event) ? latest : this.#notedLike(event);
    if (noted === undefined) this.#overlooked += 1;
    else noted.count += 1;
  }

  /** The entry that counts events like this one, made if necessary; `undefined` if there is no room for it. */
  #notedLike(event: RegistryEvent): Noted | undefined {
    const key = keyOf(event);
    let noted = this.#noted.get(key);
    if (noted === undefined) {
      if (this.#noted.size >= MAX_NOTED) return undefined;
      noted = { event, atMs: this.#clock.nowMs(), count: 0 };
      this.#noted.set(key, noted);
      this.#timer ??= this.#clock
        .after(WRITE_EVERY_MS, () => {
          this.#timer = undefined;
          void this.flush();
        })
        .unref();
    }
    const ofDigest = this.#latest.get(event.digest) ?? new Map<string | undefined, Noted>();
    this.#latest.set(event.digest, ofDigest.set(event.actor?.remote, noted));
    return noted;
  }

  /** Writes what was noted until now; a failure is logged. */
  flush(): Promise<void> {
    const noted = [...this.#noted.values()];
    const overlooked = this.#overlooked;
    this.#noted = new Map();
    this.#latest = new Map();
    this.#overlooked = 0;
    this.#writing = this.#writing.then(() => this.#write(noted, overlooked));
    return this.#writing;
  }

  /** Writes what is left. */
  async close(): Promise<void> {
    this.#timer?.cancel();
    await this.flush();
  }

  async #write(noted: readonly Noted[], overlooked: number): Promise<void> {
    if (overlooked > 0) {
      this.#meter.count('notifications_overlooked_total', {}, overlooked);
      this.#log.warn(
        { count: overlooked },
        'too much happens at once: some events are not sent to endpoints',
      );
    }
    const messages = noted.flatMap(one => this.#messagesOf(one));
    try {
      for (let at = 0; at < messages.length; at += MESSAGES_PER_WRITE)
        await this.#outbox.put(messages.slice(at, at + MESSAGES_PER_WRITE));
    } catch (error) {
      this.#meter.count('notifications_overlooked_total', {}, noted.length);
      this.#log.warn(
        { err: error, count: messages.length },
        'some events could not be recorded and are not sent to endpoints',
      );
    }
  }

  #messagesOf({ event, atMs, count }: Noted): OutboxMessage[] {
    const subscribers = this.#subscribers.filter(subscriber => wantsEvent(subscriber, event));
    if (subscribers.length === 0) return [];
    const reason = event.reason?.slice(0, MAX_REASON_LENGTH);
    const body = JSON.stringify(storedEvent({ ...event, reason }, atMs, count));
    const isMinor = MINOR.has(event.kind);
    return subscribers.map(({ name }) => ({ endpoint: name, body, atMs, isMinor }));
  }
}

/** Whether events of one digest and client become one. Their reasons may differ in figures. */
function areAlike(one: RegistryEvent, other: RegistryEvent): boolean {
  return (
    one.tag === other.tag &&
    one.kind === other.kind &&
    one.repository?.name === other.repository?.name &&
    one.repository?.upstream === other.repository?.upstream &&
    one.actor?.name === other.actor?.name &&
    one.actor?.userAgent === other.actor?.userAgent &&
    one.upstream === other.upstream &&
    one.tenant === other.tenant &&
    one.secret === other.secret &&
    one.state === other.state
  );
}

/** The same for all events that become one. */
function keyOf({
  kind,
  repository,
  tag,
  digest,
  actor,
  upstream,
  tenant,
  secret,
  state,
}: RegistryEvent): string {
  const { name, remote, userAgent } = actor ?? {};
  const what = `${kind} ${repository?.upstream} ${repository?.name} ${tag} ${digest}`;
  const about = `${upstream} ${tenant} ${secret} ${state}`;
  return `${what} ${about} ${name} ${remote} ${userAgent}`;
}
