// Servers of two versions on one database, as during a rolling upgrade: replicas, or, if the version before has none, servers
// on one folder. TEST_BEFORE is that version: the path of its dist/entrepot.cjs. Without it, this file is left out (`vitest.config.ts`).
import { readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Got, get } from '../support/client.ts';
import { bytesOf, type Content, type Image, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { inConfig, Postgres, sql } from '../support/postgres.ts';
import { replicaConfig } from '../support/replica-config.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';

const BEFORE = process.env['TEST_BEFORE'] ?? '';
const UPSTREAM = 'up.example';
const SERVERS = 3;
const CLIENTS = 4;
/** How long each mixture of versions serves. */
const SERVES_MS = 6_000;

/** Whether the version before has replicas. */
const HAS_REPLICAS = readFileSync(
  join(dirname(BEFORE), '..', 'config', 'entrepot.schema.json'),
  'utf8',
).includes('"cluster"');

/** A server, as a load balancer sees it. */
interface Place {
  server: Entrepot;
  isOut: boolean;
}

describe('servers during a rolling upgrade', () => {
  const clients = { areDone: false };
  const failures: string[] = [];
  const pushed = new Map<string, string>();
  const places: Place[] = [];
  let [pulls, turn] = [0, 0];
  let folder: string;
  let postgres: Postgres;
  let settings: PostgresSettings;
  let s3: FakeS3;
  let upstream: FakeUpstream;

  beforeAll(async () => {
    folder = await makeTempFolder('upgrade');
    postgres = await Postgres.start();
    settings = postgres.settings();
    s3 = await FakeS3.start();
    upstream = await FakeUpstream.start();
    for (let at = 0; at < SERVERS; at += 1) {
      const server = await Entrepot.start(
        {
          upstreams: { [UPSTREAM]: { url: upstream.url } },
          hosted: { prefixes: ['team'], anonymous: 'push', delete: true },
          ...(await shared()),
        },
        { starter: BEFORE },
      );
      places.push({ server, isOut: false });
    }
  });

  async function shared(): Promise<object> {
    if (HAS_REPLICAS) return replicaConfig({ settings, s3, folder });
    return { index: { postgres: inConfig(settings) }, storage: { path: join(folder, 'store') } };
  }

  /** The texts of the records of images. */
  async function records(): Promise<readonly string[]> {
    if (HAS_REPLICAS) return [...s3.objects.values()].map(({ bytes }) => bytes.toString('latin1'));
    const entries = await readdir(join(folder, 'store', 'images'), {
      recursive: true,
      withFileTypes: true,
    });
    const files = entries.filter(entry => entry.isFile());
    return Promise.all(files.map(({ parentPath, name }) => readFile(join(parentPath, name), 'utf8')));
  }

  afterAll(async () => {
    await Promise.all(places.map(({ server }) => server.remove()));
    await upstream.stop();
    await s3.close();
    await postgres.remove();
    await removeFolder(folder);
  });

  /** The response of the next replica, or, if that one is just being replaced and does not answer, of another one. */
  async function ask(path: string, options: Parameters<typeof get>[1] = {}): Promise<Got> {
    for (;;) {
      const place = places[(turn += 1) % places.length];
      if (place === undefined || place.isOut) continue;
      const got = await get(`${place.server.url}/v2/${path}`, options);
      if (got.complete || !place.isOut) return got;
    }
  }

  function expectStatus(what: string, { status, complete, text }: Got, wanted: number): void {
    if (status !== wanted || !complete) failures.push(`${what}: ${status}, complete: ${complete} ${text}`);
  }

  async function pullBlob(name: string, { digest }: Content, query = ''): Promise<void> {
    const got = await ask(`${name}/blobs/${digest}${query}`);
    expectStatus(`GET of a blob of ${name}`, got, 200);
    if (`sha256:${got.sha256}` !== digest) failures.push(`other bytes of ${digest}`);
    pulls += 1;
  }

  async function pull(name: string, tag: string, image: Image, query = ''): Promise<void> {
    const got = await ask(`${name}/manifests/${tag}${query}`);
    expectStatus(`GET of ${name}:${tag}`, got, 200);
    if (`sha256:${got.sha256}` !== image.manifest.digest) failures.push(`${name}:${tag} is ${got.sha256}`);
    await Promise.all([image.config, ...image.layers].map(blob => pullBlob(name, blob, query)));
  }

  async function push(name: string, tag: string, { config, layers, manifest }: Image): Promise<void> {
    for (const blob of [config, ...layers]) {
      const put = { method: 'POST', body: bytesOf(blob) };
      expectStatus(`push of a blob`, await ask(`${name}/blobs/uploads/?digest=${blob.digest}`, put), 201);
    }
    const headers = { 'content-type': manifest.mediaType };
    const put = { method: 'PUT', headers, body: bytesOf(manifest) };
    expectStatus(`push of ${name}:${tag}`, await ask(`${name}/manifests/${tag}`, put), 201);
  }

  /** Pulls a new image, which is then pulled by others, and pushes one and pulls that. */
  async function work(client: number): Promise<void> {
    for (let at = 0; !clients.areDone; at += 1) {
      const of = `${client} ${at}`;
      const mirrored = imageOf([randomBlob(300_000, `mirrored ${of}`), randomBlob(1_000, of)]);
      upstream.add(`library/app${client}-${at}`, mirrored, 'v1');
      const query = `?ns=${UPSTREAM}`;
      for (let again = 0; again < 2; again += 1)
        await pull(`library/app${client}-${at}`, 'v1', mirrored, query);
      const [name, tag] = [`team/app${client}`, `v${at % 10}`];
      const image = imageOf([randomBlob(200_000, `pushed ${of}`)]);
      await push(name, tag, image);
      pushed.set(`${name} ${tag}`, image.manifest.digest);
      await pull(name, tag, image);
    }
  }

  async function upgrade(place: Place): Promise<void> {
    place.isOut = true;
    await place.server.stop();
    const { folder: own, host, ops } = place.server;
    const { config, starter: _, ...options } = place.server.given;
    const server = { ...config.server, listen: host, opsListen: ops.replace('http://', '') };
    place.server = await Entrepot.start({ ...config, server }, { ...options, folder: own });
    place.isOut = false;
  }

  test('serve and take everything, whichever version a client gets', async () => {
    const working = Array.from({ length: CLIENTS }, (_, client) => work(client));
    const pullsBy: number[] = [];
    for (const place of [undefined, ...places]) {
      if (place !== undefined) await upgrade(place);
      const before = pulls;
      await sleep(SERVES_MS);
      pullsBy.push(pulls - before);
    }
    clients.areDone = true;
    await Promise.all(working);
    expect(failures).toEqual([]);
    expect(pullsBy.every(count => count > 0)).toBe(true);
    for (const { server } of places) {
      for (const [image, digest] of pushed) {
        const { sha256 } = await get(`${server.url}/v2/${image.replace(' ', '/manifests/')}`);
        expect(`sha256:${sha256}`).toBe(digest);
      }
      expect(server.logs()).not.toContain('"level":"error"');
    }
    // What the version before has pushed is recorded, too.
    await expect.poll(() => sql(settings, 'SELECT 1 FROM @unrecorded')).toEqual([]);
    const tags = (await records())
      .filter(text => text.startsWith('{"repository":'))
      .map(text => JSON.parse(text));
    const recorded = tags.flatMap(({ repository, digest, tags: own }) =>
      own.map(({ tag }: { tag: string }) => [`${repository} ${tag}`, digest]),
    );
    expect(new Map(recorded)).toEqual(pushed);
  });
});
