import { AskedThread } from '../lib/asked-thread.ts';
import { startThread } from '../lib/thread.ts';
import type { DocumentQuestion, DocumentReply, DocumentWork } from './document-messages.ts';
import { DOCUMENT_WORK } from './document-work.ts';
import { OciError } from './errors.ts';

/** A document of this size takes about a millisecond; nearly all are smaller. */
const LARGE_BYTES = 64 * 1024;
/** The slowest document takes half a second, and clients wait for 20 s. */
const MAX_WAITING = 32;

type Rest<Q extends DocumentQuestion> =
  Parameters<DocumentWork[Q]> extends [Uint8Array, ...infer R] ? R : never;

/**
 * Reads documents that come from outside: small ones directly, large ones in a worker thread, one after the other,
 * since a manifest of 4 MiB can block the event loop for half a second. The thread starts with the first large document.
 */
class Documents {
  readonly #thread = new AskedThread<DocumentReply>({
    name: 'the document thread',
    start: () => startThread(import.meta.url, 'document-worker'),
    read,
  });

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
    if (this.#thread.waiting >= MAX_WAITING) {
      throw new OciError('UNAVAILABLE', {
        message: 'too many large documents are being read',
        headers: { 'Retry-After': '5' },
      });
    }
    return this.#thread.ask(question, [bytes, ...rest]);
  }
}

function read(reply: DocumentReply): unknown {
  if ('answer' in reply) return reply.answer;
  if ('problem' in reply) throw new OciError(reply.problem.code, reply.problem);
  throw new Error(`a document could not be read: ${reply.failure}`);
}

/** The one instance of this process. */
export const documents = new Documents();
