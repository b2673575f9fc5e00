import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DURING } from '../../test/support/hosted-bench.ts';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { type FileStores, openFileStores } from '../blobs/file-stores.ts';
import { silentLog } from '../lib/log.ts';
import { MIN_COUNTED_BYTES } from '../oci/counted-bytes.ts';
import { MemoryIndex } from '../metadata/memory-metadata-store.fixture.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { digestOf } from '../oci/digest.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../oci/media-types.ts';
import { Publication } from './publication.ts';
import { PrefixQuota } from './quota.ts';
import { Uploads } from './uploads.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const ANYBODY = { tenant: 'a', id: 'tenant:a' };
const repositoryOf = (name: string) => ({ upstream: '', name });

let folder: string;
let files: FileStores;
let memory: MemoryIndex;
let metadata: MetadataStore;
let uploads: Uploads;
let quota: PrefixQuota;

beforeEach(async () => {
  folder = await makeTempFolder('quota');
  files = await openFileStores(folder, { log: silentLog });
  memory = new MemoryIndex();
  metadata = memory.open();
  quota = new PrefixQuota(metadata, owner => (owner === 'a' ? 3 * MIB : undefined));
  uploads = new Uploads({ ...files, metadata, log: silentLog, quota });
});

afterEach(async () => {
  await uploads.close();
  await files.close();
  await metadata.close();
  await removeFolder(folder);
});

const contentOf = (size: number, fill: number) => Buffer.alloc(size, fill);
const push = (name: string, bytes: Buffer, to: Uploads = uploads) =>
  to.push(ANYBODY, repositoryOf(name), digestOf(bytes), {
    body: Readable.from([bytes]),
    contentRange: undefined,
    contentLength: bytes.length,
    ...DURING,
  });
const manifestPush = (
  reference: string,
  bytes: Buffer,
  contentType: string,
  tags: readonly string[] = [],
) => ({
  reference,
  tags,
  contentType,
  contentLength: bytes.length,
  body: Readable.from([bytes]),
  holder: { name: 'anonymous' },
  ...DURING,
});
/** As a garbage collection does when its time has come. */
const collect = (digest: ReturnType<typeof digestOf>) =>
  metadata.removeUnneeded([{ kind: 'blob', digest }], Number.MAX_SAFE_INTEGER);
const linkedBytes = async (owner: string) => (await metadata.readOwnerBytes([owner])).get(owner)?.bytes;
const indexNamed = (name: string) =>
  Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [], annotations: { name } }));
const chunkOf = (body: Readable) => ({ body, contentRange: undefined, contentLength: undefined, ...DURING });
const announced = (contentLength: number) => ({ ...chunkOf(Readable.from([])), contentLength });
const OVER = { code: 'DENIED', message: expect.stringContaining('the quota of a is used up') };

