// `entrepot migrate` between a folder with SQLite and a bucket with a real PostgreSQL.
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FakeS3 } from '../support/fake-s3.ts';
import { inBucket, MovedStore, type Place } from '../support/moved-store.ts';
import { HAS_POSTGRES, inConfig, Postgres, sql } from '../support/postgres.ts';
import { runCommand } from '../support/run-command.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

describe.skipIf(!HAS_POSTGRES)('a store that is moved', () => {
  let postgres: Postgres;
  let s3: FakeS3;
  let folder: string;

  beforeAll(async () => {
    postgres = await Postgres.start();
    s3 = await FakeS3.start();
    folder = await makeTempFolder('moved');
  });

  afterAll(async () => {
    await postgres.remove();
    await s3.close();
    await removeFolder(folder);
  });

  test('answers the same in each place: from a folder to PostgreSQL, on to a bucket, and back', async () => {
    const path = (name: string) => ({ path: join(folder, name) });
    const database = () => ({ postgres: inConfig(postgres.settings()) });
    const places: Place[] = [
      { storage: path('folder') },
      { storage: path('database'), index: database() },
      { storage: { ...path('both'), s3: await inBucket(s3, folder, 'both/') }, index: database() },
      { storage: { ...path('bucket'), s3: await inBucket(s3, folder, 'bucket/') } },
      { storage: { ...path('again'), s3: await inBucket(s3, folder, 'again/') }, index: database() },
      { storage: path('back') },
    ];
    const [first = { storage: path('folder') }] = places;
    const store = await MovedStore.make(first, folder);
    const files = await Promise.all(places.map((place, at) => store.configFile(place, folder, `${at}.yaml`)));
    const answers = [await answersIn(store, first)];
    for (const [at, place] of places.slice(1).entries()) {
      const moved = await runCommand('migrate', files[at + 1] ?? '', '--config', files[at] ?? '');
      expect(moved).toMatchObject({ code: 0, stdout: expect.stringContaining('is complete') });
      answers.push(await answersIn(store, place));
    }
    for (const answer of answers) expect(answer).toEqual(answers[0]);
  });

  test.each(['folder', 'bucket'])(
    'that has lost its database gets its blobs back from its %s',
    async where => {
      const settings = postgres.settings();
      const s3Section = where === 'bucket' ? { s3: await inBucket(s3, folder, 'lost/') } : {};
      const place: Place = {
        storage: { path: join(folder, `lost ${where}`), ...s3Section },
        index: { postgres: inConfig(settings) },
      };
      const store = await MovedStore.make(place, folder);
      const file = await store.configFile(place, folder, 'lost.yaml');
      const blobs = await sql(settings, 'SELECT digest FROM @blobs');
      await sql(settings, `DROP SCHEMA "${settings.schema}" CASCADE`);
      const rebuilt = await runCommand('rebuild', '--json', '--config', file);
      expect(rebuilt.code).toBe(0);
      const [summary] = rebuilt.stdout.trim().split('\n').slice(-1);
      expect(JSON.parse(summary ?? '')).toMatchObject({ event: 'summary', added: blobs.length, damaged: 0 });
      expect(await sql(settings, 'SELECT digest FROM @blobs')).toHaveLength(blobs.length);
      expect((await runCommand('gc', '--config', file)).stderr).toContain('was rebuilt');
    },
  );

  async function answersIn(store: MovedStore, place: Place): Promise<unknown> {
    const entrepot = await store.serve(place, folder);
    try {
      return await store.answersOf(entrepot);
    } finally {
      await entrepot.stop();
    }
  }
});
