import type { IncomingMessage, ServerResponse } from 'node:http';
import { isDeepStrictEqual } from 'node:util';
import type { Clock, Timer } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { EventData, EventName } from './documents/events.ts';
import type { FillDocument } from './documents/fills.ts';
import type { QueueDocument } from './documents/queue.ts';
import type { ReplicasDocument } from './documents/replicas.ts';
import type { TaskDocument } from './documents/tasks.ts';
import type { UpstreamDocument } from './documents/upstreams.ts';
import type { Refusals } from './refusals.ts';

/** What can be looked at without delaying anybody. */
export interface Observed {
  readonly fills: readonly FillDocument[];
  readonly queue: QueueDocument;
  readonly overview: EventData<'overview'>;
  readonly upstreams: readonly UpstreamDocument[];
  readonly replicas: ReplicasDocument;
}

export interface EventsOptions {
  /** The state now; called once a second while anybody follows. */
  readonly observe: () => Promise<Observed>;
  /** Whether a blob is stored; asked for downloads that have ended. */
  readonly isStored: (digest: string) => Promise<boolean>;
  /** What clients were refused. */
  readonly refusals: Pick<Refusals, 'added' | 'since'>;
  readonly clock: Clock;
  readonly log: Log;
}

/** How often the state is looked at, and each kind of event is sent at most. */
const EACH_MS = 1_000;
/** A proxy, or a browser that is asleep, is noticed by this. */
const ALIVE_EACH_MS = 15_000;
/** Entries of a list in one event; of more, the client asks for the list. */
const MAX_LISTED = 200;
/** Open pages and scripts. Beyond that, the oldest one of the user with the most is ended, so that nobody can shut others out. */
const MAX_CLIENTS = 100;
/** What may wait for one client that reads slowly: some seconds' worth. It can begin again at any time. */
const MAX_WAITING_BYTES = 1024 * 1024;

const HEADERS = {
  'Content-Type': 'text/event-stream; charset=utf-8',
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
  'Cross-Origin-Resource-Policy': 'same-origin',
  // nginx would collect events until it has a buffer full.
  'X-Accel-Buffering': 'no',
} as const;

/** What events say nothing more of than that it has changed. */
type Noted = 'images' | 'tenants' | 'notifications' | 'audit';

/**
 * The stream of changes. Once a second what has changed is compared with what was sent last, so that a client gets one
 * event of each kind at most, however much happens; while nobody follows, nothing is looked at. Events are not kept: a
 * client that was away is told to ask for everything.
 */
export class AdminEvents {
  readonly #options: EventsOptions;
  /** Who follows with each stream; the oldest is first. */
  readonly #clients = new Map<ServerResponse, string>();
  /** Ids of one process mean nothing to another. */
  readonly #epoch = Date.now().toString(36);
  #lastId = 0;
  #last: Observed | undefined;
  /** What is to be said at the next look. */
  readonly #noted = new Set<Noted>();
  readonly #tasks = new Map<string, TaskDocument>();
  /** Of those that were added so far, clients know. */
  #refusalsTold = 0;
  #timer: Timer | undefined;
  #looking: Promise<void> = Promise.resolve();
  #aliveAtMs = 0;

  constructor(options: EventsOptions) {
    this.#options = options;
  }