describe('a quota', () => {
  it('refuses a request by its announced size, before anything is evicted for it', async () => {
    const admit = vi.spyOn(files.spool.space, 'admit');
    const one = repositoryOf('a/one');
    const { id } = await uploads.begin(ANYBODY, one);
    await expect(uploads.append(ANYBODY, one, id, announced(4 * MIB))).rejects.toMatchObject(OVER);
    const digest = digestOf(Buffer.alloc(0));
    await expect(uploads.push(ANYBODY, one, digest, announced(4 * MIB))).rejects.toMatchObject(OVER);
    expect(Math.max(...admit.mock.calls.map(([bytes]) => bytes))).toBe(1);
    const open = await uploads.begin(ANYBODY, one);
    await uploads.append(ANYBODY, one, open.id, announced(2 * MIB));
    // What was announced and did not come takes nothing of it, except the upload's block.
    await push('a/two', contentOf(3 * MIB - MIN_COUNTED_BYTES, 1));
  });

  it('asks the index once about an announced size', async () => {
    const one = repositoryOf('a/one');
    const { id } = await uploads.begin(ANYBODY, one);
    const readUsage = vi.spyOn(metadata, 'readUsage');
    await uploads.append(ANYBODY, one, id, announced(2 * MIB));
    expect(readUsage).toHaveBeenCalledTimes(1);
  });

  it('counts what all repositories of an owner store, and refuses more with a reason', async () => {
    await push('a/one', contentOf(2 * MIB, 1));
    expect(await linkedBytes('a')).toBe(2 * MIB);
    await expect(push('a/two', contentOf(2 * MIB, 2))).rejects.toMatchObject(OVER);
    await push('a/two', contentOf(MIB, 3));
    await expect(push('a/three', contentOf(1, 4))).rejects.toMatchObject(OVER);
    expect(await linkedBytes('a')).toBe(3 * MIB);
  });

  it('counts a small blob as a block, as on disk, also when it is deleted', async () => {
    const few = new PrefixQuota(metadata, () => 66 * KIB);
    const small = new Uploads({ ...files, metadata, log: silentLog, quota: few });
    const pushSmall = (fill: number) => push('a/one', contentOf(3, fill), small);
    try {
      for (let fill = 0; fill < 16; fill += 1) await pushSmall(fill);
      await expect(pushSmall(16)).rejects.toMatchObject(OVER);
      await metadata.unlinkBlob(repositoryOf('a/one'), digestOf(contentOf(3, 0)));
      await expect(pushSmall(16)).rejects.toMatchObject(OVER);
      expect(await few.usedBytes(['a', 'b'])).toEqual(
        new Map([
          ['a', 64 * KIB],
          ['b', 0],
        ]),
      );
      await collect(digestOf(contentOf(3, 0)));
      await pushSmall(16);
    } finally {
      await small.close();
    }
  });

  it('counts a small manifest as a block', async () => {
    const publication = new Publication({
      metadata,
      admit: async () => {},
      quota: new PrefixQuota(metadata, () => 18 * KIB),
    });
    const pushIndex = (name: string) => {
      return publication.publish(repositoryOf('a/one'), manifestPush(name, indexNamed(name), OCI_INDEX));
    };
    for (const name of ['1', '2', '3', '4']) await pushIndex(name);
    await pushIndex('1');
    await expect(pushIndex('5')).rejects.toMatchObject(OVER);
  });

  it('that was lowered below what is stored lets a stored manifest get another tag', async () => {
    let limit = 8 * KIB;
    const publication = new Publication({
      metadata,
      admit: async () => {},
      quota: new PrefixQuota(metadata, () => limit),
    });
    const publish = (tag: string, bytes: Buffer) =>
      publication.publish(repositoryOf('a/one'), manifestPush(tag, bytes, OCI_INDEX));
    await publish('v1', indexNamed('one'));
    limit = KIB;
    const { digest } = await publish('latest', indexNamed('one'));
    expect((await metadata.readTag(repositoryOf('a/one'), 'latest'))?.digest).toBe(digest);
    await expect(publish('latest', indexNamed('two'))).rejects.toMatchObject(OVER);
  });

  it('counts an unfinished upload as a block, with or without content, even after a restart', async () => {
    const restart = async () => {
      await uploads.close();
      quota = new PrefixQuota(metadata, () => 8 * KIB);
      uploads = new Uploads({ ...files, metadata, log: silentLog, quota });
      await uploads.countUnfinished();
    };
    const one = repositoryOf('a/one');
    await restart();
    const { id } = await uploads.begin(ANYBODY, one);
    await uploads.append(ANYBODY, one, id, chunkOf(Readable.from([contentOf(3, 1)])));
    await uploads.begin(ANYBODY, one);
    await expect(uploads.begin(ANYBODY, one)).rejects.toMatchObject(OVER);
    await restart();
    await expect(uploads.begin(ANYBODY, one)).rejects.toMatchObject(OVER);
    await uploads.cancel(ANYBODY, one, id, DURING);
    await uploads.begin(ANYBODY, one);
  });

  it('says what helps: deleting, waiting for garbage collection, or a larger quota', async () => {
    const upkeep = { gcIntervalMs: 3_600_000, gcGracePeriodMs: 86_400_000 };
    const check = (limit: number, gcIntervalMs: number | false = upkeep.gcIntervalMs) =>
      new PrefixQuota(metadata, () => limit, undefined, { ...upkeep, gcIntervalMs })
        .check('key', repositoryOf('a/two'), 2 * MIB)
        .catch((error: Error) => error.message);
    expect(await check(0)).toMatch(/\. The quota \(quotaBytes\) is too small for this$/);
    expect(await check(2 * MIB - 1)).toMatch(/\. The quota \(quotaBytes\) is too small for this$/);
    const blob = contentOf(2 * MIB, 1);
    await push('a/one', blob);
    expect(await check(3 * MIB)).toMatch(
      /: its repositories may store 3MiB, .*\. 2\.0 MiB is used; this needs 2\.0 MiB, which is 1\.0 MiB too much\. Delete something first; it counts until garbage collection removes it, normally within 1d1h\. If what/,
    );
    await metadata.unlinkBlob(repositoryOf('a/one'), digestOf(blob));
    expect(await check(3 * MIB)).toMatch(
      /\. 2\.0 MiB was deleted but counts until garbage collection removes it, normally within 1d1h$/,
    );
    expect(await check(3 * MIB, false)).toMatch(/counts until `entrepot gc` removes it$/);
    await collect(digestOf(blob));
    const { id } = await uploads.begin(ANYBODY, repositoryOf('a/one'));
    await quota.reserve(id, repositoryOf('a/one'), 2 * MIB);
    await expect(quota.check('key', repositoryOf('a/two'), 2 * MIB)).rejects.toThrow(
      /\. 2\.0 MiB is used, 2\.0 MiB of it by unfinished pushes; this needs 2\.0 MiB, which is 1\.0 MiB too much\. If what is used belongs to the same image, the quota \(quotaBytes\) is too small for it$/,
    );
  });

  it('applies to no other owner, however similar the names', async () => {
    await push('a/one', contentOf(3 * MIB, 1));
    await push('ab/one', contentOf(4 * MIB, 2));
    await push('a-b/one', contentOf(4 * MIB, 3));
    expect(await linkedBytes('a')).toBe(3 * MIB);
  });

  it('applies to concurrent uploads, and to an upload without an announced size', async () => {
    const results = await Promise.allSettled(
      [1, 2, 3].map(fill => push(`a/${fill}`, contentOf(2 * MIB, fill))),
    );
    expect(results.filter(({ status }) => status === 'fulfilled').length).toBe(1);
    expect(await linkedBytes('a')).toBe(2 * MIB);
    const repository = repositoryOf('a/endless');
    const { id } = await uploads.begin(ANYBODY, repository);
    const endless = Readable.from(Array.from({ length: 8 }, () => contentOf(MIB, 9)));
    const chunk = { body: endless, contentRange: undefined, contentLength: undefined, ...DURING };
    await expect(uploads.append(ANYBODY, repository, id, chunk)).rejects.toMatchObject(OVER);
  });

  it('is reserved by one of several writes that ask for the rest at the same moment', async () => {
    const results = await Promise.allSettled(
      ['1', '2', '3'].map(key => quota.reserve(key, repositoryOf('a/one'), 2 * MIB)),
    );
    expect(results.filter(({ status }) => status === 'fulfilled').length).toBe(1);
    expect((await quota.usedBytes(['a'])).get('a')).toBe(2 * MIB);
  });

  it('has space again when deleted content is collected, or an upload is ended', async () => {
    const blob = contentOf(3 * MIB, 1);
    await push('a/one', blob);
    await metadata.unlinkBlob(repositoryOf('a/one'), digestOf(blob));
    expect(await linkedBytes('a')).toBe(0);
    await expect(push('a/two', contentOf(1, 2))).rejects.toMatchObject({
      code: 'DENIED',
      message: expect.stringContaining('3.0 MiB was deleted but counts until'),
      detail: { uncollectedBytes: 3 * MIB },
    });
    await collect(digestOf(blob));
    const { id } = await uploads.begin(ANYBODY, repositoryOf('a/two'));
    const chunk = {
      body: Readable.from([blob]),
      contentRange: undefined,
      contentLength: undefined,
      ...DURING,
    };
    await uploads.append(ANYBODY, repositoryOf('a/two'), id, chunk);
    await expect(push('a/three', contentOf(MIB, 2))).rejects.toMatchObject(OVER);
    await uploads.cancel(ANYBODY, repositoryOf('a/two'), id, DURING);
    await push('a/three', contentOf(MIB, 2));
  });

  it('counts what an unfinished upload has on disk even after a restart, until it is ended', async () => {
    const repository = repositoryOf('a/one');
    const { id } = await uploads.begin(ANYBODY, repository);
    await uploads.append(ANYBODY, repository, id, chunkOf(Readable.from([contentOf(2 * MIB, 1)])));
    await uploads.close();
    quota = new PrefixQuota(metadata, () => 3 * MIB);
    uploads = new Uploads({ ...files, metadata, log: silentLog, quota });
    await uploads.countUnfinished();
    await expect(push('a/two', contentOf(2 * MIB, 2))).rejects.toMatchObject(OVER);
    await uploads.append(ANYBODY, repository, id, {
      body: Readable.from([contentOf(MIB / 2, 1)]),
      contentRange: undefined,
      contentLength: MIB / 2,
      ...DURING,
    });
    await expect(push('a/two', contentOf(MIB, 2))).rejects.toMatchObject(OVER);
    await uploads.cancel(ANYBODY, repository, id, DURING);
    await push('a/two', contentOf(2 * MIB, 2));
  });

  it('has no space for what is pushed and deleted again and again', async () => {
    const pushed = [];
    for (let fill = 1; fill <= 8; fill += 1) {
      const blob = contentOf(MIB, fill);
      pushed.push(push('a/one', blob));
      await pushed.at(-1)?.catch(() => {});
      await metadata.unlinkBlob(repositoryOf('a/one'), digestOf(blob));
    }
    const outcomes = await Promise.allSettled(pushed);
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
  });

  it('counts deleted content for the owner of the last Link, until somebody links it again', async () => {
    const blob = contentOf(2 * MIB, 1);
    const digest = digestOf(blob);
    const uncollected = async (owner: string) =>
      (await metadata.readUsage(owner, repositoryOf(`${owner}/app`))).uncollectedBytes;
    await push('a/app', blob);
    await push('b/app', blob);
    await metadata.unlinkBlob(repositoryOf('a/app'), digest);
    expect([await uncollected('a'), await uncollected('b')]).toEqual([0, 0]);
    await metadata.unlinkBlob(repositoryOf('b/app'), digest);
    expect([await uncollected('a'), await uncollected('b')]).toEqual([0, 2 * MIB]);
    await push('a/app', blob);
    expect([await uncollected('a'), await uncollected('b')]).toEqual([0, 0]);
    expect(await linkedBytes('a')).toBe(2 * MIB);
  });

  it('of repositories counts those that are being pushed, and has space again when one is empty', async () => {
    const limited = new PrefixQuota(metadata, () => undefined, { maxRepositories: 2, maxTags: 100 });
    const few = new Uploads({ ...files, metadata, log: silentLog, quota: limited });
    const begin = (name: string) => few.begin(ANYBODY, repositoryOf(name));
    await push('c/one', contentOf(1, 1));
    const { id } = await begin('c/two');
    const tooMany = { code: 'DENIED', message: expect.stringContaining('2 repositories') };
    await expect(begin('c/three')).rejects.toMatchObject(tooMany);
    await begin('c/two');
    await begin('d/one');
    await few.cancel(ANYBODY, repositoryOf('c/two'), id, DURING);
    await expect(begin('c/three')).rejects.toMatchObject(tooMany);
    await metadata.unlinkBlob(repositoryOf('c/one'), digestOf(contentOf(1, 1)));
    await begin('c/three');
    await few.close();
  });

  it('of repositories counts an upload that is just beginning', async () => {
    const limited = new PrefixQuota(metadata, () => undefined, { maxRepositories: 1, maxTags: 100 });
    const few = new Uploads({ ...files, metadata, log: silentLog, quota: limited });
    const putUpload = metadata.putUpload.bind(metadata);
    let put: (() => void) | undefined;
    const mayPut = new Promise<void>(resolve => (put = resolve));
    const spied = vi.spyOn(metadata, 'putUpload').mockImplementationOnce(async upload => {
      await mayPut;
      await putUpload(upload);
    });
    const first = few.begin(ANYBODY, repositoryOf('c/one'));
    await expect.poll(() => spied).toHaveBeenCalled();
    await expect(few.begin(ANYBODY, repositoryOf('c/two'))).rejects.toMatchObject({ code: 'DENIED' });
    put?.();
    await first;
    await expect(few.begin(ANYBODY, repositoryOf('c/two'))).rejects.toMatchObject({ code: 'DENIED' });
    await few.close();
  });

  it('of repositories does not count an upload that another process has ended', async () => {
    const begun = new Uploads({ ...files, metadata, log: silentLog });
    const { id } = await begun.begin(ANYBODY, repositoryOf('c/one'));
    await begun.close();
    const limited = new PrefixQuota(metadata, () => undefined, { maxRepositories: 1, maxTags: 100 });
    const next = new Uploads({ ...files, metadata, log: silentLog, quota: limited });
    try {
      await next.countUnfinished();
      await expect(next.begin(ANYBODY, repositoryOf('c/two'))).rejects.toMatchObject({ code: 'DENIED' });
      await metadata.removeUpload(id);
      await next.begin(ANYBODY, repositoryOf('c/two'));
    } finally {
      await next.close();
    }
  });

  it('of tags counts only new ones', async () => {
    const limited = new PrefixQuota(metadata, () => undefined, { maxRepositories: 10, maxTags: 2 });
    const publication = new Publication({ metadata, admit: async () => {}, quota: limited });
    const index = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [] }));
    const tag = (reference: string, tags: readonly string[] = []) =>
      publication.publish(repositoryOf('c/app'), manifestPush(reference, index, OCI_INDEX, tags));
    await tag('one');
    await tag('two');
    await tag('two');
    const tooMany = { code: 'DENIED', message: expect.stringContaining('2 tags') };
    await expect(tag('three')).rejects.toMatchObject(tooMany);
    await metadata.removeTag(repositoryOf('c/app'), 'one');
    await expect(tag(digestOf(index), ['three', 'four'])).rejects.toMatchObject(tooMany);
    await tag(digestOf(index), ['three', 'three']);
    expect((await metadata.readUsage('c', repositoryOf('c/app'))).tags).toBe(2);
  });

  it('is complete again after it has refused an upload in any request, and after one that failed', async () => {
    const repository = repositoryOf('a/app');
    const tooMuch = () => Readable.from(Array.from({ length: 8 }, () => contentOf(MIB / 2, 9)));
    const digest = digestOf(contentOf(4 * MIB, 9));
    for (const send of ['append', 'complete'] as const) {
      const { id } = await uploads.begin(ANYBODY, repository);
      const refused =
        send === 'append'
          ? uploads.append(ANYBODY, repository, id, chunkOf(tooMuch()))
          : uploads.complete(ANYBODY, repository, id, digest, chunkOf(tooMuch()));
      await expect(refused).rejects.toMatchObject(OVER);
      await expect(uploads.status(ANYBODY, repository, id)).rejects.toMatchObject({
        code: 'BLOB_UPLOAD_UNKNOWN',
      });
    }
    const { id } = await uploads.begin(ANYBODY, repository);
    const breaking = Readable.from(
      (function* () {
        yield contentOf(2 * MIB, 9);
        throw new Error('the client left');
      })(),
    );
    await expect(uploads.complete(ANYBODY, repository, id, digest, chunkOf(breaking))).rejects.toMatchObject({
      code: 'BLOB_UPLOAD_INVALID',
    });
    await push('a/app', contentOf(3 * MIB - MIN_COUNTED_BYTES, 1));
  });

  it('reserves no space for an upload that another process has ended', async () => {
    const repository = repositoryOf('a/app');
    const { id } = await uploads.begin(ANYBODY, repository);
    await uploads.append(ANYBODY, repository, id, chunkOf(Readable.from([contentOf(2 * MIB, 1)])));
    // As `entrepot gc` beside a server, or a second server that the rest was sent to.
    const elsewhere = memory.open();
    const others = new Uploads({ ...files, metadata: elsewhere, log: silentLog });
    try {
      expect(await others.expire(Date.now() + MIB)).toEqual({ items: 1, bytes: 2 * MIB });
    } finally {
      await others.close();
      await elsewhere.close();
    }
    await push('a/app', contentOf(3 * MIB, 2));
  });

  it('reserves no space for an upload that could not begin', async () => {
    const held = new Set<string>();
    const noting = {
      reserve: async (key: string) => void held.add(key),
      check: async () => {},
      hold: async (key: string) => void held.add(key),
      release: (key: string) => void held.delete(key),
    };
    const noted = new Uploads({ ...files, metadata, log: silentLog, quota: noting });
    vi.spyOn(metadata, 'putUpload').mockRejectedValueOnce(new Error('the disk is full'));
    await expect(noted.begin(ANYBODY, repositoryOf('a/app'))).rejects.toThrow('the disk is full');
    expect([...held]).toEqual([]);
    await noted.begin(ANYBODY, repositoryOf('a/app'));
    expect(held.size).toBe(1);
  });

  it('counts mounts and manifests, too, but nothing twice in one repository', async () => {
    const blob = contentOf(2 * MIB, 1);
    await push('b/base', blob);
    const digest = digestOf(blob);
    expect(
      await uploads.mount(repositoryOf('a/one'), digest, { from: repositoryOf('b/base'), ...DURING }),
    ).toBe(true);
    expect(
      await uploads.mount(repositoryOf('a/one'), digest, { from: repositoryOf('b/base'), ...DURING }),
    ).toBe(true);
    expect(await linkedBytes('a')).toBe(2 * MIB);
    await expect(
      uploads.mount(repositoryOf('a/two'), digest, { from: repositoryOf('b/base'), ...DURING }),
    ).rejects.toMatchObject(OVER);
    await push('a/one', contentOf(MIB, 2));
    const config = { mediaType: 'application/vnd.oci.image.config.v1+json', digest, size: blob.length };
    const manifest = Buffer.from(
      JSON.stringify({ schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [] }),
    );
    const publication = new Publication({ metadata, admit: async () => {}, quota });
    const pushed = publication.publish(repositoryOf('a/one'), manifestPush('latest', manifest, OCI_MANIFEST));
    await expect(pushed).rejects.toMatchObject(OVER);
  });
});
