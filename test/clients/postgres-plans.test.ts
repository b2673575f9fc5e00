// How PostgreSQL carries out what is asked of a large index: nothing that a request or a step of upkeep does reads a table.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { silentLog } from '../../src/lib/log.ts';
import type { Content, MetadataStore } from '../../src/metadata/metadata-store.ts';
import { image } from '../../src/metadata/metadata-store.suite.ts';
import { openPostgresMetadataStore } from '../../src/metadata/postgres-metadata-store.ts';
import { openPostgresSurvey } from '../../src/metadata/postgres-survey.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { everything, type Survey } from '../../src/metadata/survey.ts';
import { fillPostgres } from '../support/large-postgres.ts';
import { HAS_POSTGRES, Postgres, sql } from '../support/postgres.ts';
import { until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const LARGE = ['blobs', 'links', 'manifests', 'readings', 'reading_references', 'tags'];
const PAGE = { limit: 100, after: undefined };
const HOSTED = { upstream: '', name: 'team/app' };
const MIRRORED = { upstream: 'up.example', name: 'app' };
const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';

describe.skipIf(!HAS_POSTGRES)('a large index in PostgreSQL', () => {
  let postgres: Postgres;
  let settings: PostgresSettings;
  let path: string;
  let store: MetadataStore;
  let survey: Survey & { close(): Promise<void> };

  beforeAll(async () => {
    // Plans of all statements, also of those within triggers.
    const parameters = {
      session_preload_libraries: 'auto_explain',
      'auto_explain.log_min_duration': '0',
      'auto_explain.log_nested_statements': 'on',
    };
    postgres = await Postgres.start({ parameters });
    settings = postgres.settings();
    path = await makeTempFolder('plans');
    await fillPostgres(settings, {
      path,
      repositories: [HOSTED, MIRRORED],
      tags: 30_000,
      blobsPerManifest: 2,
      blobBytes: 1_000,
      garbage: 4_000,
      manifestType: MANIFEST_TYPE,
    });
    store = await openPostgresMetadataStore(settings, { log: silentLog, folder: { path, id: 'bench' } });
    survey = await openPostgresSurvey(settings);
  });

  afterAll(async () => {
    await survey.close();
    await store.close();
    await postgres.remove();
    await removeFolder(path);
  });

  /** The large tables that `act` has made the database read as a whole. */
  async function tablesReadBy(act: () => Promise<unknown>): Promise<readonly string[]> {
    const before = postgres.daemon.logs().length;
    await act();
    const mark = `mark ${before}`;
    await sql(settings, `SELECT '${mark}'`);
    await until('the log', 20_000, async () => postgres.daemon.logs().includes(mark));
    const log = postgres.daemon.logs().slice(before);
    expect(log).toMatch(/Index (?:Only )?Scan/);
    return [...new Set([...log.matchAll(/Seq Scan on (\w+)/g)].map(([, table = '']) => table))].filter(
      table => LARGE.includes(table),
    );
  }

  const laterMs = () => Date.now() + 3_600_000;
  /** Some that may be evicted: pages without any come first. */
  async function evictable(): Promise<readonly Content[]> {
    for await (const page of everything(after => survey.evictable(laterMs(), after))) {
      if (page.length >= 20) return page.slice(0, 20);
    }
    throw new Error('nothing may be evicted');
  }

  test('pulls and pushes look up rows', async () => {
    const { manifest, view, blobs } = image('pushed');
    const read = await tablesReadBy(async () => {
      const query = { credentialIds: ['', 'c'], grantees: ['', 'tenant:a'] };
      const { manifest: tagged } = await store.readForPull(MIRRORED, 'v1', query);
      if (tagged === undefined) throw new Error('no v1');
      await store.readForPull(MIRRORED, tagged.digest, query);
      const [blob] = blobs;
      await store.readBlobForPull(HOSTED, blob!.digest, query);
      await store.namedSize(HOSTED, blob!.digest);
      for (const { digest, size } of blobs) await store.putBlob(digest, size, HOSTED);
      const required = blobs.map(({ digest, size }) => ({ digest, size }));
      await store.putManifest(HOSTED, manifest, view, { tag: 'new', atMs: Date.now(), required });
      await store.readUsage('team', HOSTED, { digest: manifest.digest, tags: ['new', 'newer'] });
      await store.listReferrers(HOSTED, manifest.digest, 'sig', PAGE);
      await store.listTags(HOSTED, PAGE);
      await store.listTags(HOSTED, { ...PAGE, after: 'v2' });
      await store.listTagsOf(HOSTED, manifest.digest, PAGE);
      await store.putGrant(MIRRORED, { credentialId: 'c', verifiedAtMs: 1 });
      store.noteUse(manifest.digest);
      await store.writeUses();
      await store.unlinkManifest(HOSTED, manifest.digest);
      await store.readTotals();
    });
    expect(read).toEqual([]);
  });

  test.each<[string, () => Promise<unknown>]>([
    ['idle Links', () => survey.idleLinks(laterMs())],
    ['later Links', () => survey.laterLinks(laterMs())],
    ['unneeded blobs', () => survey.unneeded('blob', laterMs())],
    ['unneeded manifests', () => survey.unneeded('manifest', laterMs())],
    ['unnamed blobs', () => survey.unnamedBlobs(laterMs())],
    ['unlinked blobs', () => survey.unlinked('blob', laterMs())],
    ['what may be evicted', () => survey.evictable(laterMs())],
    ['tags', () => survey.tags()],
    ['images without tags', () => survey.untagged()],
    ['blobs', () => survey.blobs()],
    ['what is linked', () => survey.linked(MIRRORED)],
    ['an image', async () => survey.image(MIRRORED, (await store.readTag(MIRRORED, 'v1'))!.digest, 'v1')],
  ])('a page of a survey reads rows in the order of an index: %s', async (_, ask) => {
    expect(await tablesReadBy(ask)).toEqual([]);
  });

  test('removals look up what they remove, and what keeps it', async () => {
    const contents = await evictable();
    const garbage = (await survey.unnamedBlobs(laterMs())).entries.slice(0, 20);
    const links = contents.map(({ digest }) => ({ repository: HOSTED, digest }));
    const read = await tablesReadBy(async () => {
      await store.removeUnneeded(garbage, laterMs());
      await store.removeUnlinked(contents, laterMs());
      await store.expireLinks(links, laterMs());
      expect(await store.evict(contents, laterMs())).toHaveLength(20);
      const digests = garbage.map(({ digest }) => digest);
      expect(await store.ifStray(digests, () => {})).toHaveLength(20);
      await store.quarantine(contents[0]!, 'wrong');
      await store.removeRepository(HOSTED);
    });
    expect(read).toEqual([]);
  });
});
