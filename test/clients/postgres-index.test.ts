import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe } from 'vitest';
import { silentLog } from '../../src/lib/log.ts';
import { metadataStoreSuite } from '../../src/metadata/metadata-store.suite.ts';
import { outboxSuite } from '../../src/metadata/outbox.suite.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { openPostgresMetadataStore } from '../../src/metadata/postgres-metadata-store.ts';
import { openPostgresSurvey } from '../../src/metadata/postgres-survey.ts';
import { surveySuite } from '../../src/metadata/survey.suite.ts';
import { emptyIndex, HAS_PGBOUNCER, HAS_POSTGRES, PgBouncer, Postgres } from '../support/postgres.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

let postgres: Postgres;
let bouncer: PgBouncer | undefined;

beforeAll(async () => {
  if (!HAS_POSTGRES) return;
  postgres = await Postgres.start();
  if (HAS_PGBOUNCER) bouncer = await PgBouncer.start(postgres);
});

afterAll(async () => {
  await bouncer?.remove();
  if (HAS_POSTGRES) await postgres.remove();
});

const unused: PostgresSettings[] = [];

/** An index of its own, which may be one that an earlier test has left. */
async function makePlace({ port }: { readonly port: number }) {
  const settings = unused.pop() ?? postgres.settings();
  const path = await makeTempFolder('index');
  const at = { ...settings, port };
  const open = () => openPostgresMetadataStore(at, { log: silentLog, folder: { path, id: 'folder' } });
  return {
    open,
    openSurvey: () => openPostgresSurvey(at),
    passSecond: () => delay(200),
    remove: async () => {
      await emptyIndex(settings);
      unused.push(settings);
      await removeFolder(path);
    },
  };
}

describe.skipIf(!HAS_POSTGRES)('an index in PostgreSQL', () => {
  metadataStoreSuite(() => makePlace(postgres));

  outboxSuite(() => makePlace(postgres));

  surveySuite(async () => {
    const place = await makePlace(postgres);
    const store = await place.open();
    const survey = await place.openSurvey();
    const remove = async () => {
      await survey.close();
      await store.close();
      await place.remove();
    };
    return { store, survey, remove };
  });
});

describe.skipIf(!HAS_PGBOUNCER)('an index in PostgreSQL, through pgbouncer in transaction mode', () => {
  metadataStoreSuite(() => makePlace({ port: bouncer?.port ?? 0 }));
});
