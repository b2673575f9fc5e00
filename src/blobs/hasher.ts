/**
 * The main thread's side of the hashing thread. There is one per store; the thread starts with the first job. If it
 * dies, it is started again, and every job hashes its file from the start.
 */
import type { Worker } from 'node:worker_threads';
import type { Log } from '../lib/log.ts';
import { startThread } from '../lib/thread.ts';
import { type Digest, type DigestAlgorithm, parseDigest } from '../oci/digest.ts';
import type { HashReply, HashRequest } from './hash-messages.ts';

/** A job that was running at this many deaths of the thread is considered their cause, and fails. */
const MAX_DEATHS_PER_JOB = 3;

/** Growth is reported in steps of this size, so that small writes do not cost a message each. */
const ADVANCE_STEP_BYTES = 256 * 1024;

interface Waiter<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

export interface HashOptions {
  /** Default: no limit. */
  readonly bytesPerSecond?: number;
  /** Called now and then with the number of hashed bytes. */
  readonly onProgress?: ((position: number) => void) | undefined;
}

/** One pass over one file, which may still grow. The creator must `stop` it. */
export class HashJob {
  readonly id: number;
  readonly path: string;
  readonly algorithm: DigestAlgorithm;
  readonly bytesPerSecond: number;
  /** Called now and then with the number of hashed bytes. */
  readonly onProgress: ((position: number) => void) | undefined;
  length: number;
  /** The length that the thread was last told. */
  toldLength: number;
  finishAt: number | undefined;
  waiter: Waiter<Digest> | undefined;
  failure: Error | undefined;
  deaths = 0;

  constructor(
    id: number,
    path: string,
    algorithm: DigestAlgorithm,
    length: number,
    { bytesPerSecond = 0, onProgress }: HashOptions,
  ) {
    this.id = id;
    this.path = path;
    this.algorithm = algorithm;
    this.length = length;
    this.toldLength = length;
    this.bytesPerSecond = bytesPerSecond;
    this.onProgress = onProgress;
  }
}

/** Starts, stops and queries hashing jobs. */
export class Hasher {
  readonly #log: Log;
  readonly #startWorker: () => Worker;
  readonly #jobs = new Map<number, HashJob>();
  readonly #stops = new Map<number, () => void>();
  #worker: Worker | undefined;
  #nextId = 1;
  #isClosed = false;

  constructor(log: Log, startWorker: () => Worker = startHashThread) {
    this.#log = log;
    this.#startWorker = startWorker;
  }

  /**
   * Starts hashing the first `length` bytes of the file at `path`, which may be renamed once the thread has opened it.
   */
  begin(path: string, algorithm: DigestAlgorithm, length: number, options: HashOptions = {}): HashJob {
    if (this.#isClosed) {
      throw new Error('the blob store is closed');
    }
    const job = new HashJob(this.#nextId++, path, algorithm, length, options);
    this.#jobs.set(job.id, job);
    this.#send(beginning(job));
    return job;
  }

  /** Reports that the file has grown to `length` bytes. */
  advance(job: HashJob, length: number): void {
    job.length = length;
    if (job.failure === undefined && length - job.toldLength >= ADVANCE_STEP_BYTES) {
      job.toldLength = length;
      this.#send({ type: 'advance', job: job.id, length });
    }
  }

  /** The digest of the first `length` bytes, which must exist, and must not be fewer than in an earlier call. */
  finish(job: HashJob, length: number): Promise<Digest> {
    if (job.failure !== undefined) {
      return Promise.reject(job.failure);
    }
    if (job.waiter !== undefined) {
      throw new Error('this ingest is already being hashed');
    }
    return new Promise((resolve, reject) => {
      job.length = length;
      job.toldLength = length;
      job.finishAt = length;
      job.waiter = { resolve, reject };
      this.#send({ type: 'finish', job: job.id, length });
      this.#holdProcess();
    });
  }

  /** Forgets the job; resolves when the thread has closed the file. `finish` rejects, now and later. */
  stop(job: HashJob): Promise<void> {
    this.#jobs.delete(job.id);
    fail(job, new Error('hashing was stopped'));
    this.#holdProcess();
    if (this.#worker === undefined) {
      return Promise.resolve();
    }
    return new Promise(resolve => {
      this.#stops.set(job.id, resolve);
      this.#send({ type: 'stop', job: job.id });
      this.#holdProcess();
    });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const worker = this.#worker;
    this.#worker = undefined;
    for (const job of this.#jobs.values()) {
      fail(job, new Error('the blob store is closed'));
    }
    this.#jobs.clear();
    await worker?.terminate();
    this.#releaseStops();
  }

  #send(request: HashRequest): void {
    this.#worker ??= this.#start();
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
    this.#worker.postMessage(request);
  }

