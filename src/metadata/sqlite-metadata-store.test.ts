import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { digestOf } from '../oci/digest.ts';
import { openSqliteMetadataStore } from './sqlite-metadata-store.ts';

test('smoke', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'index-'));
  const store = await openSqliteMetadataStore(join(folder, 'index.db'), { log: silentLog });
  const r = { upstream: 'docker.io', name: 'library/nginx' };
  const bytes = Buffer.from('{}');
  const digest = digestOf(bytes);
  const view = {
    kind: 'manifest',
    mediaType: 'a/b',
    manifests: [],
    blobs: [{ digest: digestOf(Buffer.from('l')), size: 1, mediaType: 'x/y' }],
    subject: undefined,
    artifactType: undefined,
    annotations: {},
  } as const;
  await store.putManifest(r, { digest, mediaType: 'a/b', bytes }, view, { tag: 'latest', atMs: 1 });
  expect((await store.readTagged(r, 'latest'))?.manifest?.mediaType).toBe('a/b');
  expect(await store.namedSize(r, digestOf(Buffer.from('l')))).toBe(1);
  expect(await store.listTags(r, { limit: 5, after: undefined })).toEqual({
    entries: ['latest'],
    more: false,
  });
  expect(await store.claim('x')).toBe(true);
  expect(await store.claim('x')).toBe(false);
  console.log(await store.readTotals());
  await store.unlinkManifest(r, digest);
  expect(await store.hasRepository(r)).toBe(false);
  console.log(await store.readTotals());
  await store.close();
  await rm(folder, { recursive: true });
});
