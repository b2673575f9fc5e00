import { randomUUID } from 'node:crypto';
import { OciError } from '../oci/errors.ts';
import type { Administrator } from './admin-access.ts';
import { AdminProblem } from './admin-problem.ts';
import type { TaskDocument } from './documents/tasks.ts';
import { timeOf } from './status.ts';

/** Of those that run: each may use the disk and upstreams as much as a command. */
const MAX_RUNNING = 20;
/** How many are remembered after their end. */
const MAX_ENDED = 100;

/** Reported by a task that runs. */
export interface TaskProgress {
  /** Says what is being done; from then on items and bytes count from 0. */
  step(text: string): void;
  /** How many bytes there will be. */
  expect(totalBytes: number): void;
  set(counts: { readonly items: number; readonly bytes: number }): void;
}

/** How a task ended. */
export interface TaskResult {
  /** For people. */
  readonly message: string;
  readonly result: Readonly<Record<string, unknown>>;
}

/** A task to begin. */
export interface TaskOrder {
  readonly action: TaskDocument['action'];
  readonly subject: string | null;
  readonly who: Administrator;
  /** Rejects with the signal's reason if it aborts; what is done by then stays done. */
  readonly work: (progress: TaskProgress, signal: AbortSignal) => Promise<TaskResult>;
}

interface Task {
  document: TaskDocument;
  readonly who: Administrator;
  readonly aborting: AbortController;
  readonly done: Promise<void>;
}

type TaskListener = (task: TaskDocument, who: Administrator) => void;

/** What the administration API has begun: it continues when nobody watches it, and can be cancelled. */
export class AdminTasks {
  /** In the order in which they began. */
  readonly #tasks = new Map<string, Task>();
  readonly #listeners = new Set<TaskListener>();
  #isClosed = false;

  /** The latest first. */
  list(): readonly TaskDocument[] {
    return [...this.#tasks.values()].map(({ document }) => document).toReversed();
  }

  get running(): number {
    return this.list().filter(({ state }) => state === 'running').length;
  }

  /** Throws AdminProblem for an unknown id. */
  read(id: string): TaskDocument {
    return this.#find(id).document;
  }

  /** Begins a task. Throws AdminProblem if too many are running, or the same one is. */
  begin({ action, subject, who, work }: TaskOrder): TaskDocument {
    if (this.#isClosed) throw new AdminProblem('unavailable', 'this server is stopping');
    const running = this.list().filter(({ state }) => state === 'running');
    if (running.length >= MAX_RUNNING) {
      throw new AdminProblem('busy', `${MAX_RUNNING} tasks are running: cancel one, or wait`, {
        'Retry-After': '10',
      });
    }
    const same = running.find(task => task.action === action && task.subject === subject);
    if (same !== undefined)
      throw new AdminProblem('refused', `this is being done already, as task ${same.id}`);
    const id = randomUUID();
    const aborting = new AbortController();
    const document: TaskDocument = {
      id,
      action,
      subject,
      by: who.name,
      state: 'running',
      started: timeOf(Date.now()),
      ended: null,
      step: null,
      items: 0,
      bytes: 0,
      totalBytes: null,
      message: null,
      result: null,
    };
    const done = this.#run(id, work, aborting.signal);
    this.#tasks.set(id, { document, who, aborting, done });
    this.#changed(id, {});
    this.#forgetOld();
    return document;
  }

  /** Resolves when it has ended. Throws AdminProblem for an unknown id; nothing happens to one that has ended. */
  async cancel(id: string): Promise<TaskDocument> {
    const task = this.#find(id);
    task.aborting.abort(new Error('cancelled'));
    await task.done;
    return this.read(id);
  }

  /** Calls `listener` after each change, which may be often; returns a function that stops this. */
  onChange(listener: TaskListener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Cancels all. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const { aborting } of this.#tasks.values()) aborting.abort(new Error('this server is stopping'));
    await Promise.all([...this.#tasks.values()].map(({ done }) => done));
  }

  async #run(id: string, work: TaskOrder['work'], signal: AbortSignal): Promise<void> {
    // Begins when `begin` has stored it.
    await Promise.resolve();
    const progress: TaskProgress = {
      step: step => this.#changed(id, { step, items: 0, bytes: 0 }),
      expect: totalBytes => this.#changed(id, { totalBytes }),
      set: ({ items, bytes }) => this.#changed(id, { items, bytes }),
    };
    const end = (change: Partial<TaskDocument>) =>
      this.#changed(id, { ...change, ended: timeOf(Date.now()) });
    try {
      signal.throwIfAborted();
      const { message, result } = await work(progress, signal);
      end({ state: 'done', message, result: { ...result } });
    } catch (error) {
      end({ state: signal.aborted ? 'cancelled' : 'failed', message: messageOf(error) });
    }
  }

  #changed(id: string, change: Partial<TaskDocument>): void {
    const task = this.#tasks.get(id);
    if (task === undefined) return;
    task.document = { ...task.document, ...change };
    for (const listener of this.#listeners) listener(task.document, task.who);
  }

  #find(id: string): Task {
    const task = this.#tasks.get(id);
    if (task === undefined)
      throw new AdminProblem('not-found', `there is no task ${id}, or it ended long ago`);
    return task;
  }

  #forgetOld(): void {
    const ended = [...this.#tasks].filter(([, { document }]) => document.state !== 'running');
    for (const [id] of ended.slice(0, Math.max(0, ended.length - MAX_ENDED))) this.#tasks.delete(id);
  }
}

function messageOf(error: unknown): string {
  if (error instanceof OciError) return error.story;
  return error instanceof Error ? error.message : String(error);
}