  #start(): Worker {
    const worker = this.#startWorker();
    worker.unref();
    worker.on('message', (reply: HashReply) => this.#receive(reply));
    worker.on('error', error => this.#log.error({ err: error }, 'the hashing thread failed'));
    worker.on('exit', () => this.#restart(worker));
    return worker;
  }

  #receive(reply: HashReply): void {
    if (reply.type === 'stopped') {
      this.#stops.get(reply.job)?.();
      this.#stops.delete(reply.job);
    } else {
      const job = this.#jobs.get(reply.job);
      if (job !== undefined && reply.type === 'progress') {
        job.onProgress?.(reply.position);
      } else if (job !== undefined && reply.type === 'digest') {
        settle(job, waiter => waiter.resolve(parseDigest(`${job.algorithm}:${reply.hex}`)));
      } else if (job !== undefined && reply.type === 'failed') {
        fail(job, Object.assign(new Error(`hashing failed: ${reply.message}`), { code: reply.code }));
      }
    }
    this.#holdProcess();
  }

  /** After the death of `worker`: its files are closed, so pending stops are done; jobs begin again. */
  #restart(worker: Worker): void {
    if (this.#worker !== worker) {
      return;
    }
    this.#worker = undefined;
    this.#releaseStops();
    for (const job of this.#jobs.values()) {
      job.deaths += 1;
      if (job.deaths >= MAX_DEATHS_PER_JOB) {
        fail(job, new Error('the hashing thread died repeatedly'));
      }
      if (job.failure === undefined) {
        job.toldLength = job.length;
        this.#send(beginning(job));
        if (job.finishAt !== undefined) {
          this.#send({ type: 'finish', job: job.id, length: job.finishAt });
        }
      }
    }
    this.#holdProcess();
  }

  #releaseStops(): void {
    for (const resolve of this.#stops.values()) {
      resolve();
    }
    this.#stops.clear();
  }

  /** The thread keeps the process alive only while somebody waits for it. */
  #holdProcess(): void {
    const isAwaited = this.#stops.size > 0 || [...this.#jobs.values()].some(job => job.waiter !== undefined);
    if (isAwaited) {
      this.#worker?.ref();
    } else {
      this.#worker?.unref();
    }
  }
}

function beginning(job: HashJob): HashRequest {
  const { id, path, algorithm, length, bytesPerSecond, onProgress } = job;
  const tellsProgress = onProgress !== undefined;
  return { type: 'begin', job: id, path, algorithm, length, bytesPerSecond, tellsProgress };
}

function settle(job: HashJob, how: (waiter: Waiter<Digest>) => void): void {
  const { waiter } = job;
  job.waiter = undefined;
  job.finishAt = undefined;
  if (waiter !== undefined) {
    how(waiter);
  }
}

function fail(job: HashJob, error: Error): void {
  job.failure = error;
  settle(job, waiter => waiter.reject(error));
}

/** Starts the hashing thread. */
export function startHashThread(): Worker {
  return startThread(import.meta.url, 'hash-worker');
}