  /** Sends events to `who` until the client leaves, or reads too slowly. */
  follow(req: IncomingMessage, res: ServerResponse, who: string): void {
    // It may have left while the cluster judged its token.
    if (res.closed) return;
    res.writeHead(200, HEADERS);
    if (req.method === 'HEAD') {
      res.end();
      return;
    }
    if (this.#clients.size >= MAX_CLIENTS) this.#endOne();
    const { 'last-event-id': lastId } = req.headers;
    // A client that missed less than a second need not ask for everything again.
    const isCurrent = this.#timer !== undefined && lastId === this.#idText();
    res.write(isCurrent ? ': go on\n\n' : `id: ${this.#idText()}\nevent: reset\ndata: {}\n\n`);
    this.#clients.set(res, who);
    res.once('close', () => {
      this.#clients.delete(res);
      if (this.#clients.size === 0) this.#pause();
    });
    this.#begin();
  }

  /** Says at the next look that such things have changed. */
  note(what: Noted): void {
    if (this.#clients.size > 0) this.#noted.add(what);
  }

  /** Says at the next look how the task is. */
  noteTask(task: TaskDocument): void {
    if (this.#clients.size > 0) this.#tasks.set(task.id, task);
  }

  /** How many clients follow. */
  get clients(): number {
    return this.#clients.size;
  }

  /** Ends all streams. */
  async close(): Promise<void> {
    for (const res of this.#clients.keys()) res.end();
    this.#clients.clear();
    this.#pause();
    await this.#looking;
  }

  #endOne(): void {
    const counts = new Map<string, number>();
    for (const who of this.#clients.values()) counts.set(who, (counts.get(who) ?? 0) + 1);
    const most = Math.max(...counts.values());
    const oldest = [...this.#clients].find(([, who]) => counts.get(who) === most)?.[0];
    if (oldest === undefined) return;
    this.#clients.delete(oldest);
    // The end of one that does not read would wait with all the rest, for ever.
    if (oldest.writableLength > 0) oldest.destroy();
    else oldest.end();
  }

  #begin(): void {
    if (this.#timer !== undefined) return;
    this.#refusalsTold = this.#options.refusals.added;
    this.#aliveAtMs = performance.now();
    this.#schedule();
  }

  #pause(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#last = undefined;
    this.#noted.clear();
    this.#tasks.clear();
    // What is said after the pause does not follow what was said before it.
    this.#lastId += 1;
  }

  #schedule(): void {
    const timer = this.#options.clock.after(EACH_MS, () => {
      this.#looking = this.#look().finally(() => {
        if (this.#timer === timer) this.#schedule();
      });
    });
    this.#timer = timer.unref();
  }

  async #look(): Promise<void> {
    try {
      const now = await this.#options.observe();
      const last = this.#last;
      const fills = await this.#changedFills(last?.fills ?? [], now.fills);
      // Not before: if that fails, the next look finds all the same changes.
      this.#last = now;
      const text = [...fills, ...this.#changes(last, now), ...this.#notes()].join('');
      if (text !== '') this.#send(text);
      else if (performance.now() - this.#aliveAtMs >= ALIVE_EACH_MS) this.#send(': alive\n\n');
    } catch (error) {
      this.#options.log.warn(
        { err: error },
        'the state for open pages could not be read and will be read again',
      );
    }
  }

  async #changedFills(
    before: readonly FillDocument[],
    now: readonly FillDocument[],
  ): Promise<readonly string[]> {
    const known = new Map(before.map(fill => [fill.id, fill]));
    const changed = now.filter(fill => !isDeepStrictEqual(fill, known.get(fill.id)));
    for (const { id } of now) known.delete(id);
    if (changed.length === 0 && known.size === 0) return [];
    const gone = await Promise.all(
      [...known.values()]
        .slice(0, MAX_LISTED)
        .map(async ({ id, digest }) => ({ id, stored: await this.#options.isStored(digest) })),
    );
    const more = changed.length > MAX_LISTED || known.size > MAX_LISTED;
    return [this.#text('fills', { changed: changed.slice(0, MAX_LISTED), gone, total: now.length, more })];
  }

  *#changes(last: Observed | undefined, now: Observed): Iterable<string> {
    if (!isDeepStrictEqual(last?.queue, now.queue)) yield this.#text('queue', now.queue);
    if (!isDeepStrictEqual(last?.overview, now.overview)) yield this.#text('overview', now.overview);
    const backoffs = now.overview.now.backoffs;
    if (last?.overview.now.backoffs !== backoffs) yield this.#text('backoffs', { total: backoffs });
    const changed = now.upstreams.filter(
      upstream =>
        !isDeepStrictEqual(
          upstream,
          last?.upstreams.find(({ name }) => name === upstream.name),
        ),
    );
    if (changed.length > 0) yield this.#text('upstreams', { changed });
    if (!isDeepStrictEqual(last?.replicas.entries ?? [], now.replicas.entries))
      yield this.#text('replicas', now.replicas);
    const hasNewContent =
      last !== undefined &&
      (last.overview.store.heldBytes !== now.overview.store.heldBytes ||
        last.overview.store.blobs !== now.overview.store.blobs);
    if (hasNewContent) this.#noted.add('images');
    const { refusals } = this.#options;
    const refused = refusals.since(this.#refusalsTold);
    this.#refusalsTold = refusals.added;
    if (refused.length > 0) {
      const more = refused.length > MAX_LISTED;
      yield this.#text('refusals', { changed: refused.slice(0, MAX_LISTED), more });
    }
  }

  *#notes(): Iterable<string> {
    for (const task of this.#tasks.values()) yield this.#text('task', task);
    this.#tasks.clear();
    for (const what of this.#noted) yield this.#text(what, {});
    this.#noted.clear();
  }

  #text<Name extends EventName>(name: Name, data: EventData<Name>): string {
    this.#lastId += 1;
    return `id: ${this.#idText()}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
  }

  #idText(): string {
    return `${this.#epoch}-${this.#lastId}`;
  }

  #send(text: string): void {
    this.#aliveAtMs = performance.now();
    for (const res of this.#clients.keys()) {
      // One that was ended and is still here is not read to its end.
      if (res.writableEnded || res.writableLength > MAX_WAITING_BYTES) res.destroy();
      else res.write(text);
    }
  }
}
