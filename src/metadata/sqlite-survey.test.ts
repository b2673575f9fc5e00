import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLog } from '../lib/log.ts';
import { openSqliteMetadataStore } from './sqlite-metadata-store.ts';
import { openSqliteSurvey } from './sqlite-survey.ts';
import { surveySuite } from './survey.suite.ts';

surveySuite(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'entrepot-survey-'));
  const path = join(folder, 'index.db');
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const survey = await openSqliteSurvey(path);
  const remove = async () => {
    survey.close();
    await store.close();
    await rm(folder, { recursive: true });
  };
  return { store, survey, remove };
});
