import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import type { BlobStore } from '../blobs/blob-store.ts';
import { type FileStores, openFileStores } from '../blobs/file-stores.ts';
import type { Spool } from '../blobs/spool.ts';
import { silentLog } from '../lib/log.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { MemoryIndex } from '../metadata/memory-metadata-store.fixture.ts';
import type { SurveyedManifest } from '../metadata/survey.ts';
import { digestOf } from '../oci/digest.ts';
import { OCI_CONFIG, OCI_MANIFEST } from '../oci/media-types.ts';
import { heldImage, heldImages } from './images.ts';

let folder: string;
let files: FileStores;
let spool: Spool;
let blobs: BlobStore;

beforeEach(async () => {
  folder = await makeTempFolder('images');
  files = await openFileStores(folder, { log: silentLog });
  ({ spool, blobs } = files);
});

afterEach(async () => {
  await files.close();
  await removeFolder(folder);
});

/** What the survey says of a manifest that has this config and nothing else. */
async function surveyed(config: string): Promise<SurveyedManifest> {
  const bytes = Buffer.from(config);
  const digest = digestOf(bytes);
  const ingest = await spool.ingest(steadyLease('config'), { digest });
  await ingest.write([bytes]);
  await blobs.put(digest, ingest);
  await ingest.close();
  return {
    digest: digestOf(Buffer.from(`manifest of ${config}`)),
    isHeld: true,
    isDamaged: false,
    isShared: false,
    size: 100,
    mediaType: OCI_MANIFEST,
    usedAtMs: 0,
    children: [],
    blobs: [
      {
        digest,
        size: bytes.length,
        mediaType: OCI_CONFIG,
        isConfig: true,
        isHeld: true,
        isShared: false,
        isDamaged: false,
        usedAtMs: 0,
      },
    ],
  };
}

describe('an image outside an index', () => {
  test.each([
    ['has the platform of its config', '{"os":"linux","architecture":"arm","variant":"v7"}', 'linux/arm/v7'],
    ['has none when its config is empty', '{}', undefined],
    [
      'has none when its config names nothing, as a signature of cosign',
      '{"architecture":"","os":""}',
      undefined,
    ],
    ['has none when its config is no JSON', 'hello', undefined],
  ])('%s', async (_, config, platform) => {
    const image = await heldImage([await surveyed(config)], blobs);
    expect(image.platforms).toMatchObject([{ platform, isComplete: true }]);
  });
});

test('timers and signals get their turn between images, of whatever they consist', async () => {
  const index = new MemoryIndex();
  const repository = { upstream: '', name: 'team/app' };
  const digest = digestOf(Buffer.from('an index'));
  for (const tag of ['a', 'b', 'c']) await index.open().putTag(repository, tag, { digest, checkedAtMs: 1 });
  const turns: string[] = [];
  const turnsBefore: Record<string, readonly string[]> = {};
  for await (const { tag = '' } of heldImages(index.survey(), blobs)) {
    turnsBefore[tag] = [...turns];
    setImmediate(() => void turns.push(tag));
  }
  expect(turnsBefore).toEqual({ a: [], b: ['a'], c: ['a', 'b'] });
});
