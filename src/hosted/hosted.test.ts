import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  bytesOf,
  contentOf,
  descriptorOf,
  imageOf,
  indexOf,
  indexOfEntries,
  randomBlob,
} from '../../test/support/content.ts';
import { DURING, HostedBench, RIGHT } from '../../test/support/hosted-bench.ts';
import { MAX_MANIFEST_BYTES } from '../oci/manifest.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../oci/media-types.ts';
import type { Repository } from '../oci/repository.ts';

const repository = { upstream: '', name: 'team/app' };
const elsewhere = { upstream: '', name: 'team/other' };
const HOUR_MS = 3_600_000;
const everything = { accepts: () => true, platform: undefined };

const mayPull = async ({ name }: Repository) => name.startsWith('a/');
const textOf = (error: unknown, digest: string) => JSON.stringify(error).replaceAll(digest, 'D');

let bench: HostedBench;

const catalog = (limit: number, after?: string) => bench.hosted.catalog({ limit, after }, mayPull);

beforeEach(async () => {
  bench = await HostedBench.open(undefined, { hasMemoryIndex: true });
});

afterEach(() => bench.remove());

describe('a hosted repository', () => {
  it('serves what was pushed to it, byte for byte, with the outcome "hosted"', async () => {
    const image = imageOf([randomBlob(1000, 'served')]);
    await bench.pushImage(repository, image, 'v1');
    for (const reference of ['v1', image.manifest.digest]) {
      const served = await bench.hosted.manifest(repository, reference, RIGHT, everything);
      expect(served).toMatchObject({ outcome: 'hosted', descriptor: descriptorOf(image.manifest) });
      expect(bytesOf(image.manifest).equals(served.bytes)).toBe(true);
    }
  });

  it('serves its manifests as blobs, too', async () => {
    const image = imageOf([randomBlob(1000, 'as blob')]);
    await bench.pushImage(repository, image);
    const { digest, size } = image.manifest;
    expect(await bench.hosted.statBlob(repository, digest)).toMatchObject({ size });
    const { reader } = await bench.hosted.openBlob(repository, digest);
    const bytes = Buffer.alloc(size);
    expect(await reader.read(bytes, 0)).toBe(size);
    expect(await reader.read(bytes, size)).toBe(0);
    expect(bytes.equals(bytesOf(image.manifest))).toBe(true);
    await expect(bench.hosted.statBlob(elsewhere, digest)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
  });

  it('keeps what a push has asked for, even if another process collects garbage right after that', async () => {
    await bench.remove();
    bench = await HostedBench.open();
    const [asked, unasked] = [randomBlob(100, 'asked'), randomBlob(100, 'unasked')];
    for (const blob of [asked, unasked]) await bench.pushBlob(repository, blob);
    const another = await HostedBench.open(bench.folder);
    vi.useFakeTimers({ toFake: ['Date'] });
    try {
      vi.setSystemTime(Date.now() + 2 * HOUR_MS);
      await bench.hosted.statBlob(repository, asked.digest);
      const links = [asked, unasked].map(({ digest }) => ({ repository, digest }));
      expect(await another.metadata.expireLinks(links, Date.now() - HOUR_MS)).toBe(1);
      expect(await bench.metadata.isLinked(repository, asked.digest)).toBe(true);
    } finally {
      vi.useRealTimers();
      await another.close();
    }
  });

  it('reports that a manifest is damaged, to its owners, until it is pushed again', async () => {
    const image = imageOf([randomBlob(1000, 'damaged')]);
    await bench.pushImage(repository, image, 'v1');
    const { digest } = image.manifest;
    await bench.metadata.quarantine({ kind: 'manifest', digest }, 'its content does not match the digest');
    const pull = (where: Repository, reference: string) =>
      bench.hosted.manifest(where, reference, RIGHT, everything);
    for (const reference of ['v1', digest]) {
      await expect(pull(repository, reference)).rejects.toMatchObject({
        code: 'MANIFEST_UNKNOWN',
        message: 'the manifest was damaged (its content does not match the digest): push it again',
      });
    }
    await expect(pull(elsewhere, digest)).rejects.toThrow(/^manifest unknown/);
    await bench.pushManifest(repository, image.manifest);
    expect((await pull(repository, 'v1')).descriptor.digest).toBe(digest);
  });

  it('deletes nothing while the disk is full, answers 507, and deletes when there is space', async () => {
    const image = imageOf([randomBlob(100, 'full')]);
    await bench.pushImage(repository, image, 'v1');
    const full = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    for (const removal of ['removeTag', 'unlinkManifest', 'unlinkBlob'] as const) {
      vi.spyOn(bench.metadata, removal).mockRejectedValueOnce(full);
    }
    const deletes = [
      () => bench.removal.removeManifest(repository, 'v1', DURING),
      () => bench.removal.removeManifest(repository, image.manifest.digest, DURING),
      () => bench.removal.removeBlob(repository, image.config.digest, DURING),
    ];
    for (const remove of deletes) {
      await expect(remove()).rejects.toMatchObject({ code: 'INSUFFICIENT_STORAGE', status: 507 });
      await remove();
    }
  });

  it('counts requested content as used: a blob that a HEAD has found stays until its manifest is pushed', async () => {
    const [asked, read, neither] = ['asked', 'read', 'neither'].map(seed => randomBlob(10, seed));
    for (const blob of [asked!, read!, neither!]) await bench.pushBlob(repository, blob);
    const links = [asked!, read!, neither!].map(({ digest }) => ({ repository, digest }));
    await bench.metadata.lowerUses(1, 1);
    await bench.metadata.lowerLinks(links, 1);
    await bench.hosted.statBlob(repository, asked!.digest);
    await (await bench.hosted.openBlob(repository, read!.digest)).reader.close();
    expect(await bench.metadata.expireLinks(links, Date.now() - 60_000)).toBe(1);
    expect(await bench.metadata.isLinked(repository, asked!.digest)).toBe(true);
    expect(await bench.metadata.isLinked(repository, read!.digest)).toBe(true);
  });

  it('has nothing that only another repository has, and answers as for content that nobody has', async () => {
    const image = imageOf([randomBlob(1000, 'other')]);
    const nowhere = imageOf([randomBlob(1000, 'nowhere')]);
    await bench.pushImage(elsewhere, image, 'v1');
    await bench.pushBlob(repository, randomBlob(10, 'something'));
    const answers = await Promise.all(
      [image, nowhere].flatMap(({ config, manifest }) => [
        bench.hosted
          .statBlob(repository, config.digest)
          .catch((error: unknown) => textOf(error, config.digest)),
        bench.hosted
          .openBlob(repository, config.digest)
          .catch((error: unknown) => textOf(error, config.digest)),
        bench.hosted
          .manifest(repository, manifest.digest, RIGHT, everything)
          .catch((error: unknown) => textOf(error, manifest.digest)),
      ]),
    );
    expect(answers.slice(0, 3)).toEqual(answers.slice(3));
    expect(answers[0]).toContain('BLOB_UNKNOWN');
  });

  it('serves the matching child of an index to a client that accepts no index, and only by tag', async () => {
    const amd64 = imageOf([randomBlob(10, 'amd64')]);
    const arm64 = imageOf([randomBlob(10, 'arm64')], { platform: { os: 'linux', architecture: 'arm64' } });
    const { manifest: index } = indexOf([arm64, amd64]);
    for (const image of [arm64, amd64]) await bench.pushImage(repository, image);
    await bench.pushManifest(repository, index, 'multi');
    const imagesOnly = { accepts: (type: string) => type === OCI_MANIFEST, platform: undefined };
    const digestFor = async (
      reference: string,
      want: typeof imagesOnly | typeof everything,
      platform?: string,
    ) => (await bench.hosted.manifest(repository, reference, RIGHT, { ...want, platform })).descriptor.digest;
    expect(await digestFor('multi', everything)).toBe(index.digest);
    expect(await digestFor('multi', imagesOnly)).toBe(amd64.manifest.digest);
    expect(await digestFor('multi', everything, 'linux/arm64')).toBe(arm64.manifest.digest);
    expect(await digestFor(index.digest, imagesOnly)).toBe(index.digest);
    await expect(digestFor('multi', everything, 'windows/amd64')).rejects.toMatchObject({
      code: 'MANIFEST_UNKNOWN',
    });
  });

  it('reads the config of a child without a platform, also in a nested index', async () => {
    const arm64 = imageOf([randomBlob(10, 'arm64')], { platform: { os: 'linux', architecture: 'arm64' } });
    await bench.pushImage(repository, arm64);
    const inner = indexOfEntries([descriptorOf(arm64.manifest)]);
    const outer = indexOfEntries([descriptorOf(inner)]);
    await bench.pushManifest(repository, inner);
    await bench.pushManifest(repository, outer, 'bare');
    const digestFor = async (platform: string) =>
      (await bench.hosted.manifest(repository, 'bare', RIGHT, { ...everything, platform })).descriptor.digest;
    expect(await digestFor('linux/arm64')).toBe(arm64.manifest.digest);
    await expect(digestFor('linux/amd64')).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
  });

  it('returns referrers in small pages, whatever their annotations', async () => {
    const image = imageOf([randomBlob(10, 'subject')]);
    await bench.pushImage(repository, image);
    const annotations = { note: 'n'.repeat(300_000) };
    for (let at = 0; at < 30; at += 1) {
      const document = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [], annotations, at };
      const text = JSON.stringify({ ...document, subject: descriptorOf(image.manifest) });
      await bench.pushManifest(repository, contentOf(text, OCI_INDEX));
    }
    const seen: string[] = [];
    let after: string | undefined;
    let pages = 0;
    do {
      const query = { artifactType: undefined, page: { limit: 1000, after } };
      const { manifests, next } = await bench.hosted.referrers(repository, image.manifest.digest, query);
      expect(JSON.stringify(manifests).length).toBeLessThan(MAX_MANIFEST_BYTES);
      seen.push(...manifests.map(({ digest }) => digest));
      after = next;
      pages += 1;
    } while (after !== undefined);
    expect(new Set(seen).size).toBe(30);
    expect(pages).toBe(3);
  });

  it('is in the catalog of those who may pull it', async () => {
    const names = ['a/one', 'b/two', 'a/three', 'b/four', 'a/five'];
    for (const name of names) await bench.pushBlob({ upstream: '', name }, randomBlob(5, name));
    expect(await catalog(10)).toEqual({ repositories: ['a/five', 'a/one', 'a/three'], next: undefined });
    const first = await catalog(2);
    expect(first.repositories).toEqual(['a/five', 'a/one']);
    expect((await catalog(2, first.next)).repositories).toEqual(['a/three']);
    expect(await catalog(0)).toEqual({ repositories: [], next: undefined });
    expect(await catalog(0, first.next)).toEqual({ repositories: [], next: undefined });
  });

  it('scans a thousand repositories for a page of the catalog, and continues there, even for a client that may see few', async () => {
    const asked: number[] = [];
    vi.spyOn(bench.metadata, 'listRepositories').mockImplementation(async (_, { limit, after = 'b/0' }) => {
      asked.push(limit);
      const first = Number(after.slice(2)) + 1;
      return { entries: Array.from({ length: limit }, (_each, at) => `b/${first + at}`), more: true };
    });
    expect(await catalog(300)).toEqual({ repositories: [], next: 'b/1000' });
    expect(asked).toEqual([300, 300, 300, 100]);
  });
});

