// Blobs in the bucket of a real S3.
import { randomBytes, randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { blobStoreSuite } from '../../src/blobs/blob-store.suite.ts';
import { MemoryIngests, MemorySpool } from '../../src/blobs/memory-spool.fixture.ts';
import { Bucket } from '../../src/blobs/s3/bucket.ts';
import { payloadOfBytes } from '../../src/blobs/s3/payload.ts';
import { S3BlobStore } from '../../src/blobs/s3/s3-blob-store.ts';
import { StoreMark } from '../../src/blobs/s3/store-mark.ts';
import { MemoryLedger } from '../../src/blobs/s3/memory-ledger.fixture.ts';
import { collect } from '../../src/blobs/spool.suite.ts';
import { Ceph, CEPH_PROGRAMS } from '../support/ceph.ts';
import { get } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { hasPrograms, until } from '../support/programs.ts';
import * as pushClient from '../support/push-client.ts';

const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;

describe.skipIf(!hasPrograms(...CEPH_PROGRAMS))('blobs in a bucket of Ceph', () => {
  let ceph: Ceph;
  beforeAll(async () => void (ceph = await Ceph.start()));
  afterAll(async () => ceph.stop());

  /** A prefix of its own is as good as a bucket. */
  const prefixed = () => `${randomUUID()}/`;

  blobStoreSuite(async () => {
    const [settings, ledger, ingests] = [ceph.settings(prefixed()), new MemoryLedger(), new MemoryIngests()];
    return {
      open: async () => {
        const bucket = new Bucket(settings);
        const mark = new StoreMark(bucket, 'this-store');
        await mark.claim({ takesOver: false });
        return {
          spool: new MemorySpool(ingests),
          // The smallest part that S3 takes, but for the last one of an upload.
          blobs: new S3BlobStore({ bucket, mark, ledger, partBytes: 5 * MIB }),
          rows: ledger,
          close: () => bucket.close(),
        };
      },
      remove: async () => {},
    };
  });

  describe('its bucket', () => {
    let bucket: Bucket;
    beforeEach(() => void (bucket = new Bucket(ceph.settings(prefixed()))));
    afterEach(() => bucket.close());

    async function read(key: string, start: number, end: number): Promise<Buffer | undefined> {
      const response = await bucket.get(key, { start, end }, { size: 12 * MIB });
      return response && Buffer.concat(await collect(response.body));
    }

    test('takes an upload in parts, and gives any of its ranges', async () => {
      const bytes = randomBytes(12 * MIB);
      const id = await bucket.beginUpload('whole');
      const parts = [bytes.subarray(0, 5 * MIB), bytes.subarray(5 * MIB, 10 * MIB), bytes.subarray(10 * MIB)];
      const tags = [];
      for (const [at, part] of parts.entries()) {
        tags.push(await bucket.putPart('whole', id, { number: at + 1, payload: payloadOfBytes(part) }));
      }
      expect(await bucket.size('whole')).toBeUndefined();
      await bucket.completeUpload('whole', id, tags);
      expect(await bucket.size('whole')).toBe(bytes.length);
      for (const [start, end] of [
        [0, 1],
        [5 * MIB - 1, 5 * MIB + 1],
        [11 * MIB, 12 * MIB],
      ] as const) {
        expect(bytes.subarray(start, end).equals((await read('whole', start, end)) ?? Buffer.of())).toBe(
          true,
        );
      }
      const elsewhere = await fetch(await bucket.urlOf('whole'), { headers: { Range: 'bytes=1-9' } });
      expect(bytes.subarray(1, 10).equals(Buffer.from(await elsewhere.arrayBuffer()))).toBe(true);
      await bucket.abortUpload('whole', id);
      await bucket.copy('whole', 'a/copy of +it');
      expect(await bucket.size('a/copy of +it')).toBe(bytes.length);
      await bucket.delete('whole');
      expect(bytes.subarray(9, 19).equals((await read('a/copy of +it', 9, 19)) ?? Buffer.of())).toBe(true);
      await bucket.delete('whole');
      expect(await read('whole', 0, 1)).toBeUndefined();
    });

    test('refuses bytes that are not those that were signed, and lists what is there', async () => {
      const other = {
        ...payloadOfBytes(Buffer.from('other')),
        stream: payloadOfBytes(Buffer.from('bytes')).stream,
      };
      await expect(bucket.put('wrong', other)).rejects.toMatchObject({ status: 400 });
      for (const key of ['b/1', 'a/2', "a/1 +&<>'"]) await bucket.put(key, payloadOfBytes(Buffer.from(key)));
      const listed = await collect(bucket.list('a/'));
      expect(listed.map(({ key, size }) => [key, size])).toEqual([
        ["a/1 +&<>'", 9],
        ['a/2', 3],
      ]);
      expect(Math.abs(Date.now() - (listed[0]?.modifiedAtMs ?? 0))).toBeLessThan(60_000);
    });
  });

  describe('and the product', () => {
    let upstream: FakeUpstream;
    let entrepot: Entrepot;
    let bucket: Bucket;

    beforeEach(async () => {
      const prefix = prefixed();
      upstream = await FakeUpstream.start();
      bucket = new Bucket(ceph.settings(prefix));
      const config = {
        upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
        hosted: { prefixes: ['team'], anonymous: 'push' },
        storage: { s3: ceph.config(prefix) },
      };
      entrepot = await Entrepot.start(config);
    });

    afterEach(async () => {
      await entrepot.remove();
      await upstream.stop();
      await bucket.close();
    });

    async function expectPulled(repository: string, content: Content): Promise<void> {
      const ns = repository.startsWith('team/') ? '' : `?ns=${UPSTREAM}`;
      const got = await get(`${entrepot.url}/v2/${repository}/blobs/${content.digest}${ns}`);
      expect(got).toMatchObject({ status: 200, complete: true, bytes: content.size });
      expect(`sha256:${got.sha256}`).toBe(content.digest);
    }

    const blobs = async () => (await collect(bucket.list('blobs/'))).map(({ key }) => key.split('/')[2]);

    test('mirror, push, restart, scrub and collect', async () => {
      const mirrored = imageOf([randomBlob(100 * MIB, 'mirrored')]);
      const pushed = imageOf([randomBlob(40 * MIB, 'pushed'), randomBlob(10, 'small')]);
      const [layer] = mirrored.layers;
      if (layer === undefined) throw new Error('one layer');
      upstream.add('library/app', mirrored, 'v1');
      await get(`${entrepot.url}/v2/library/app/manifests/v1?ns=${UPSTREAM}`);
      await expectPulled('library/app', layer);
      await until('the blob is stored', 60_000, async () => (await blobs()).length === 1);
      await pushClient.pushImage(entrepot.url, 'team/app', 'v1', pushed);
      await entrepot.stop();
      await upstream.stop();
      entrepot = await entrepot.startAgain();
      await expectPulled('library/app', layer);
      for (const blob of [...pushed.layers, pushed.config]) await expectPulled('team/app', blob);
      expect((await entrepot.command('scrub', '--rate', '1GiB')).code).toBe(0);
      expect((await entrepot.command('rm', '--purge', 'team/app:v1')).code).toBe(0);
      expect((await entrepot.command('gc', '--grace-period', '0s')).code).toBe(0);
      expect(await blobs()).toEqual([layer.digest.slice('sha256:'.length)]);
    });
  });
});
