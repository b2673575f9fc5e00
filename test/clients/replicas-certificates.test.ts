// Replicas that know each other by certificates, on real files that are replaced while they run.
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Certificate, makeCertificate } from '../support/certificates.ts';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { Latch } from '../support/latch.ts';
import { HAS_POSTGRES, Postgres } from '../support/postgres.ts';
import { until } from '../support/programs.ts';
import { replicaConfig } from '../support/replica-config.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;
const NAME = 'DNS:replicas.example';

describe.skipIf(!HAS_POSTGRES)('replicas with certificates', () => {
  let folder: string;
  let postgres: Postgres;
  let s3: FakeS3;
  let upstream: FakeUpstream;
  let settings: ReturnType<Postgres['settings']>;
  let replicas: Entrepot[];

  beforeAll(async () => void (postgres = await Postgres.start()));
  afterAll(() => postgres.remove());

  beforeEach(async () => {
    folder = await makeTempFolder('replicas');
    settings = postgres.settings();
    s3 = await FakeS3.start();
    upstream = await FakeUpstream.start();
    replicas = [];
  });

  afterEach(async () => {
    await Promise.all(replicas.map(replica => replica.remove()));
    await upstream.stop();
    await s3.close();
    await removeFolder(folder);
  });

  /** Puts the files of a replica in place. */
  async function put(replica: string, { cert, key }: Certificate, ca: string): Promise<void> {
    await mkdir(join(folder, replica), { recursive: true });
    for (const [name, text] of Object.entries({ 'tls.key': key, 'tls.crt': cert, 'ca.crt': ca })) {
      const file = join(folder, replica, name);
      await writeFile(`${file}.new`, text);
      await rename(`${file}.new`, file);
    }
  }

  async function start(replica: string): Promise<Entrepot> {
    const { cluster, ...rest } = await replicaConfig({ settings, s3, folder });
    const { keyFile: _, ...addresses } = cluster;
    const file = (name: string) => join(folder, replica, name);
    const tls = { certFile: file('tls.crt'), keyFile: file('tls.key'), caFile: file('ca.crt') };
    const upstreams = { [UPSTREAM]: { url: upstream.url, connectionsPerBlob: 1 } };
    const started = await Entrepot.start({ upstreams, ...rest, cluster: { ...addresses, tls } });
    replicas.push(started);
    return started;
  }

  const reloads = (replica: Entrepot) => replica.logs().match(/the certificate was reloaded/g)?.length ?? 0;

  /** Pulls a new blob through both, while upstream waits in the middle until both have the half. */
  async function pullTogether(name: string): Promise<void> {
    const layer = randomBlob(4 * MIB, name);
    upstream.add(`library/${name}`, imageOf([layer]), 'v1');
    const latch = new Latch();
    upstream.misbehave({ kind: 'blob', method: 'GET', pause: { atByte: 2 * MIB, until: latch.opened } });
    const before = upstream.count('blob');
    let halves = 0;
    const pulls = replicas.slice(0, 2).map(async ({ url }) => {
      const path = `${url}/v2/library/${name}`;
      expect((await get(`${path}/manifests/v1?ns=${UPSTREAM}`)).status).toBe(200);
      let isCounted = false;
      const onData = (bytes: number) => {
        if (bytes < MIB || isCounted) return;
        isCounted = true;
        halves += 1;
        if (halves === 2) latch.open();
      };
      const got = await get(`${path}/blobs/${layer.digest}?ns=${UPSTREAM}`, { onData });
      expect(`sha256:${got.sha256}`).toBe(layer.digest);
    });
    await Promise.all(pulls);
    expect(upstream.count('blob') - before).toBe(1);
  }

  test('share downloads, before and after all certificates and their CA were replaced, and with no stranger', async () => {
    const [oldCa, newCa] = [await makeCertificate(folder, 'old'), await makeCertificate(folder, 'new')];
    const certified = (by: string) => makeCertificate(folder, `by-${by}`, NAME, by);
    for (const name of ['one', 'two']) await put(name, await certified('old'), oldCa.cert);
    const [one, two] = [await start('one'), await start('two')];
    await pullTogether('first');
    const steps: readonly (readonly [string, string])[] = [
      ['old', oldCa.cert + newCa.cert],
      ['new', oldCa.cert + newCa.cert],
      ['new', newCa.cert],
    ];
    for (const [by, ca] of steps) {
      for (const [name, replica] of [
        ['one', one],
        ['two', two],
      ] as const) {
        const before = reloads(replica);
        await put(name, await certified(by), ca);
        await until('the files to be read', 60_000, async () => reloads(replica) > before);
      }
    }
    await pullTogether('second');
    // It has the name, and a certificate of the CA that was replaced.
    await put('stranger', await certified('old'), oldCa.cert + newCa.cert);
    await start('stranger');
    await until('it to be noticed', 60_000, async () =>
      /^1 of 2 other replicas cannot be asked/m.test(await (await fetch(`${one.ops}/readyz`)).text()),
    );
    expect((await one.command('status')).stdout).toMatch(/ refuses our key or certificate /);
    await pullTogether('third');
  });
});
