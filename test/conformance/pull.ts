import { createHash } from 'node:crypto';
import { expect } from 'vitest';
import { bytesOf, imageOf, indexOf } from '../support/content.ts';
import { newBlob } from './registry.ts';
import type { Requirement } from './requirement.ts';

const digestIs = (digest: string) => ({ status: 200, headers: { 'Docker-Content-Digest': digest } });

const UNKNOWN_DIGEST = `sha256:${'0'.repeat(64)}`;

export const PULL: readonly Requirement[] = [
  {
    id: 'P1',
    section: 'Determining Support',
    level: 'MUST',
    text: 'GET /v2/ is 200 on a registry that implements the spec',
    check: registry => registry.expect({ path: '/v2/' }, { status: 200 }),
  },
  {
    id: 'P2',
    section: 'Pulling manifests',
    level: 'MUST',
    text: 'GET by tag gives the expected manifest with 200 and its digest in Docker-Content-Digest',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      await registry.expect(
        { path: `/v2/${name}/manifests/v1`, headers: { accept: manifest.mediaType } },
        { status: 200, body: bytesOf(manifest), headers: { 'Docker-Content-Digest': manifest.digest } },
      );
    },
  },
  {
    id: 'P3',
    section: 'Pulling manifests',
    level: 'MUST',
    text: 'GET by digest gives exactly that manifest',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      await registry.expect(
        { path: `/v2/${name}/manifests/${manifest.digest}` },
        { status: 200, body: bytesOf(manifest), headers: { 'Docker-Content-Digest': manifest.digest } },
      );
    },
  },
  {
    id: 'P4',
    section: 'Pulling manifests',
    level: 'SHOULD',
    text: 'Content-Type is what the manifest was pushed with, without parameters',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      await registry.expect(
        { path: `/v2/${name}/manifests/v1` },
        { status: 200, headers: { 'Content-Type': manifest.mediaType } },
      );
    },
  },
  {
    id: 'P5',
    section: 'Pulling manifests',
    level: 'MUST',
    text: 'a manifest that is not in the repository is 404, by tag and by digest',
    async check(registry) {
      const name = registry.repository();
      await registry.pushImage(name, 'v1');
      for (const reference of ['v2', UNKNOWN_DIGEST]) {
        const path = `/v2/${name}/manifests/${reference}`;
        await registry.expect({ path }, { status: 404, code: 'MANIFEST_UNKNOWN' });
        await registry.expect({ method: 'HEAD', path }, { status: 404 });
      }
    },
  },
  {
    id: 'P6',
    section: 'Pulling manifests',
    level: 'MUST',
    text: 'a reference is a tag of at most 128 characters or a digest, and nothing else',
    async check(registry) {
      const name = registry.repository();
      const longest = 't'.repeat(128);
      const { manifest } = await registry.pushImage(name, longest);
      await registry.expect({ path: `/v2/${name}/manifests/${longest}` }, { status: 200 });
      for (const reference of ['t'.repeat(129), '.hidden', '-dash', 'sha256:abc', `md5:${'0'.repeat(32)}`]) {
        await registry.expect({ path: `/v2/${name}/manifests/${reference}` }, { status: [400, 404] });
        await registry.expect(
          {
            method: 'PUT',
            path: `/v2/${name}/manifests/${reference}`,
            headers: { 'content-type': manifest.mediaType },
            body: bytesOf(manifest),
          },
          { status: 400 },
        );
      }
    },
  },
  {
    id: 'P7',
    section: 'Pulling manifests',
    level: 'MUST',
    text: 'a name matches the grammar',
    async check(registry) {
      for (const name of [
        'conformance/Upper',
        'conformance/a..b',
        'conformance/_a',
        'conformance//a',
        'conformance/a%2Fb',
      ]) {
        await registry.expect({ path: `/v2/${name}/manifests/v1` }, { status: [400, 404] });
        await registry.expect({ method: 'POST', path: `/v2/${name}/blobs/uploads/` }, { status: [400, 404] });
      }
    },
  },
  {
    id: 'P8',
    section: 'Pulling blobs',
    level: 'MUST',
    text: 'GET of a blob gives it with 200 and its digest in Docker-Content-Digest',
    async check(registry) {
      const name = registry.repository();
      const blob = newBlob();
      await registry.pushBlob(name, blob);
      await registry.expect(
        { path: `/v2/${name}/blobs/${blob.digest}` },
        { status: 200, body: bytesOf(blob), headers: { 'Docker-Content-Digest': blob.digest } },
      );
    },
  },
  {
    id: 'P9',
    section: 'Pulling blobs',
    level: 'MUST',
    text: 'a blob that is not in the repository is 404, also when another repository has it',
    async check(registry) {
      const name = registry.repository();
      const blob = newBlob();
      await registry.pushImage(name, 'v1');
      await registry.pushBlob(registry.repository(), blob);
      for (const digest of [UNKNOWN_DIGEST, blob.digest]) {
        const path = `/v2/${name}/blobs/${digest}`;
        await registry.expect({ path }, { status: 404, code: 'BLOB_UNKNOWN' });
        await registry.expect({ method: 'HEAD', path }, { status: 404 });
      }
    },
  },
  {
    id: 'P10',
    section: 'Pulling blobs',
    level: 'SHOULD',
    text: 'Range is understood as in RFC 9110',
    async check(registry) {
      const name = registry.repository();
      const blob = newBlob(2048);
      await registry.pushBlob(name, blob);
      const path = `/v2/${name}/blobs/${blob.digest}`;
      const bytes = bytesOf(blob);
      const ranges: readonly [string, number, number][] = [
        ['bytes=500-1499', 500, 1500],
        ['bytes=500-', 500, 2048],
        ['bytes=-500', 1548, 2048],
        ['bytes=2000-5000', 2000, 2048],
      ];
      for (const [range, start, end] of ranges) {
        await registry.expect(
          { path, headers: { range } },
          {
            status: 206,
            body: bytes.subarray(start, end),
            headers: {
              'Content-Range': `bytes ${start}-${end - 1}/2048`,
              'Content-Length': String(end - start),
            },
          },
        );
      }
      await registry.expect({ path, headers: { range: 'bytes=5000-6000' } }, { status: 416 });
    },
  },
  {
    id: 'P11',
    section: 'Checking if content exists in the registry',
    level: 'MUST',
    text: 'HEAD of a manifest is 200 with its digest and its size, by tag and by digest',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      for (const reference of ['v1', manifest.digest]) {
        await registry.expect(
          { method: 'HEAD', path: `/v2/${name}/manifests/${reference}` },
          {
            status: 200,
            body: Buffer.alloc(0),
            headers: { 'Docker-Content-Digest': manifest.digest, 'Content-Length': String(manifest.size) },
          },
        );
      }
    },
  },
  {
    id: 'P12',
    section: 'Checking if content exists in the registry',
    level: 'MUST',
    text: 'HEAD of a blob is 200 with its digest and its size',
    async check(registry) {
      const name = registry.repository();
      const blob = newBlob(1234);
      await registry.pushBlob(name, blob);
      await registry.expect(
        { method: 'HEAD', path: `/v2/${name}/blobs/${blob.digest}` },
        {
          status: 200,
          body: Buffer.alloc(0),
          headers: { 'Docker-Content-Digest': blob.digest, 'Content-Length': '1234' },
        },
      );
    },
  },
  {
    id: 'P13',
    section: 'Pushing Manifests',
    level: 'MUST',
    text: 'pulling from a repository that does not exist is 404',
    async check(registry) {
      const name = registry.repository();
      await registry.expect({ path: `/v2/${name}/manifests/latest` }, { status: 404 });
      await registry.expect({ path: `/v2/${name}/blobs/${UNKNOWN_DIGEST}` }, { status: 404 });
    },
  },
  {
    id: 'P14',
    section: 'Content Digests',
    level: 'SHOULD',
    text: 'a manifest pushed by its sha512 is pulled by it',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name);
      const digest = `sha512:${createHash('sha512').update(bytesOf(manifest)).digest('hex')}`;
      await registry.pushManifest(name, manifest, digest);
      const { headers } = await registry.expect(
        { path: `/v2/${name}/manifests/${digest}` },
        { status: 200, body: bytesOf(manifest) },
      );
      expect(headers['docker-content-digest']).toBe(digest);
    },
  },
  {
    id: 'P15',
    section: 'Pulling manifests',
    level: 'own',
    text: 'a client that accepts no index gets the linux/amd64 image of a tag, and one that asks for a platform gets that',
    async check(registry) {
      const name = registry.repository();
      const amd64 = imageOf([newBlob()]);
      const arm64 = imageOf([newBlob()], { platform: { os: 'linux', architecture: 'arm64' } });
      for (const image of [amd64, arm64]) await registry.pushImage(name, undefined, image);
      const { manifest: index } = indexOf([arm64, amd64]);
      await registry.pushManifest(name, index, 'multi');
      const path = `/v2/${name}/manifests/multi`;
      await registry.expect({ path }, digestIs(index.digest));
      await registry.expect(
        { path, headers: { accept: amd64.manifest.mediaType } },
        digestIs(amd64.manifest.digest),
      );
      await registry.expect({ path: `${path}?platform=linux/arm64` }, digestIs(arm64.manifest.digest));
    },
  },
];
