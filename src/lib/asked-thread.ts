import type { Worker } from 'node:worker_threads';

/** A question to a thread, which replies with its id. */
export interface ThreadQuestion {
  readonly id: number;
  readonly question: string;
  readonly parameters: readonly unknown[];
}

export interface AskedThreadOptions<Reply> {
  /** For errors. */
  readonly name: string;
  readonly start: () => Worker;
  /** What a reply answers; throws the error that it stands for. */
  readonly read: (reply: Reply) => unknown;
}

interface Waiter {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * A thread that answers questions. It starts with the first one, and keeps the process alive only while somebody waits. If it
 * dies, pending questions reject, and the next one starts another thread.
 */
export class AskedThread<Reply extends Pick<ThreadQuestion, 'id'>> {
  readonly #options: AskedThreadOptions<Reply>;
  readonly #waiters = new Map<number, Waiter>();
  #worker: Worker | undefined;
  #nextId = 1;

  constructor(options: AskedThreadOptions<Reply>) {
    this.#options = options;
  }

  get isRunning(): boolean {
    return this.#worker !== undefined;
  }

  /** How many questions wait for their answer. */
  get waiting(): number {
    return this.#waiters.size;
  }

  ask(question: string, parameters: readonly unknown[]): Promise<unknown> {
    const worker = (this.#worker ??= this.#start());
    const asked: ThreadQuestion = { id: this.#nextId++, question, parameters };
    return new Promise((resolve, reject) => {
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
      worker.postMessage(asked);
      this.#waiters.set(asked.id, { resolve, reject });
      worker.ref();
    });
  }

  /** Ends the thread, whatever it is doing. */
  async terminate(): Promise<void> {
    await this.#worker?.terminate();
  }

  #start(): Worker {
    const { name, start } = this.#options;
    const worker = start();
    worker.on('message', (reply: Reply) => this.#receive(worker, reply));
    worker.on('error', error => this.#end(worker, error));
    worker.on('exit', () => this.#end(worker, new Error(`${name} has exited`)));
    return worker;
  }

  #receive(worker: Worker, reply: Reply): void {
    const waiter = this.#waiters.get(reply.id);
    this.#waiters.delete(reply.id);
    if (this.#waiters.size === 0) worker.unref();
    try {
      waiter?.resolve(this.#options.read(reply));
    } catch (error) {
      waiter?.reject(error);
    }
  }

  /** A thread that has failed exits a little later, when another one may have been started. */
  #end(worker: Worker, error: unknown): void {
    if (this.#worker !== worker) return;
    this.#worker = undefined;
    for (const { reject } of this.#waiters.values()) reject(error);
    this.#waiters.clear();
  }
}
