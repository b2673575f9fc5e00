/** The worker thread that parses large documents. It does no I/O. */
import { parentPort } from 'node:worker_threads';
import type { DocumentReply, DocumentRequest } from './document-messages.ts';
import { DOCUMENT_WORK } from './document-work.ts';
import { OciError } from './errors.ts';

function answer({ id, question, parameters }: DocumentRequest): DocumentReply {
  try {
    return { id, answer: Reflect.apply(DOCUMENT_WORK[question], undefined, parameters) };
  } catch (error) {
    if (!(error instanceof OciError)) return { id, failure: String(error) };
    const { code, message, detail } = error;
    return { id, problem: { code, message, detail } };
  }
}

parentPort?.on('message', (request: DocumentRequest) => {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(answer(request));
});