describe('deleting', () => {
  it('removes a tag alone, a manifest with its tags, a blob from one repository', async () => {
    const image = imageOf([randomBlob(100, 'deleted')]);
    for (const each of [repository, elsewhere]) await bench.pushImage(each, image, 'v1');
    await bench.pushManifest(repository, image.manifest, 'v2');
    await bench.removal.removeManifest(repository, 'v1', DURING);
    await bench.hosted.manifest(repository, 'v2', RIGHT, everything);
    await bench.removal.removeManifest(repository, image.manifest.digest, DURING);
    const unknown = { code: 'MANIFEST_UNKNOWN' };
    await expect(bench.hosted.manifest(repository, 'v2', RIGHT, everything)).rejects.toMatchObject(unknown);
    await expect(bench.removal.removeManifest(repository, 'v2', DURING)).rejects.toMatchObject(unknown);
    await bench.removal.removeBlob(repository, image.config.digest, DURING);
    await expect(bench.removal.removeBlob(repository, image.config.digest, DURING)).rejects.toMatchObject({
      code: 'BLOB_UNKNOWN',
    });
    await bench.hosted.manifest(elsewhere, 'v1', RIGHT, everything);
    expect(await bench.hosted.statBlob(elsewhere, image.config.digest)).toMatchObject({
      size: image.config.size,
    });
  });

  it('does not depend on a manifest for its blobs to be pushed and deleted again', async () => {
    const blob = randomBlob(100, 'again');
    for (let round = 0; round < 2; round += 1) {
      await bench.pushBlob(repository, blob);
      expect(await bench.hosted.statBlob(repository, blob.digest)).toMatchObject({ size: 100 });
      await bench.removal.removeBlob(repository, blob.digest, DURING);
      await expect(bench.hosted.statBlob(repository, blob.digest)).rejects.toMatchObject({
        code: 'BLOB_UNKNOWN',
      });
    }
  });
});
