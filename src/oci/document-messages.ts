import type { ThreadQuestion } from '../lib/asked-thread.ts';
import type { DOCUMENT_WORK } from './document-work.ts';
import type { OciErrorCode } from './errors.ts';

export type DocumentWork = typeof DOCUMENT_WORK;
export type DocumentQuestion = keyof DocumentWork;

/** A question to the worker about a document. */
export interface DocumentRequest extends ThreadQuestion {
  readonly question: DocumentQuestion;
}

/** The worker's reply. An OciError is sent as its parts, and rebuilt from them by the receiver. */
export type DocumentReply =
  | { readonly id: number; readonly answer: unknown }
  | {
      readonly id: number;
      readonly problem: { readonly code: OciErrorCode; readonly message: string; readonly detail: unknown };
    }
  | { readonly id: number; readonly failure: string };
