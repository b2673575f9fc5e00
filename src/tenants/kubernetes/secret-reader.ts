import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { startThread } from '../../lib/thread.ts';
import type { SecretReading } from '../secret-source.ts';
import type { KubeObject } from './kube-client.ts';
import { malformedSecret, readSecret } from './kube-objects.ts';

/** A request to the thread: parse this Secret. */
export interface SecretQuestion {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** Parsed in a few milliseconds, whatever it contains; nearly all Secrets are ten times smaller. */
const MAX_HERE_BYTES = 16 * 1024;

/** A megabyte of the smallest JSON values becomes 60 MB of objects. */
const RESOURCE_LIMITS = { maxOldGenerationSizeMb: 128, maxYoungGenerationSizeMb: 16 } as const;

/** The thread takes some megabytes and large Secrets are rare, so it ends this long after the last one. */
const IDLE_MS = 30_000;

/** Parses Secrets when they are needed: small ones directly, large ones in a thread, one after the other. */
export class SecretReader {
  #worker: Worker | undefined;
  #idle: NodeJS.Timeout | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  /** `undefined` for a Secret that the kubelet ignores. One that makes the thread fail counts as malformed. */
  async read(object: Pick<KubeObject, 'name' | 'bytes' | 'problem'>): Promise<SecretReading | undefined> {
    const { name, bytes } = object;
    if (bytes === undefined || bytes.length <= MAX_HERE_BYTES) return readSecret(object);
    // One at a time: if the thread dies, it is known which Secret caused it.
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
      this.#idle = setTimeout(() => this.#rest(), IDLE_MS).unref();
      return answer;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return malformedSecret(question.name, `it cannot be read: ${reason}`);
    } finally {
      settled.abort();
    }
  }

  /** The next Secret gets another thread: this one would end while it reads that. */
  #rest(): void {
    const worker = this.#worker;
    this.#worker = undefined;
    void worker?.terminate();
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

/** A Secret that is parsed once, when its content is first needed. */
export class HeldSecret {
  readonly #reader: SecretReader;
  /** Until it was parsed. */
  #object: Pick<KubeObject, 'name' | 'bytes' | 'problem'> | undefined;
  #reading: SecretReading | undefined;

  constructor({ name, bytes, problem }: KubeObject, reader: SecretReader) {
    this.#reader = reader;
    this.#object = { name, bytes, problem };
  }

  /** `undefined` for a Secret that the kubelet ignores. */
  async reading(): Promise<SecretReading | undefined> {
    const object = this.#object;
    if (object === undefined) return this.#reading;
    this.#reading = await this.#reader.read(object);
    this.#object = undefined;
    return this.#reading;
  }
}
