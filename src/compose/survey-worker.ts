/** The survey's thread, which `surveyOf` starts. It loads no more than it needs. */
import { parentPort, workerData } from 'node:worker_threads';
import { openFileStores } from '../blobs/file-stores.ts';
import { silentLog } from '../lib/log.ts';
import { serveSurvey, type SurveyedStores } from '../upkeep/survey-work.ts';
import { openForThread, openSurvey } from './indexes.ts';
import type { SurveyedPlace } from './storage.ts';

async function openStores({ path, index, bucket }: SurveyedPlace): Promise<SurveyedStores> {
  const survey = await openSurvey(index);
  const files = await openFileStores(path, { log: silentLog });
  const blobs =
    bucket === undefined ? files.blobs : (await import('../blobs/s3/s3-stores.ts')).openS3List(bucket);
  return { survey, spool: files.spool, blobs, openRows: () => openForThread(index) };
}

if (parentPort !== null) serveSurvey(parentPort, openStores(workerData));
