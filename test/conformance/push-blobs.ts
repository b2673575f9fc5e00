import { createHash } from 'node:crypto';
import { expect } from 'vitest';
import { bytesOf, contentOf } from '../support/content.ts';
import { newBlob, type Registry, withDigest } from './registry.ts';
import type { Requirement } from './requirement.ts';

const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/;
const UNKNOWN_UPLOAD = '6ba7b810-9dad-41d1-80b4-00c04fd430c8';

/** What every successful push of a blob must come to. */
async function expectPullable(registry: Registry, location: string | undefined, body: Buffer): Promise<void> {
  expect(location).toBeDefined();
  await registry.expect({ path: location ?? '' }, { status: 200, body });
}

function chunk(location: string, bytes: Buffer, start: number, method: 'PATCH' | 'PUT' = 'PATCH') {
  const headers = {
    'content-type': 'application/octet-stream',
    'content-range': `${start}-${start + bytes.length - 1}`,
    'content-length': bytes.length,
  };
  return { method, path: location, headers, body: bytes };
}

export const PUSH_BLOBS: readonly Requirement[] = [
  {
    id: 'B1',
    section: 'POST then PUT',
    level: 'MUST',
    text: 'POST begins an upload: 202 with a Location that holds a UUID',
    check: registry =>
      registry.expect(
        { method: 'POST', path: `/v2/${registry.repository()}/blobs/uploads/` },
        { status: 202, headers: { Location: UUID } },
      ),
  },
  {
    id: 'B2',
    section: 'POST then PUT',
    level: 'MUST',
    text: 'PUT to that Location is 201 with the Location of a pullable blob',
    async check(registry) {
      const blob = newBlob();
      const location = await registry.beginUpload(registry.repository());
      const { headers } = await registry.expect(
        { method: 'PUT', path: withDigest(location, blob.digest), body: bytesOf(blob) },
        { status: 201, headers: { 'Docker-Content-Digest': blob.digest } },
      );
      await expectPullable(registry, headers.location, bytesOf(blob));
    },
  },
  {
    id: 'B3',
    section: 'Single POST',
    level: 'MAY',
    text: 'a single POST with ?digest= is 201 with the Location of a pullable blob',
    async check(registry) {
      const blob = newBlob();
      const { headers } = await registry.expect(
        {
          method: 'POST',
          path: `/v2/${registry.repository()}/blobs/uploads/?digest=${blob.digest}`,
          body: bytesOf(blob),
        },
        { status: 201 },
      );
      await expectPullable(registry, headers.location, bytesOf(blob));
    },
  },
  {
    id: 'B4',
    section: 'Single POST',
    level: 'MUST',
    text: 'the digest matches the content, else 400, and nothing is there',
    async check(registry) {
      const name = registry.repository();
      const [blob, other] = [newBlob(), newBlob()];
      const wrong = { status: 400, code: 'DIGEST_INVALID' };
      const path = `/v2/${name}/blobs/uploads/`;
      await registry.expect(
        { method: 'POST', path: withDigest(path, other.digest), body: bytesOf(blob) },
        wrong,
      );
      const location = await registry.beginUpload(name);
      await registry.expect(
        { method: 'PUT', path: withDigest(location, other.digest), body: bytesOf(blob) },
        wrong,
      );
      for (const { digest } of [blob, other]) {
        await registry.expect({ path: `/v2/${name}/blobs/${digest}` }, { status: 404 });
      }
    },
  },
  {
    id: 'B5',
    section: 'Pushing blobs',
    level: 'SHOULD',
    text: 'an invalid digest, or one of an unsupported algorithm, is 400',
    async check(registry) {
      const name = registry.repository();
      const location = await registry.beginUpload(name);
      for (const digest of [
        'sha256:short',
        'nonsense',
        `md5:${'0'.repeat(32)}`,
        'sha256:../../etc/passwd',
        '',
      ]) {
        await registry.expect(
          { method: 'PUT', path: withDigest(location, digest) },
          { status: 400, code: 'DIGEST_INVALID' },
        );
        if (digest === '') continue;
        const path = withDigest(`/v2/${name}/blobs/uploads/`, digest);
        await registry.expect({ method: 'POST', path, body: 'x' }, { status: 400, code: 'DIGEST_INVALID' });
      }
      const path = `/v2/${name}/blobs/uploads/?digest-algorithm=md5`;
      await registry.expect({ method: 'POST', path }, { status: 400 });
      await registry.expect({ path: location }, { status: 204 });
    },
  },
  {
    id: 'B6',
    section: 'Pushing a blob in chunks',
    level: 'MUST',
    text: 'each chunk in order is 202 with Location and the Range so far; PUT without a body closes',
    async check(registry) {
      const blob = newBlob(3000);
      const bytes = bytesOf(blob);
      let location = await registry.beginUpload(registry.repository());
      for (const [start, end] of [
        [0, 1000],
        [1000, 2500],
        [2500, 3000],
      ] as const) {
        const { headers } = await registry.expect(chunk(location, bytes.subarray(start, end), start), {
          status: 202,
          headers: { Range: `0-${end - 1}`, Location: UUID },
        });
        location = headers.location ?? '';
      }
      const { headers } = await registry.expect(
        { method: 'PUT', path: withDigest(location, blob.digest) },
        { status: 201 },
      );
      await expectPullable(registry, headers.location, bytes);
    },
  },
  {
    id: 'B7',
    section: 'Pushing a blob in chunks',
    level: 'MUST',
    text: 'the final chunk may come with the PUT',
    async check(registry) {
      const blob = newBlob(3000);
      const bytes = bytesOf(blob);
      const location = await registry.beginUpload(registry.repository());
      await registry.expect(chunk(location, bytes.subarray(0, 2000), 0), { status: 202 });
      const last = chunk(withDigest(location, blob.digest), bytes.subarray(2000), 2000, 'PUT');
      const { headers } = await registry.expect(last, { status: 201 });
      await expectPullable(registry, headers.location, bytes);
    },
  },
  {
    id: 'B8',
    section: 'Pushing a blob in chunks',
    level: 'MUST',
    text: 'a chunk out of order is 416, in PATCH and in PUT, and changes nothing',
    async check(registry) {
      const blob = newBlob(3000);
      const bytes = bytesOf(blob);
      const location = await registry.beginUpload(registry.repository());
      await registry.expect(chunk(location, bytes.subarray(1000, 2000), 1000), { status: 416 });
      await registry.expect(chunk(location, bytes.subarray(0, 1000), 0), { status: 202 });
      const outOfOrder = { status: 416, headers: { Range: '0-999', Location: UUID } };
      await registry.expect(chunk(location, bytes.subarray(2000), 2000), outOfOrder);
      await registry.expect(chunk(location, bytes.subarray(0, 1000), 0), outOfOrder);
      await registry.expect(
        chunk(withDigest(location, blob.digest), bytes.subarray(2000), 2000, 'PUT'),
        outOfOrder,
      );
      await registry.expect({ path: location }, { status: 204, headers: { Range: '0-999' } });
      const rest = chunk(withDigest(location, blob.digest), bytes.subarray(1000), 1000, 'PUT');
      const { headers } = await registry.expect(rest, { status: 201 });
      await expectPullable(registry, headers.location, bytes);
    },
  },
  {
    id: 'B9',
    section: 'Pushing a blob in chunks',
    level: 'MUST',
    text: 'GET of an upload is 204 with Location and Range',
    async check(registry) {
      const location = await registry.beginUpload(registry.repository());
      await registry.expect(chunk(location, Buffer.alloc(777), 0), { status: 202 });
      await registry.expect({ path: location }, { status: 204, headers: { Location: UUID, Range: '0-776' } });
    },
  },
  {
    id: 'B10',
    section: 'Pushing a blob in chunks',
    level: 'MUST',
    text: 'before its PUT an upload is no blob',
    async check(registry) {
      const name = registry.repository();
      const blob = newBlob();
      const location = await registry.beginUpload(name);
      await registry.expect(chunk(location, bytesOf(blob), 0), { status: 202 });
      await registry.expect({ method: 'HEAD', path: `/v2/${name}/blobs/${blob.digest}` }, { status: 404 });
    },
  },
  {
    id: 'B11',
    section: 'Pushing a blob in chunks',
    level: 'MAY',
    text: 'a PATCH without Content-Range and Content-Length streams',
    async check(registry) {
      const blob = newBlob(200_000);
      const location = await registry.beginUpload(registry.repository());
      await registry.expect(
        { method: 'PATCH', path: location, body: bytesOf(blob), streamed: true },
        { status: 202, headers: { Range: '0-199999' } },
      );
      const { headers } = await registry.expect(
        { method: 'PUT', path: withDigest(location, blob.digest) },
        { status: 201 },
      );
      await expectPullable(registry, headers.location, bytesOf(blob));
    },
  },
  {
    id: 'B12',
    section: 'Pushing a blob in chunks',
    level: 'SHOULD',
    text: 'OCI-Chunk-Min-Length, if it is sent, is a number of bytes',
    check: registry =>
      registry.expect(
        { method: 'POST', path: `/v2/${registry.repository()}/blobs/uploads/` },
        { status: 202, headers: { 'OCI-Chunk-Min-Length': /^[0-9]+$/ } },
      ),
  },
  {
    id: 'B13',
    section: 'Pushing a blob in chunks',
    level: 'SHOULD',
    text: 'another algorithm than sha256 works, announced or not',
    async check(registry) {
      for (const query of ['?digest-algorithm=sha512', '']) {
        const blob = newBlob();
        const bytes = bytesOf(blob);
        const digest = `sha512:${createHash('sha512').update(bytes).digest('hex')}`;
        const location = await registry.beginUpload(registry.repository(), query);
        await registry.expect(chunk(location, bytes, 0), { status: 202 });
        const { headers } = await registry.expect(
          { method: 'PUT', path: withDigest(location, digest) },
          { status: 201 },
        );
        await expectPullable(registry, headers.location, bytes);
      }
    },
  },
  {
    id: 'B14',
    section: 'Cancel a blob upload',
    level: 'SHOULD',
    text: 'DELETE of an upload is 204, and then it is gone',
    async check(registry) {
      const blob = newBlob();
      const location = await registry.beginUpload(registry.repository());
      await registry.expect(chunk(location, bytesOf(blob), 0), { status: 202 });
      await registry.expect({ method: 'DELETE', path: location }, { status: 204 });
      const gone = { status: 404, code: 'BLOB_UPLOAD_UNKNOWN' };
      await registry.expect({ path: location }, gone);
      await registry.expect(chunk(location, bytesOf(blob), 0), gone);
      await registry.expect({ method: 'PUT', path: withDigest(location, blob.digest) }, gone);
      await registry.expect({ method: 'DELETE', path: location }, gone);
    },
  },
  {
    id: 'B15',
    section: 'Mounting a blob from another repository',
    level: 'MUST',
    text: 'a mount is 201 with the Location of a pullable blob',
    async check(registry) {
      const [source, target] = [registry.repository(), registry.repository()];
      const blob = newBlob();
      await registry.pushBlob(source, blob);
      const { headers } = await registry.expect(
        { method: 'POST', path: `/v2/${target}/blobs/uploads/?mount=${blob.digest}&from=${source}` },
        { status: 201, headers: { 'Docker-Content-Digest': blob.digest } },
      );
      expect(headers.location).toContain(target);
      await expectPullable(registry, headers.location, bytesOf(blob));
    },
  },
  {
    id: 'B16',
    section: 'Mounting a blob from another repository',
    level: 'SHOULD',
    text: 'what cannot be mounted is 202, and the upload can proceed',
    async check(registry) {
      const [source, target, unknown] = [registry.repository(), registry.repository(), registry.repository()];
      const blob = newBlob();
      await registry.pushBlob(source, newBlob());
      for (const from of [`&from=${source}`, `&from=${unknown}`, '&from=No/Name', '']) {
        const { headers } = await registry.expect(
          { method: 'POST', path: `/v2/${target}/blobs/uploads/?mount=${blob.digest}${from}` },
          { status: 202, headers: { Location: UUID } },
        );
        const path = withDigest(headers.location ?? '', blob.digest);
        await registry.expect({ method: 'PUT', path, body: bytesOf(blob) }, { status: 201 });
        await registry.expect(
          { method: 'DELETE', path: `/v2/${target}/blobs/${blob.digest}` },
          { status: 202 },
        );
      }
    },
  },
  {
    id: 'B17',
    section: 'Pushing blobs',
    level: 'MUST',
    text: "an upload that is not known, or is another repository's, is 404 and changes nothing",
    async check(registry) {
      const [name, other] = [registry.repository(), registry.repository()];
      const location = await registry.beginUpload(name);
      for (const path of [
        `/v2/${name}/blobs/uploads/${UNKNOWN_UPLOAD}`,
        `/v2/${name}/blobs/uploads/..%2F..%2Findex.db`,
        location.replace(name, other),
      ]) {
        for (const method of ['GET', 'PATCH', 'DELETE'] as const) {
          await registry.expect({ method, path }, { status: 404, code: 'BLOB_UPLOAD_UNKNOWN' });
        }
        const digest = newBlob().digest;
        await registry.expect({ method: 'PUT', path: withDigest(path, digest) }, { status: 404 });
      }
      await registry.expect({ path: location }, { status: 204 });
    },
  },
  {
    id: 'B18',
    section: 'Pushing a blob in chunks',
    level: 'own',
    text: 'a chunk whose length and Content-Range differ is refused and leaves no trace',
    async check(registry) {
      const location = await registry.beginUpload(registry.repository());
      const sized = { status: 400, code: 'SIZE_INVALID' };
      const range = (text: string) => ({
        method: 'PATCH' as const,
        path: location,
        headers: { 'content-range': text },
      });
      await registry.expect({ ...range('0-99'), body: Buffer.alloc(50) }, sized);
      await registry.expect({ ...range('0-99'), body: Buffer.alloc(150), streamed: true }, sized);
      await registry.expect({ ...range('0-99'), body: Buffer.alloc(50), streamed: true }, sized);
      for (const text of ['0', '9-0', '-5', 'a-b', '0-99-3']) {
        await registry.expect(
          { ...range(text), body: Buffer.alloc(100) },
          { status: 400, code: 'BLOB_UPLOAD_INVALID' },
        );
      }
      await registry.expect(chunk(location, Buffer.alloc(10), 0), { status: 202, headers: { Range: '0-9' } });
    },
  },
  {
    id: 'B19',
    section: 'Pushing blobs',
    level: 'own',
    text: 'the empty blob is a blob',
    async check(registry) {
      const name = registry.repository();
      const empty = contentOf('', 'application/octet-stream');
      await registry.pushBlob(name, empty);
      await registry.expect(
        { path: `/v2/${name}/blobs/${empty.digest}` },
        { status: 200, headers: { 'Content-Length': '0' }, body: Buffer.alloc(0) },
      );
    },
  },
  {
    id: 'B20',
    section: 'Layer Upload De-duplication',
    level: 'own',
    text: 'clients that push the same blob at the same time all succeed',
    async check(registry) {
      const blob = newBlob(300_000);
      const names = [registry.repository(), registry.repository()];
      await Promise.all([...names, ...names, ...names].map(name => registry.pushBlob(name, blob)));
      for (const name of names)
        await expectPullable(registry, `/v2/${name}/blobs/${blob.digest}`, bytesOf(blob));
    },
  },
];
