// Replicas that are killed, or stand still, in the middle of a download that clients of the others follow; with CRASH_LONG=1
// many more of them.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { Chance, newSeed, SEED } from '../support/chance.ts';
import { get, many } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import type { RecordedRequest } from '../support/fake-upstream-requests.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { HAS_POSTGRES, Postgres, sql } from '../support/postgres.ts';
import { until } from '../support/programs.ts';
import { replicaConfig } from '../support/replica-config.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

/** `npm run test:crash:long`. */
const IS_LONG = process.env['CRASH_LONG'] === '1';
const SUDDEN_ENDS = IS_LONG ? 50 : 4;
const REPLICAS = 3;
const READERS = 20;
const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;
const BLOB_BYTES = 24 * MIB;
/** What may be requested again: one part, and what is compared. */
const AGAIN_BYTES = 16 * MIB + 4096;

describe.skipIf(!HAS_POSTGRES)('replicas', () => {
  let folder: string;
  let postgres: Postgres;
  let settings: PostgresSettings;
  let s3: FakeS3;
  let upstream: FakeUpstream;
  const replicas: Entrepot[] = [];

  beforeAll(async () => {
    folder = await makeTempFolder('replicas');
    postgres = await Postgres.start();
    settings = postgres.settings();
    s3 = await FakeS3.start();
    upstream = await FakeUpstream.start({ linkBytesPerS: 24 * MIB });
    for (let at = 0; at < REPLICAS; at += 1) {
      const upstreams = { [UPSTREAM]: { url: upstream.url } };
      replicas.push(await Entrepot.start({ upstreams, ...(await replicaConfig({ settings, s3, folder })) }));
    }
  });

  afterAll(async () => {
    await Promise.all(replicas.map(replica => replica.remove()));
    await upstream.stop();
    await s3.close();
    await postgres.remove();
    await removeFolder(folder);
  });

  it('that live send every client the right bytes, and request no more than a part again', async () => {
    const chance = new Chance(IS_LONG ? newSeed() : SEED);
    const digests: string[] = [];
    let interrupted = 0;
    for (let end = 0; end < SUDDEN_ENDS; end += 1) {
      const blob = randomBlob(BLOB_BYTES, `blob ${end}`);
      digests.push(blob.digest);
      upstream.add('library/app', imageOf([blob]), `v${end}`);
      for (const { url } of replicas) {
        const { status } = await get(`${url}/v2/library/app/manifests/v${end}?ns=${UPSTREAM}`);
        expect(status).toBe(200);
      }
      const pull = async ({ url }: Entrepot) => {
        const path = `/v2/library/app/blobs/${blob.digest}?ns=${UPSTREAM}`;
        const { status, complete, sha256 } = await get(`${url}${path}`);
        if (complete && status !== 200) return status;
        return complete ? `sha256:${sha256}` : 'broken off';
      };
      const [sentBefore, countBefore] = [upstream.bytesSent, upstream.count('blob')];
      const at = chance.below(REPLICAS);
      const holder = replicas[at]!;
      const others = replicas.filter(replica => replica !== holder);
      const fromHolder = pull(holder);
      await until('the download to begin', 60_000, async () => upstream.count('blob') > countBefore);
      const fromOthers = many(READERS, reader => pull(others[reader % others.length]!));
      const moment = sentBefore + chance.below(BLOB_BYTES);
      await until('the moment', 60_000, async () => upstream.bytesSent >= moment);
      const isKilled = chance.in(0.5);
      if (isKilled) await holder.kill();
      else process.kill(holder.pid, 'SIGSTOP');
      const sent = upstream.bytesSent - sentBefore;
      const downloads = upstream.downloads().length;
      expect(new Set(await fromOthers)).toEqual(new Set([blob.digest]));
      // For one that is suspended the kernel goes on to receive: what it had received itself counts.
      const again = isKilled
        ? upstream.bytesSent - sentBefore - BLOB_BYTES
        : Math.max(
            0,
            ...upstream
              .downloads()
              .slice(downloads)
              .map(request => sent - startOf(request)),
          );
      expect(again).toBeLessThanOrEqual(AGAIN_BYTES);
      if (upstream.count('blob') > countBefore + 1) interrupted += 1;
      if (isKilled) replicas[at] = await holder.startAgain();
      else process.kill(holder.pid, 'SIGCONT');
      // One that was suspended for long gives up on clients for whom it had nothing yet.
      expect([blob.digest, 'broken off', 503]).toContain(await fromHolder);
      expect(await pull(replicas[at]!)).toBe(blob.digest);
    }
    expect(interrupted).toBeGreaterThan(0);
    // What was sent under a Lease is removed when that has ended. An upload that was begun at the moment of the kill is empty, and
    // nobody knows of it.
    const unfinished = () => [...s3.uploads].filter(([, { parts }]) => parts.size > 0).map(([id]) => id);
    let said = '';
    const isCollected = async (): Promise<boolean> => {
      const { code, stdout, stderr } = await replicas[0]!.command('gc', '--grace-period', '0s');
      said = `${code}, ${unfinished().join()} are left: ${stdout}${stderr}`;
      return code === 0 && unfinished().length === 0;
    };
    await until('all that nobody needs to be collected', 60_000, isCollected).catch((error: unknown) => {
      throw new Error(`${String(error)}, gc: ${said}`);
    });
    const objects = s3.blobKeys().map(key => key.split('/').slice(1, 3).join(':'));
    expect(objects.toSorted()).toEqual(digests.toSorted());
    const rows = await sql<{ digest: string }>(settings, 'SELECT digest FROM @blobs ORDER BY digest');
    expect(rows.map(({ digest }) => digest)).toEqual(digests.toSorted());
  });
});

/** Of the bytes that are requested. */
function startOf({ headers }: RecordedRequest): number {
  const [, start = '0'] = /^bytes=(\d+)-/.exec(headers.range ?? '') ?? [];
  return Number(start);
}
