import { join } from 'node:path';
import { surveyOf } from '../compose/storage.ts';
import type { SurveyThread } from './survey-thread.ts';

/** A survey of a store with its index in the folder `path`, in a thread of its own. */
export function surveyOfFolder(path: string): SurveyThread {
  return surveyOf({ path, index: { file: join(path, 'index.db') }, bucket: undefined });
}
