import type { Worker } from 'node:worker_threads';
import { startThread } from '../lib/thread.ts';
import type { DocumentQuestion, DocumentReply, DocumentRequest, DocumentWork } from './document-messages.ts';
import { DOCUMENT_WORK } from './document-work.ts';
import { OciError } from './errors.ts';

/** A document of this size takes about a millisecond; nearly all are smaller. */
const LARGE_BYTES = 64 * 1024;
/** The slowest document takes half a second, and clients wait for 20 s. */
const MAX_WAITING = 32;

type Rest<Q extends DocumentQuestion> =
  Parameters<DocumentWork[Q]> extends [Uint8Array, ...infer R] ? R : never;

interface Waiter {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: Error) => void;
}

/**
 * Reads documents that come from outside: small ones directly, large ones in a worker thread, one after the other,
 * since a manifest of 4 MiB can block the event loop for half a second. The thread starts with the first large document
 * and does not keep the process alive.
 */
class Documents {
  readonly #waiters = new Map<number, Waiter>();
  #worker: Worker | undefined;
  #nextId = 1;

  /**
   * The answer to `question` about a document. Rejects with whatever the work throws; UNAVAILABLE if too many large
   * documents are waiting.
   */
  async ask<Q extends DocumentQuestion>(
    question: Q,
    bytes: Uint8Array,
    ...rest: Rest<Q>
  ): Promise<ReturnType<DocumentWork[Q]>>;
  async ask(question: DocumentQuestion, bytes: Uint8Array, ...rest: readonly unknown[]): Promise<unknown> {
    if (bytes.byteLength < LARGE_BYTES) {
      return Reflect.apply(DOCUMENT_WORK[question], undefined, [bytes, ...rest]);
    }
    if (this.#waiters.size >= MAX_WAITING) {
      throw new OciError('UNAVAILABLE', {
        message: 'too many large documents are being read',
        headers: { 'Retry-After': '5' },
      });
    }
    const request: DocumentRequest = { id: this.#nextId++, question, parameters: [bytes, ...rest] };
    this.#worker ??= this.#start();
    return new Promise((resolve, reject) => {
      this.#waiters.set(request.id, { resolve, reject });
      this.#worker?.ref();
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
      this.#worker?.postMessage(request);
    });
  }

  #start(): Worker {
    const worker = startThread(import.meta.url, 'document-worker');
    worker.on('message', (reply: DocumentReply) => this.#receive(reply));
    worker.on('error', error => this.#end(error));
    worker.on('exit', () => this.#end(new Error('the document thread has exited')));
    return worker;
  }

  #receive(reply: DocumentReply): void {
    const waiter = this.#waiters.get(reply.id);
    this.#waiters.delete(reply.id);
    if (this.#waiters.size === 0) this.#worker?.unref();
    if ('answer' in reply) waiter?.resolve(reply.answer);
    else if ('problem' in reply) waiter?.reject(new OciError(reply.problem.code, reply.problem));
    else waiter?.reject(new Error(`a document could not be read: ${reply.failure}`));
  }

  /** Rejects what is waiting. The next large document starts a new thread. */
  #end(error: Error): void {
    this.#worker = undefined;
    for (const { reject } of this.#waiters.values()) reject(error);
    this.#waiters.clear();
  }
}

/** The one instance of this process. */
export const documents = new Documents();
