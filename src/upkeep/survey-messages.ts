import type { ThreadQuestion } from '../lib/asked-thread.ts';
import type { OciErrorCode } from '../oci/errors.ts';
import type { RowRemoval, StoreSurvey } from './stores.ts';

/** What the thread does. */
export interface ThreadWork extends StoreSurvey, RowRemoval {
  /** Closes the thread's connections, before it is ended. */
  close(): Promise<void>;
}

export type SurveyQuestion = keyof ThreadWork;

/** A question to the thread. */
export interface SurveyRequest extends ThreadQuestion {
  readonly question: SurveyQuestion;
}

/** The thread's answer, or why there is none. */
export type SurveyReply =
  | { readonly id: number; readonly answer: unknown }
  | ({ readonly id: number } & SurveyFailure);

/** An error of the thread: threads cannot send each other instances of classes. */
export interface SurveyFailure {
  readonly failure: string;
  readonly isLocked: boolean;
  /** Of an OciError: the bucket may be out of reach. */
  readonly code?: OciErrorCode;
  /** The message of its cause. */
  readonly cause?: string | undefined;
  /** Of a call of the system that has failed, such as for a folder that may not be read. */
  readonly system?: { readonly code: string | undefined; readonly syscall: unknown };
}
