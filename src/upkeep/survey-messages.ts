import type { StoreSurvey } from './stores.ts';

/** What the survey's thread is told at its start. */
export interface SurveyPlace {
  readonly indexPath: string;
  readonly storePath: string;
}

export type Question = keyof StoreSurvey;

export interface SurveyRequest {
  readonly id: number;
  readonly question: Question;
  readonly parameters: readonly unknown[];
}

export type SurveyReply =
  | { readonly id: number; readonly answer: unknown }
  | { readonly id: number; readonly failure: string };
