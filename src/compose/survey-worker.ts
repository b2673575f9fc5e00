/** The survey's thread, which `surveyOf` starts with the path of the store's folder. It loads no more than it needs. */
import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { openFileStores } from '../blobs/file-stores.ts';
import { silentLog } from '../lib/log.ts';
import { Reserve } from '../metadata/reserve.ts';
import { openSqliteMetadataStore } from '../metadata/sqlite-metadata-store.ts';
import { openSqliteSurvey } from '../metadata/sqlite-survey.ts';
import { INDEX_FILE } from '../metadata/store-identity.ts';
import { serveSurvey, type SurveyedStores } from '../upkeep/survey-work.ts';
import type { SurveyedPlace } from './storage.ts';

async function openStores({ path, bucket }: SurveyedPlace): Promise<SurveyedStores> {
  const indexPath = join(path, INDEX_FILE);
  const survey = await openSqliteSurvey(indexPath);
  const files = await openFileStores(path, { log: silentLog });
  const blobs =
    bucket === undefined ? files.blobs : (await import('../blobs/s3/s3-stores.ts')).openS3List(bucket);
  const reserve = new Reserve(indexPath, silentLog);
  const openRows = () => openSqliteMetadataStore(indexPath, { log: silentLog, reserve, isThread: true });
  return { survey, spool: files.spool, blobs, openRows };
}

if (parentPort !== null) serveSurvey(parentPort, openStores(workerData));
