import { expect, it, vi } from 'vitest';
import { digestOf } from './digest.ts';
import { documents } from './documents.ts';
import { DOCKER_MANIFEST_LIST, OCI_INDEX, OCI_MANIFEST } from './media-types.ts';
import { narrowToPlatform } from './platform-choice.ts';

const bytes = Buffer.from(
  JSON.stringify({
    schemaVersion: 2,
    manifests: ['amd64', 'arm64'].map(architecture => ({
      mediaType: OCI_MANIFEST,
      digest: digestOf(Buffer.from(architecture)),
      size: 5,
      platform: { os: 'linux', architecture },
    })),
  }),
);
const index = { digest: digestOf(bytes), mediaType: OCI_INDEX, bytes };

it('the child of an index for a platform is computed once for all, for each media type and platform', async () => {
  const ask = vi.spyOn(documents, 'ask');
  const lookup = {
    manifest: async ({ digest }: { digest: typeof index.digest }) => ({
      digest,
      mediaType: OCI_MANIFEST,
      bytes: new Uint8Array(),
    }),
    config: async () => undefined,
  };
  const choose = (architecture: string, mediaType = OCI_INDEX) =>
    narrowToPlatform(
      { ...index, mediaType },
      { accepts: () => true, platform: `linux/${architecture}` },
      lookup,
    );
  const chosen = await Promise.all(Array.from({ length: 20 }, () => choose('arm64')));
  await choose('arm64');
  expect(new Set(chosen.map(({ digest }) => digest))).toEqual(new Set([digestOf(Buffer.from('arm64'))]));
  expect(ask).toHaveBeenCalledTimes(1);
  await choose('amd64');
  await choose('amd64', DOCKER_MANIFEST_LIST);
  expect(ask).toHaveBeenCalledTimes(3);
});
