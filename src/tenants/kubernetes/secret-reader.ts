import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { startThread } from '../../lib/thread.ts';
import type { SecretReading } from '../secret-source.ts';
import type { KubeObject } from './kube-client.ts';
import { malformedSecret, readSecret } from './kube-objects.ts';

/** What the thread is asked: to read this Secret. */
export interface SecretQuestion {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** Read in a few milliseconds, whatever is in it; nearly all are smaller by a factor of ten. */
const MAX_HERE_BYTES = 16 * 1024;

/** A megabyte of the smallest values of JSON makes objects of 60 MB. */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 128, maxYoungGenerationSizeMb: 16 } as const;

/** The thread has some megabytes of its own, and large Secrets are rare: so long after the last one, it ends. */
const IDLE_MS = 30_000;

/** Reads Secrets as they are wanted: small ones at once, large ones in a thread, one after the other. */
export class SecretReader {
  #worker: Worker | undefined;
  #idle: NodeJS.Timeout | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  /** `undefined` for one that the kubelet passes over. One that the thread cannot bear is malformed. */
  async read(object: Pick<KubeObject, 'name' | 'bytes' | 'problem'>): Promise<SecretReading | undefined> {
    const { name, bytes } = object;
    if (bytes === undefined || bytes.length <= MAX_HERE_BYTES) return readSecret(object);
    // One at a time: when the thread ends by it, it is known by which.
    const turn = this.#last.then(() => this.#readInThread({ name, bytes }));
    this.#last = turn.catch(() => {});
    return turn;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#idle);
    await this.#worker?.terminate();
  }

  async #readInThread(question: SecretQuestion): Promise<SecretReading | undefined> {
    if (this.#isClosed) throw new Error('the reader of Secrets is closed');
    clearTimeout(this.#idle);
    const worker = (this.#worker ??= this.#start());
    const settled = new AbortController();
    const options = { signal: settled.signal };
    try {
      const ended = once(worker, 'exit', options).then(() => ['the thread ended']);
      const answered = once(worker, 'message', options);
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
      worker.postMessage(question);
      const [answer] = await Promise.race([answered, ended]);
      if (typeof answer === 'string') return malformedSecret(question.name, `it cannot be read: ${answer}`);
      this.#idle = setTimeout(() => void this.#worker?.terminate(), IDLE_MS).unref();
      return answer;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return malformedSecret(question.name, `it cannot be read: ${reason}`);
    } finally {
      settled.abort();
    }
  }

  #start(): Worker {
    const worker = startThread(import.meta.url, 'secret-worker', { resourceLimits: RESOURCE_LIMITS });
    worker.unref();
    worker.once('exit', () => {
      if (this.#worker === worker) this.#worker = undefined;
    });
    return worker;
  }
}

/** A Secret that is read when somebody asks what is in it, and once. */
export class HeldSecret {
  readonly #reader: SecretReader;
  /** Until it was read. */
  #object: Pick<KubeObject, 'name' | 'bytes' | 'problem'> | undefined;
  #reading: SecretReading | undefined;

  constructor({ name, bytes, problem }: KubeObject, reader: SecretReader) {
    this.#reader = reader;
    this.#object = { name, bytes, problem };
  }

  /** `undefined` for one that the kubelet passes over. */
  async reading(): Promise<SecretReading | undefined> {
    const object = this.#object;
    if (object === undefined) return this.#reading;
    this.#reading = await this.#reader.read(object);
    this.#object = undefined;
    return this.#reading;
  }
}
