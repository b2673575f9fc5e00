import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  bytesOf,
  type Content,
  contentOf,
  descriptorOf,
  imageOf,
  randomBlob,
  readAs,
} from '../../test/support/content.ts';
import { DURING, HostedBench, RIGHT } from '../../test/support/hosted-bench.ts';
import { MemoryBudget } from '../lib/memory-budget.ts';
import { digestOf } from '../oci/digest.ts';
import { parseManifest } from '../oci/manifest.ts';
import { DOCKER_SCHEMA1, OCI_ARTIFACT_MANIFEST, OCI_INDEX, OCI_MANIFEST } from '../oci/media-types.ts';
import { Publication } from './publication.ts';

const repository = { upstream: '', name: 'team/app' };
const elsewhere = { upstream: '', name: 'team/other' };
const everything = { accepts: () => true, platform: undefined };

let bench: HostedBench;

beforeEach(async () => {
  bench = await HostedBench.open(undefined, { hasMemoryIndex: true });
});

afterEach(() => bench.remove());

function indexOver(...children: readonly Content[]): Content {
  const manifests = children.map(descriptorOf);
  return contentOf(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }), OCI_INDEX);
}

describe('pushing a manifest', () => {
  it('is refused, with nothing changed, while its content is only in another repository', async () => {
    const image = imageOf([randomBlob(100, 'a'), randomBlob(100, 'b')]);
    await bench.pushImage(elsewhere, image);
    const [layer] = image.layers;
    if (layer !== undefined) await bench.pushBlob(repository, layer);
    await expect(bench.pushManifest(repository, image.manifest, 'v1')).rejects.toMatchObject({
      code: 'MANIFEST_BLOB_UNKNOWN',
      detail: { digests: [image.config.digest, image.layers[1]?.digest] },
    });
    await expect(bench.hosted.manifest(repository, 'v1', RIGHT, everything)).rejects.toMatchObject({
      code: 'MANIFEST_UNKNOWN',
    });
    expect(await bench.metadata.isLinked(repository, image.config.digest)).toBe(false);
  });

  it('reports the first 500 missing contents', async () => {
    const image = imageOf([randomBlob(1, 'a')]);
    const layers = Array.from({ length: 501 }, (_, at) => ({
      ...image.layers[0],
      digest: digestOf(Buffer.from(`${at}`)),
    }));
    const text = JSON.stringify({ ...JSON.parse(bytesOf(image.manifest).toString()), layers });
    const pushed = bench.pushManifest(repository, contentOf(text, OCI_MANIFEST), 'v1');
    const error = await pushed.catch((refused: unknown) => refused);
    expect(error).toMatchObject({ code: 'MANIFEST_BLOB_UNKNOWN', detail: { digests: { length: 500 } } });
  });

  it('with a duplicate member is refused, since readers would disagree about it', async () => {
    const image = imageOf([randomBlob(100, 'twice')]);
    await bench.pushImage(repository, image);
    const text = bytesOf(image.manifest).toString().replace('"layers":', '"layers":[],"layers":');
    await expect(
      bench.pushManifest(repository, contentOf(text, image.manifest.mediaType), 'v1'),
    ).rejects.toMatchObject({ code: 'MANIFEST_INVALID', message: '"layers" occurs twice' });
  });

  it('is refused with 507 while the disk is full, and accepted when there is space', async () => {
    const image = imageOf([randomBlob(100, 'full')]);
    for (const blob of [image.config, ...image.layers]) await bench.pushBlob(repository, blob);
    const full = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    vi.spyOn(bench.metadata, 'putManifest').mockRejectedValueOnce(full);
    await expect(bench.pushManifest(repository, image.manifest, 'v1')).rejects.toMatchObject({
      code: 'INSUFFICIENT_STORAGE',
      status: 507,
    });
    await bench.pushManifest(repository, image.manifest, 'v1');
    const { descriptor } = await bench.hosted.manifest(repository, 'v1', RIGHT, everything);
    expect(descriptor.digest).toBe(image.manifest.digest);
  });

  it('by digest stores it under exactly that digest', async () => {
    const { manifest, ...image } = imageOf([randomBlob(100, 'sha512')]);
    await bench.pushImage(repository, { manifest, ...image });
    const digest = digestOf(bytesOf(manifest), 'sha512');
    expect(await bench.pushManifest(repository, manifest, digest)).toMatchObject({ digest });
    const other = `sha512:${'0'.repeat(128)}`;
    await expect(bench.pushManifest(repository, manifest, other)).rejects.toMatchObject({
      code: 'DIGEST_INVALID',
    });
  });

  it('with another media type does not change what other repositories have or will have', async () => {
    const image = imageOf([randomBlob(100, 'untyped')], { isUntyped: true });
    const { digest } = image.manifest;
    const before = { upstream: '', name: 'before/app' };
    await bench.pushImage(before, image, 'v1');
    await bench.pushManifest(elsewhere, readAs(image.manifest, OCI_ARTIFACT_MANIFEST), 'v1');
    await bench.pushImage(repository, image, 'v1');
    for (const reference of ['v1', digest]) {
      const typeIn = async (place: typeof repository) =>
        (await bench.hosted.manifest(place, reference, RIGHT, everything)).descriptor.mediaType;
      expect(await typeIn(before)).toBe(OCI_MANIFEST);
      expect(await typeIn(repository)).toBe(OCI_MANIFEST);
      expect(await typeIn(elsewhere)).toBe(OCI_ARTIFACT_MANIFEST);
    }
    const links = [...image.layers, image.config].map(blob => ({ repository, digest: blob.digest }));
    expect(await bench.metadata.expireLinks(links, Date.now() + 60_000)).toBe(0);
  });

  it('reports its subject, which need not exist', async () => {
    const subject = imageOf([randomBlob(100, 'subject')]).manifest;
    const artifact = imageOf([randomBlob(100, 'artifact')], { subject });
    for (const blob of [artifact.config, ...artifact.layers]) await bench.pushBlob(repository, blob);
    expect(await bench.pushManifest(repository, artifact.manifest)).toMatchObject({
      subject: subject.digest,
    });
  });

  it('needs every child of an index as a manifest of the same repository', async () => {
    const image = imageOf([randomBlob(100, 'child')]);
    const index = indexOver(image.manifest);
    const unknown = { code: 'MANIFEST_BLOB_UNKNOWN', detail: { digests: [image.manifest.digest] } };
    await bench.pushImage(elsewhere, image);
    await expect(bench.pushManifest(repository, index)).rejects.toMatchObject(unknown);
    await bench.pushBlob(repository, image.manifest);
    await expect(bench.pushManifest(repository, index)).rejects.toMatchObject(unknown);
    await bench.pushImage(repository, image);
    await bench.pushManifest(repository, index);
  });

  it('is refused if it declares a wrong size of its content', async () => {
    const image = imageOf([randomBlob(100, 'sized')]);
    await bench.pushImage(repository, image);
    const config = descriptorOf(image.config);
    const layers = image.layers.map(descriptorOf);
    const misfits = [
      { config: { ...config, size: config.size + 1 }, layers },
      { config, layers: layers.map(layer => ({ ...layer, size: 0 })) },
    ];
    const child = { ...image.manifest, size: image.manifest.size - 1 };
    for (const manifest of [
      ...misfits.map(rest => contentOf(JSON.stringify({ schemaVersion: 2, ...rest }), OCI_MANIFEST)),
      indexOver(child),
    ]) {
      await expect(bench.pushManifest(repository, manifest, 'v1')).rejects.toMatchObject({
        code: 'MANIFEST_INVALID',
        message: expect.stringMatching(/^sha256:[0-9a-f]{64} is listed with \d+ bytes but has \d+$/),
      });
      expect(await bench.metadata.readTag(repository, 'v1')).toBeUndefined();
    }
  });

  it('accepts nested indexes up to a depth', async () => {
    let index = indexOver();
    await bench.pushManifest(repository, index);
    for (let depth = 1; depth <= 3; depth += 1) {
      index = indexOver(index);
      await bench.pushManifest(repository, index);
    }
    await expect(bench.pushManifest(repository, indexOver(index))).rejects.toMatchObject({
      code: 'MANIFEST_INVALID',
    });
  });

  it('counts the manifests below an index, up to a limit', async () => {
    const children: Content[] = [];
    for (let at = 0; at < 4; at += 1) {
      const names = Array.from({ length: 1000 }, (_, entry) => contentOf(`${at} ${entry}`, OCI_MANIFEST));
      const child = indexOver(...names);
      // Its own entries were deleted since; that they are named costs a look all the same.
      const { digest, mediaType } = child;
      const bytes = bytesOf(child);
      await bench.metadata.putManifest(
        repository,
        { digest, mediaType, bytes },
        parseManifest(bytes, mediaType),
        {
          atMs: 1,
        },
      );
      children.push(child);
    }
    await bench.pushManifest(repository, indexOver(...children.slice(0, 3)));
    await expect(bench.pushManifest(repository, indexOver(...children))).rejects.toMatchObject({
      code: 'MANIFEST_INVALID',
      message: expect.stringContaining('4000 manifests'),
    });
  });

  it('refuses Docker schema 1, whose blobs could not be kept', async () => {
    const text = JSON.stringify({ schemaVersion: 1, name: 'a', tag: 'b', fsLayers: [], history: [] });
    await expect(bench.pushManifest(repository, contentOf(text, DOCKER_SCHEMA1))).rejects.toMatchObject({
      code: 'MANIFEST_INVALID',
    });
  });

  it('reads no more than the limit, and nothing if the announced length exceeds it', async () => {
    let read = 0;
    const endless = () =>
      Readable.from(
        (function* () {
          for (;;) {
            read += 65_536;
            yield Buffer.alloc(65_536, 0x20);
          }
        })(),
        { objectMode: false },
      );
    const push = (contentLength: number | undefined) =>
      bench.publication.publish(repository, {
        reference: 'v1',
        tags: [],
        contentType: OCI_INDEX,
        contentLength,
        body: endless(),
        holder: { name: 'anonymous' },
        ...DURING,
      });
    await expect(push(10 ** 9)).rejects.toMatchObject({ code: 'MANIFEST_TOO_LARGE' });
    expect(read).toBe(0);
    await expect(push(undefined)).rejects.toMatchObject({ code: 'MANIFEST_TOO_LARGE' });
    expect(read).toBeLessThan(5 * 1024 * 1024);
  });
});

describe('manifests whose clients stall', () => {
  it("use no more memory than their tenant's share, and another tenant pushes meanwhile", async () => {
    const MIB = 1024 * 1024;
    const memory = new MemoryBudget({ totalBytes: 8 * MIB, shareBytes: 4 * MIB, waitMs: 20 });
    const publication = new Publication({ metadata: bench.metadata, admit: async () => {}, memory });
    const bodies: Readable[] = [];
    const stalled = Array.from({ length: 20 }, () => {
      const body = new Readable({ read() {} });
      body.push(Buffer.alloc(MIB, ' '));
      bodies.push(body);
      return publication.publish(repository, {
        reference: 'v1',
        tags: [],
        contentType: OCI_INDEX,
        contentLength: 2 * MIB,
        body,
        holder: { name: 'stalling' },
        ...DURING,
      });
    });
    const outcomes = Promise.allSettled(stalled);
    const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] }));
    const push = (tenant: string) =>
      publication.publish(elsewhere, {
        reference: 'v1',
        tags: [],
        contentType: OCI_INDEX,
        contentLength: index.length,
        body: Readable.from([index], { objectMode: false }),
        holder: { name: tenant },
        ...DURING,
      });
    await push('another');
    await expect(push('stalling')).rejects.toMatchObject({ code: 'TOOMANYREQUESTS' });
    expect(memory.bytes).toBe(4 * MIB);
    for (const body of bodies) body.destroy();
    const codes = (await outcomes).map(outcome => outcome.status === 'rejected' && outcome.reason.code);
    expect(codes.filter(code => code === 'BLOB_UPLOAD_INVALID')).toHaveLength(2);
    expect(codes.filter(code => code === 'TOOMANYREQUESTS')).toHaveLength(18);
    expect(memory.bytes).toBe(0);
  });
});
