// A replica stands still right before a write, loses its Leases, and goes on after another one has done what it was about to
// do, or the opposite: one test for each kind of write.
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import {
  createServer,
  type IncomingMessage,
  request as httpRequest,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { layoutFiles, tarOf } from '../../src/archive/archive.fixture.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { get, type GetOptions, type Got } from '../support/client.ts';
import { bytesOf, type Content, type Image, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeS3, type S3Request } from '../support/fake-s3.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { Latch } from '../support/latch.ts';
import { HAS_POSTGRES, Postgres, sql } from '../support/postgres.ts';
import { Daemon, until } from '../support/programs.ts';
import { replicaConfig } from '../support/replica-config.ts';
import { type HeldMessage, TcpGate, WAS_SUSPENDED } from '../support/tcp-gate.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { getAs } from '../support/tenants.ts';

const MIB = 1024 * 1024;
const UPSTREAM = 'up.example';
/** Where everything is private. */
const PRIVATE = 'private.example';
/** No criterion, only an end for what hangs. */
const HANG_MS = 120_000;

/** A replica whose statements can be held on their way to the database. */
interface Node {
  readonly server: Entrepot;
  readonly gate: TcpGate;
  readonly config: Readonly<Record<string, unknown>>;
}

/** What a process can be stopped at: it is in the middle of it while others do their work. */
const STATEMENTS = {
  'the row of a blob': /INSERT INTO \S+blobs /,
  'a tag': /INSERT INTO \S+tags /,
  'the removal of a tag': /DELETE FROM \S+tags WHERE repository_id = \$1 AND tag/,
  'the removal of a manifest': /DELETE FROM \S+links WHERE repository_id[^]*manifest/,
  'the removal of a link': /DELETE FROM \S+links WHERE repository_id/,
  'a collection': /DELETE FROM \S+blobs content/,
  'an eviction': /DELETE FROM \S+blobs content[^]*preloads/,
  'a quarantined blob': /DELETE FROM \S+blobs WHERE digest = \$1\0/,
  'a quarantined manifest': /DELETE FROM \S+manifests WHERE digest = \$1\0/,
  'a grant': /INSERT INTO \S+grants /,
  'a pin': /INSERT INTO \S+pins /,
  'a tenant': /INSERT INTO \S+known_tenants /,
  'a credential': /INSERT INTO \S+issued_credentials /,
  'a sent message': /DELETE FROM \S+outbox WHERE endpoint/,
};

describe.skipIf(!HAS_POSTGRES)('a replica that was suspended', { timeout: 600_000 }, () => {
  let folder: string;
  let postgres: Postgres;
  let settings: PostgresSettings;
  let s3: FakeS3;
  let upstream: FakeUpstream;
  let closed: FakeUpstream;
  /** Users of the private upstream, with their passwords. */
  const users = {
    alice: { password: 'of alice', repositories: [] as string[] },
    bob: { password: 'of bob', repositories: [] as string[] },
  };
  let endpoint: Server;
  /** Digests that the endpoint was told of. */
  const told: string[] = [];
  const nodes: Node[] = [];
  /** The one that is suspended, and the one that goes on. */
  let suspended: Node;
  let other: Node;
  let repository: string;
  let made = 0;

  beforeAll(async () => {
    folder = await makeTempFolder('suspended');
    postgres = await Postgres.start();
    settings = postgres.settings();
    s3 = await FakeS3.start();
    upstream = await FakeUpstream.start();
    closed = await FakeUpstream.start({ auth: { scheme: 'bearer', users } });
    const hear = async (request: IncomingMessage, response: ServerResponse) => {
      const { events } = JSON.parse(await text(request)) as { events: { target: { digest: string } }[] };
      told.push(...events.map(({ target }) => target.digest));
      response.end();
    };
    endpoint = createServer((request, response) => {
      hear(request, response).catch(() => response.destroy());
    });
    await new Promise<void>(resolve => endpoint.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${(endpoint.address() as AddressInfo).port}/`;
    for (const name of ['a', 'b']) {
      const gate = await TcpGate.open(postgres.port);
      const shared = { settings: { ...settings, port: gate.port }, s3, folder };
      const { storage, ...rest } = await replicaConfig(shared);
      const config = {
        ...rest,
        storage: { ...storage, path: join(folder, name) },
        hosted: { prefixes: ['tools'], anonymous: 'push', delete: true },
        upstreams: {
          [UPSTREAM]: { url: upstream.url, freshFor: '0s' },
          [PRIVATE]: { url: closed.url, freshFor: '0s' },
        },
        unknownCredentials: 'verify',
        upkeep: { gcInterval: false, scrubInterval: false },
        notifications: { endpoints: [{ name: 'ci', url, events: ['push'], repositories: ['tools/told'] }] },
        log: { level: 'warn' },
      };
      nodes.push({ server: await Entrepot.start(config), gate, config });
    }
    [suspended, other] = nodes as [Node, Node];
  });

  beforeEach(() => {
    made += 1;
    repository = `tools/app-${made}`;
  });

  afterEach(async () => {
    s3.fault = () => undefined;
    for (const { server } of nodes) await until('it to be ready', HANG_MS, () => isReady(server));
    await until('its next presence', HANG_MS, async () => {
      return (await remove(suspended, 'manifests/missing')).status !== 503;
    });
  });

  afterAll(async () => {
    for (const { server } of nodes) process.kill(server.pid, 'SIGCONT');
    await Promise.all(nodes.map(({ server }) => server.remove()));
    await Promise.all(nodes.map(({ gate }) => gate.close()));
    await upstream?.stop();
    await closed?.stop();
    endpoint?.close();
    await s3?.close();
    await postgres?.remove();
    await removeFolder(folder);
  });

  const isReady = async ({ ops }: Entrepot) => (await get(`${ops}/readyz`)).status === 200;
  const newBlob = (size = 20_000) => randomBlob(size, `suspended ${made} ${(parts += 1)}`);
  let parts = 0;
  const at = ({ server }: Node, path: string, name = repository) => `${server.url}/v2/${name}/${path}`;

  /** The other one is late with its own sign of life where the machine is busy, and then refuses to write for a moment. */
  const asks = async (node: Node, path: string, options: GetOptions, name?: string): Promise<Got> => {
    for (const giveUpMs = Date.now() + HANG_MS; ; await sleep(200)) {
      const got = await get(at(node, path, name), options);
      if (node !== other || got.status !== 503 || Date.now() > giveUpMs) return got;
    }
  };

  const pushBlob = (node: Node, blob: Content) =>
    asks(node, `blobs/uploads/?digest=${blob.digest}`, { method: 'POST', body: bytesOf(blob) });

  const pushManifest = (node: Node, { manifest }: Image, tag: string, name = repository) =>
    asks(
      node,
      `manifests/${tag}`,
      { method: 'PUT', headers: { 'content-type': manifest.mediaType }, body: bytesOf(manifest) },
      name,
    );

  const remove = (node: Node, path: string) => asks(node, path, { method: 'DELETE' });

  /** An image whose blobs are in the repository. */
  async function newImage(): Promise<Image> {
    const image = imageOf([newBlob()]);
    for (const blob of [image.config, ...image.layers])
      expect((await pushBlob(other, blob)).status).toBe(201);
    return image;
  }

  async function expectWhole(path: string, { digest }: Content, name = repository): Promise<void> {
    for (const node of nodes) {
      const { status, complete, sha256 } = await get(at(node, path, name));
      expect([status, complete, `sha256:${sha256}`]).toEqual([200, true, digest]);
    }
  }

  /** Suspends a process at the message, makes others consider it dead, and resumes it after `meanwhile`. */
  async function suspendAt(
    message: HeldMessage,
    pid: () => number,
    meanwhile: () => Promise<unknown>,
  ): Promise<void> {
    let isMet = false;
    void message.met.then(() => (isMet = true));
    await until('what it is to be suspended at', HANG_MS, async () => isMet);
    process.kill(pid(), 'SIGSTOP');
    try {
      const who = `address LIKE 'process ${pid()} on %'`;
      await sql(settings, `UPDATE @processes SET beat_at = beat_at - interval '1 minute' WHERE ${who}`);
      await until('its leases to end', HANG_MS, async () => {
        return (await sql(settings, `SELECT 1 FROM @processes WHERE ${who}`)).length === 0;
      });
      await meanwhile();
    } finally {
      message.release();
      process.kill(pid(), 'SIGCONT');
    }
  }

  /** The same for the replica. */
  const suspendReplicaAt = (message: HeldMessage, meanwhile: () => Promise<unknown>) =>
    suspendAt(message, () => suspended.server.pid, meanwhile);

  const hold = (statement: keyof typeof STATEMENTS): HeldMessage =>
    suspended.gate.hold(STATEMENTS[statement]);

  /** Holds the next request to S3 for which `isMeant` is true. */
  function holdS3(isMeant: (request: S3Request) => boolean): HeldMessage {
    let meet = () => {};
    let release = () => {};
    const met = new Promise<void>(resolve => (meet = resolve));
    const after = new Promise<void>(resolve => (release = resolve));
    s3.fault = request => {
      if (!isMeant(request)) return undefined;
      s3.fault = () => undefined;
      meet();
      return { after };
    };
    return { met, release };
  }

  /** Runs a command of the suspended replica's configuration beneath `message`, and returns how it has ended. */
  async function suspendCommand(
    message: HeldMessage,
    command: readonly string[],
    meanwhile: () => Promise<unknown>,
    storage: Readonly<Record<string, unknown>> = {},
  ): Promise<{ readonly code: number | undefined; readonly logs: string }> {
    const configFile = join(folder, `command-${made}.yaml`);
    const { config } = suspended;
    await writeFile(
      configFile,
      stringify({ ...config, storage: { ...(config['storage'] as object), ...storage } }),
    );
    const running = await Daemon.start({
      program: process.execPath,
      args: [...STARTER, ...command, '--config', configFile],
      isReady: async () => true,
    });
    const early = running.closed.then(() => {
      throw new Error(`${command.join(' ')} ended before it could be suspended\n${running.logs()}`);
    });
    await Promise.race([early, message.met]);
    await suspendAt(message, () => running.pid, meanwhile);
    await until('the command to end', HANG_MS, async () => !running.isRunning);
    return { code: running.exitCode, logs: running.logs() };
  }

  const keyOf = async ({ digest }: Content): Promise<string | undefined> => {
    const rows = await sql<{ key: string }>(settings, `SELECT key FROM @blobs WHERE digest = '${digest}'`);
    return rows[0]?.key;
  };

  /** Resolves when the image of the repository is recorded beside the blobs; this reads its manifest. */
  const recorded = ({ manifest: { digest } }: Image) =>
    until('its record to be kept', HANG_MS, async () => {
      const isWaiting = `SELECT 1 FROM @unrecorded WHERE repository = '${repository}' AND digest = '${digest}'`;
      return (await sql(settings, isWaiting)).length === 0;
    });

  /** After a collection the bucket has the one object that the row names. */
  async function expectOneObject(blob: Content, key: string | undefined): Promise<void> {
    const collected = await other.server.spawnCommand('gc', '--grace-period', '0s');
    expect(collected).toMatchObject({ code: 0 });
    expect(await keyOf(blob)).toBe(key);
    const hex = blob.digest.replace('sha256:', '');
    expect(s3.blobKeys().filter(one => one.includes(hex))).toEqual(key === undefined ? [] : [key]);
    expect(s3.uploads.size).toBe(0);
  }

  describe('in the middle of a download', () => {
    it.each([
      ['before its row', 100_000, () => hold('the row of a blob')],
      ['before its object', 100_000, () => holdS3(({ method }) => method === 'PUT')],
      [
        'before it completes a multipart upload',
        20 * MIB,
        () => holdS3(({ method, query }) => method === 'POST' && query.has('uploadId')),
      ],
    ] as const)('%s publishes nothing, and what another one has stored stays', async (_, size, held) => {
      const image = imageOf([newBlob(size)]);
      const blob = image.layers[0]!;
      const name = `library/app-${made}`;
      upstream.add(name, image, 'v1');
      const urlOf = ({ server }: Node, path: string) => `${server.url}/v2/${name}/${path}?ns=${UPSTREAM}`;
      for (const node of nodes) expect((await get(urlOf(node, 'manifests/v1'))).status).toBe(200);
      const message = held();
      const pulling = get(urlOf(suspended, `blobs/${blob.digest}`));
      let key: string | undefined;
      await suspendReplicaAt(message, async () => {
        const { sha256 } = await get(urlOf(other, `blobs/${blob.digest}`));
        expect(`sha256:${sha256}`).toBe(blob.digest);
        await until(
          'the other to have stored it',
          HANG_MS,
          async () => (key = await keyOf(blob)) !== undefined,
        );
      });
      expect(`sha256:${(await pulling).sha256}`).toBe(blob.digest);
      await until('it to have a row again', HANG_MS, () => isReady(suspended.server));
      await expectOneObject(blob, key);
      for (const node of nodes)
        expect(`sha256:${(await get(urlOf(node, `blobs/${blob.digest}`))).sha256}`).toBe(blob.digest);
    });

    it.each(['fetches', 'has already'])(
      'of a manifest that it %s does not move the tag back to what upstream had before',
      async which => {
        const name = `library/app-${made}`;
        const [first, second, third] = [1, 2, 3].map(() => imageOf([newBlob()])) as [Image, Image, Image];
        // Replicas share the questions of one user, and none of two.
        for (const user of Object.values(users)) user.repositories.push(name);
        const pull = ({ server }: Node, user: keyof typeof users, reference = 'v1') =>
          getAs(
            [user, users[user].password],
            `${server.url}/v2/${name}/manifests/${reference}?ns=${PRIVATE}`,
          );
        if (which === 'has already') {
          closed.add(name, second, 'v2');
          await pull(other, 'bob', 'v2');
        }
        closed.add(name, first, 'v1');
        expect((await pull(other, 'bob')).status).toBe(200);
        // Then it has a token of upstream, and asks only once.
        expect((await pull(suspended, 'alice')).status).toBe(200);
        closed.add(name, second, 'v1');
        const { digest, size } = second.manifest;
        const latch = new Latch();
        const question =
          which === 'fetches'
            ? ({ method: 'GET', reference: digest } as const)
            : ({ method: 'HEAD', reference: 'v1' } as const);
        const behave = closed.misbehave({
          kind: 'manifest',
          repository: name,
          ...question,
          times: 1,
          after: latch.opened,
          headers: { 'docker-content-digest': digest, 'content-length': String(size) },
        });
        const askedBefore = closed.count('manifest', question);
        const pulling = pull(suspended, 'alice');
        const met = until('upstream to be asked', HANG_MS, async () => {
          return closed.count('manifest', question) > askedBefore;
        });
        await suspendReplicaAt({ met, release: () => latch.open() }, async () => {
          closed.add(name, third, 'v1');
          const got = await pull(other, 'bob');
          expect(got.headers['docker-content-digest']).toBe(third.manifest.digest);
        });
        behave();
        // Or 503, if it could not tell in time what upstream has.
        expect([200, 503]).toContain((await pulling).status);
        await until('it to have a row again', HANG_MS, () => isReady(suspended.server));
        const rows = await sql<{ digest: string }>(
          settings,
          `SELECT t.digest FROM @tags t JOIN @repositories r ON r.id = t.repository_id
          WHERE r.name = '${name}' AND t.tag = 'v1'`,
        );
        expect(rows).toEqual([{ digest: third.manifest.digest }]);
      },
    );
  });

  it('in the middle of a proof gives no right back that upstream has ended since', async () => {
    const name = `library/app-${made}`;
    const image = imageOf([newBlob()]);
    const { digest } = image.manifest;
    closed.add(name, image, 'v1');
    const pull = ({ server }: Node, user: keyof typeof users) =>
      getAs([user, users[user].password], `${server.url}/v2/${name}/manifests/${digest}?ns=${PRIVATE}`);
    for (const user of Object.values(users)) user.repositories.push(name);
    expect((await pull(other, 'bob')).status).toBe(200);
    const message = hold('a grant');
    const pulling = pull(suspended, 'alice');
    await suspendReplicaAt(message, async () => {
      users.alice.repositories.pop();
      closed.revokeTokens();
      expect((await pull(other, 'alice')).status).not.toBe(200);
    });
    await pulling;
    await until('it to have a row again', HANG_MS, async () => {
      return (await pull(suspended, 'bob')).status === 200;
    });
    for (const node of nodes) expect((await pull(node, 'alice')).status).not.toBe(200);
  });

  it.each(['had', 'had not'])(
    'gives no right that upstream has ended during a download, though it was not suspended, if the client %s one before',
    async had => {
      const name = `library/app-${made}`;
      const image = imageOf([newBlob(400_000)]);
      const blob = image.layers[0]!;
      closed.add(name, image, 'v1');
      const pull = ({ server }: Node, user: keyof typeof users, path: string) =>
        getAs([user, users[user].password], `${server.url}/v2/${name}/${path}?ns=${PRIVATE}`);
      const manifest = `manifests/${image.manifest.digest}`;
      for (const user of Object.values(users)) user.repositories.push(name);
      expect((await pull(suspended, had === 'had' ? 'alice' : 'bob', manifest)).status).toBe(200);
      const latch = new Latch();
      const behave = closed.misbehave({
        kind: 'blob',
        repository: name,
        pause: { atByte: 200_000, until: latch.opened },
      });
      const sentBefore = closed.bytesSent;
      const pulling = pull(suspended, 'alice', `blobs/${blob.digest}`);
      try {
        await until('bytes to come', HANG_MS, async () => closed.bytesSent > sentBefore + 100_000);
        users.alice.repositories.pop();
        closed.revokeTokens();
        expect((await pull(other, 'alice', 'manifests/v1')).status).not.toBe(200);
      } finally {
        latch.open();
        behave();
      }
      expect(`sha256:${(await pulling).sha256}`).toBe(blob.digest);
      await until('it to be stored', HANG_MS, async () => (await keyOf(blob)) !== undefined);
      for (const node of nodes) expect((await pull(node, 'alice', manifest)).status).not.toBe(200);
      expect((await pull(suspended, 'bob', manifest)).status).toBe(200);
    },
  );

  describe('in the middle of a request of a client that has gone elsewhere', () => {
    it('does not bring back a pushed blob that was deleted', async () => {
      const blob = newBlob();
      const message = hold('the row of a blob');
      const pushing = pushBlob(suspended, blob);
      await suspendReplicaAt(message, async () => {
        expect((await pushBlob(other, blob)).status).toBe(201);
        expect((await remove(other, `blobs/${blob.digest}`)).status).toBe(202);
      });
      const { status } = await pushing;
      expect(status).toBe(503);
      expect((await get(at(other, `blobs/${blob.digest}`))).status).toBe(404);
      await expectOneObject(blob, undefined);
    });

    it('does not bring back a deleted blob by an upload that another one has begun', async () => {
      const blob = newBlob();
      const begun = await asks(other, 'blobs/uploads/', { method: 'POST' });
      const path = String(begun.headers['location']);
      const [half, rest] = [bytesOf(blob).subarray(0, 10_000), bytesOf(blob).subarray(10_000)];
      const putting = httpRequest(`${suspended.server.url}${path}?digest=${blob.digest}`, { method: 'PUT' });
      const answered = once(putting, 'response') as Promise<[IncomingMessage]>;
      putting.setHeader('content-length', blob.size).write(half);
      const met = until('the other to have the first half', HANG_MS, async () => {
        return (await get(`${other.server.url}${path}`)).headers['range'] === `0-${half.length - 1}`;
      });
      await suspendReplicaAt({ met, release: () => {} }, async () => {
        putting.end(rest);
        expect((await pushBlob(other, blob)).status).toBe(201);
        expect((await remove(other, `blobs/${blob.digest}`)).status).toBe(202);
      });
      const [{ statusCode }] = await answered;
      expect(statusCode).toBe(503);
      expect((await get(at(other, `blobs/${blob.digest}`))).status).toBe(404);
    });

    it.each([
      ['appends no chunk', 'PATCH'],
      ['cancels no upload', 'DELETE'],
    ])(
      '%s by a request that the client has sent again since to another one, or followed by others',
      async (_, method) => {
        const blob = newBlob();
        const half = bytesOf(blob).subarray(0, 10_000);
        const begun = await asks(other, 'blobs/uploads/', { method: 'POST' });
        const path = String(begun.headers['location']);
        const late = httpRequest(`${suspended.server.url}${path}`, { method });
        const answered = once(late, 'response') as Promise<[IncomingMessage]>;
        await suspendReplicaAt({ met: Promise.resolve(), release: () => {} }, async () => {
          late.end(method === 'PATCH' ? half : undefined);
          const sent = await get(`${other.server.url}${path}`, { method: 'PATCH', body: half });
          expect(sent).toMatchObject({ status: 202, headers: { range: '0-9999' } });
        });
        const [{ statusCode }] = await answered;
        expect(statusCode).toBe(503);
        const { headers } = await get(`${other.server.url}${path}`);
        expect(headers['range']).toBe('0-9999');
        const rest = bytesOf(blob).subarray(half.length);
        const url = `${other.server.url}${path}?digest=${blob.digest}`;
        expect((await get(url, { method: 'PUT', body: rest })).status).toBe(201);
        await expectWhole(`blobs/${blob.digest}`, blob);
      },
    );

    it.each(['creates', 'moves'])('%s no tag that was set since', async which => {
      const [before, mine, theirs] = [await newImage(), await newImage(), await newImage()];
      if (which === 'moves') await pushManifest(other, before, 'v1');
      const message = hold('a tag');
      const pushing = pushManifest(suspended, mine, 'v1');
      await suspendReplicaAt(message, async () => {
        expect((await pushManifest(other, theirs, 'v1')).status).toBe(201);
      });
      const got = await pushing;
      expect(got).toMatchObject({ status: 503, headers: { 'retry-after': expect.any(String) } });
      await expectWhole('manifests/v1', theirs.manifest);
    });

    it.each([
      ['tag', 'the removal of a tag', () => 'manifests/v1'],
      ['manifest', 'the removal of a manifest', ({ manifest }: Image) => `manifests/${manifest.digest}`],
    ] as const)('deletes no %s that was pushed again since', async (_, statement, pathOf) => {
      const image = await newImage();
      expect((await pushManifest(other, image, 'v1')).status).toBe(201);
      const message = hold(statement);
      const deleting = remove(suspended, pathOf(image));
      await suspendReplicaAt(message, async () => {
        expect((await remove(other, pathOf(image))).status).toBe(202);
        expect((await pushManifest(other, image, 'v1')).status).toBe(201);
      });
      const got = await deleting;
      expect(got.status).toBe(503);
      await expectWhole('manifests/v1', image.manifest);
    });

    it('deletes no blob that was pushed again since', async () => {
      const blob = newBlob();
      expect((await pushBlob(other, blob)).status).toBe(201);
      const message = hold('the removal of a link');
      const deleting = remove(suspended, `blobs/${blob.digest}`);
      await suspendReplicaAt(message, async () => {
        expect((await remove(other, `blobs/${blob.digest}`)).status).toBe(202);
        expect((await pushBlob(other, blob)).status).toBe(201);
      });
      const got = await deleting;
      expect(got.status).toBe(503);
      await expectWhole(`blobs/${blob.digest}`, blob);
    });

    it('announces no push that it did not make, and loses no event', async () => {
      const [mine, theirs] = [await newImage(), await newImage()];
      const holder = await sql<{ pid: string }>(
        settings,
        `SELECT split_part(p.address, ' ', 2) AS pid FROM @leases l JOIN @processes p ON p.id = l.process_id
        WHERE l.key = 'notifications-ci'`,
      );
      const [sender, successor] = nodes.toSorted(
        (one, two) =>
          Number(String(two.server.pid) === holder[0]?.pid) -
          Number(String(one.server.pid) === holder[0]?.pid),
      ) as [Node, Node];
      for (const image of [mine, theirs]) {
        for (const blob of [image.config, ...image.layers]) {
          const url = at(other, `blobs/uploads/?digest=${blob.digest}`, 'tools/told');
          expect((await get(url, { method: 'POST', body: bytesOf(blob) })).status).toBe(201);
        }
      }
      const message = sender.gate.hold(STATEMENTS['a sent message']);
      expect((await pushManifest(other, mine, 'v1', 'tools/told')).status).toBe(201);
      await suspendAt(
        message,
        () => sender.server.pid,
        async () => {
          expect((await pushManifest(successor, theirs, 'v1', 'tools/told')).status).toBe(201);
          await until('the event', HANG_MS, async () => told.includes(theirs.manifest.digest));
        },
      );
      expect(told).toContain(mine.manifest.digest);
      await until('the outbox to be empty', HANG_MS, async () => {
        return (await sql(settings, 'SELECT 1 FROM @outbox')).length === 0;
      });
      const before = told.length;
      await until('a push', HANG_MS, async () => {
        return (await pushManifest(other, mine, 'v1', 'tools/told')).status === 201;
      });
      await until('the next event', HANG_MS, async () => told.length > before);
    });
  });

  describe('in the middle of upkeep', () => {
    const gc = ['gc', '--grace-period', '0s'];

    it.each([
      ['the row', () => hold('a collection')],
      ['the object', () => holdS3(({ method, key }) => method === 'DELETE' && key.includes('/blobs/'))],
    ])('removes nothing that was pushed again before it came to %s', async (_, held) => {
      const image = await newImage();
      expect((await pushManifest(other, image, 'v1')).status).toBe(201);
      const { manifest, config, layers } = image;
      expect((await remove(other, `manifests/${manifest.digest}`)).status).toBe(202);
      for (const { digest } of [config, ...layers]) {
        expect((await remove(other, `blobs/${digest}`)).status).toBe(202);
      }
      const { code } = await suspendCommand(held(), gc, async () => {
        for (const blob of [config, ...layers]) expect((await pushBlob(other, blob)).status).toBe(201);
        expect((await pushManifest(other, image, 'v1')).status).toBe(201);
        expect(await other.server.spawnCommand(...gc)).toMatchObject({ code: 0 });
      });
      // It may also say that it was suspended for too long.
      expect([0, 1]).toContain(code);
      await expectWhole('manifests/v1', manifest);
      for (const blob of [config, ...layers]) {
        await expectWhole(`blobs/${blob.digest}`, blob);
        await expectOneObject(blob, await keyOf(blob));
      }
    });

    it('evicts nothing that was pushed meanwhile', async () => {
      const image = imageOf([newBlob()]);
      const blob = image.layers[0]!;
      const name = `library/app-${made}`;
      upstream.add(name, image, 'v1');
      for (const path of ['manifests/v1', `blobs/${blob.digest}`]) {
        expect((await get(`${other.server.url}/v2/${name}/${path}?ns=${UPSTREAM}`)).status).toBe(200);
      }
      await until('it to be stored', HANG_MS, async () => (await keyOf(blob)) !== undefined);
      const { code } = await suspendCommand(
        hold('an eviction'),
        gc,
        async () => expect((await pushBlob(other, blob)).status).toBe(201),
        { maxBytes: '1KB' },
      );
      expect(code).toBe(0);
      await expectWhole(`blobs/${blob.digest}`, blob);
    });

    it('takes no blob out of service that was pushed again since it was found damaged', async () => {
      const blob = newBlob();
      expect((await pushBlob(other, blob)).status).toBe(201);
      const key = `entrepot/${await keyOf(blob)}`;
      s3.objects.set(key, { bytes: Buffer.alloc(blob.size, '?'), modifiedAtMs: Date.now() });
      const { logs } = await suspendCommand(hold('a quarantined blob'), ['scrub'], async () => {
        expect((await pushBlob(other, blob)).status).toBe(201);
      });
      expect(logs).not.toContain(blob.digest);
      await expectWhole(`blobs/${blob.digest}`, blob);
    });

    it('takes no manifest out of service that was pushed again since it was found damaged', async () => {
      const image = await newImage();
      expect((await pushManifest(other, image, 'v1')).status).toBe(201);
      const { digest } = image.manifest;
      await recorded(image);
      await sql(settings, `UPDATE @manifests SET bytes = '\\x00' WHERE digest = '${digest}'`);
      await suspendCommand(hold('a quarantined manifest'), ['scrub'], async () => {
        expect((await pushManifest(other, image, 'v1')).status).toBe(201);
      });
      await expectWhole('manifests/v1', image.manifest);
    });
  });

  describe('in the middle of a repair of the index', () => {
    const STOPPED = 'collecting-stopped';
    const whyStopped = async () => {
      const rows = await sql<{ value: string }>(
        settings,
        `SELECT value FROM @settings WHERE name = '${STOPPED}'`,
      );
      return rows[0]?.value ?? '';
    };
    /** As `stopText` reads it. */
    const stopped = (value: string) =>
      `INSERT INTO @settings (name, value) VALUES ('${STOPPED}', '${value}')
      ON CONFLICT (name) DO UPDATE SET value = excluded.value`;
    const isSuspended = { code: 1, logs: expect.stringMatching(WAS_SUSPENDED) };

    afterEach(() => sql(settings, stopped('')));

    it('brings back no image that was deleted since', async () => {
      const image = await newImage();
      const { digest } = image.manifest;
      expect((await pushManifest(other, image, 'v1')).status).toBe(201);
      await recorded(image);
      const isOfImage = `repository_id = (SELECT id FROM @repositories WHERE name = '${repository}') AND digest = '${digest}'`;
      await sql(
        settings,
        `BEGIN; ${stopped('rebuilding')}; DELETE FROM @tags WHERE ${isOfImage}; DELETE FROM @links WHERE ${isOfImage};
        DELETE FROM @unrecorded WHERE repository = '${repository}' AND digest = '${digest}'; COMMIT`,
      );
      const message = suspended.gate.hold(new RegExp(`INSERT INTO \\S+tags [^]*${digest}`));
      const rebuilt = await suspendCommand(message, ['rebuild'], async () => {
        await other.server.spawnCommand('rebuild');
        await expectWhole('manifests/v1', image.manifest);
        expect((await remove(other, `manifests/${digest}`)).status).toBe(202);
        await recorded(image);
      });
      expect((await get(at(other, 'manifests/v1'))).status).toBe(404);
      expect(rebuilt).toMatchObject(isSuspended);
      expect(await whyStopped()).toBe('rebuilt');
    });

    it('adds no blob whose object was collected since', async () => {
      const blob = newBlob();
      expect((await pushBlob(other, blob)).status).toBe(201);
      const key = `entrepot/${await keyOf(blob)}`;
      // As if the index had been lost.
      const isBlob = `digest = '${blob.digest}'`;
      await sql(
        settings,
        `BEGIN; DELETE FROM @blobs WHERE ${isBlob}; DELETE FROM @objects WHERE ${isBlob}; COMMIT`,
      );
      const rebuilt = await suspendCommand(hold('the row of a blob'), ['rebuild'], async () => {
        expect((await remove(other, `blobs/${blob.digest}`)).status).toBe(202);
        const gc = ['gc', '--force', '--grace-period', '0s'];
        expect(await other.server.spawnCommand(...gc)).toMatchObject({ code: 0 });
        await sql(settings, 'UPDATE @objects SET since_ms = 0 WHERE epoch IS NULL');
        expect(await other.server.spawnCommand(...gc)).toMatchObject({ code: 0 });
        expect(s3.objects.has(key)).toBe(false);
      });
      expect(await keyOf(blob)).toBeUndefined();
      // Or that objects were collected that it was just verifying.
      const reasons = new RegExp(`${WAS_SUSPENDED.source}|was removed while it was read`);
      expect(rebuilt).toMatchObject({ code: 1, logs: expect.stringMatching(reasons) });
    });

    it.each([
      ['does not stop a collection that was resumed since', ['rebuild'], 'rebuilding', 'rebuilt', ''],
      [
        'resumes no collection that was stopped since',
        ['gc', '--force'],
        'rebuilt',
        STOPPED,
        'rebuilding tools/x',
      ],
    ] as const)('%s', async (_, command, before, written, since) => {
      await sql(settings, stopped(before));
      const message = suspended.gate.hold(new RegExp(`INSERT INTO \\S+settings [^]*${written}`));
      const run = await suspendCommand(message, command, () => sql(settings, stopped(since)));
      expect(await whyStopped()).toBe(since);
      expect(run).toMatchObject(isSuspended);
    });
  });

  it('in the middle of an import moves no tag that was set since', async () => {
    const [mine, theirs] = [imageOf([newBlob()]), await newImage()];
    const file = join(folder, `archive-${made}.tar`);
    await writeFile(file, await tarOf(layoutFiles(mine, 'archived:v1')));
    const command = ['import', file, '--rename', `${repository}:v1`];
    const { code, logs } = await suspendCommand(hold('a tag'), command, async () => {
      expect((await pushManifest(other, theirs, 'v1')).status).toBe(201);
    });
    expect({ code, logs }).toMatchObject({ code: 1, logs: expect.stringMatching(WAS_SUSPENDED) });
    await expectWhole('manifests/v1', theirs.manifest);
  });

  it('in the middle of pinning an image does not pin what was unpinned since', async () => {
    expect((await pushManifest(other, await newImage(), 'v1')).status).toBe(201);
    const pin = ['pin', `${repository}:v1`];
    const { code, logs } = await suspendCommand(hold('a pin'), pin, async () => {
      expect(await other.server.spawnCommand(...pin)).toMatchObject({ code: 0 });
      expect(await other.server.spawnCommand('unpin', `${repository}:v1`)).toMatchObject({ code: 0 });
    });
    expect({ code, logs }).toMatchObject({ code: 1, logs: expect.stringMatching(WAS_SUSPENDED) });
    expect(await sql(settings, 'SELECT reference FROM @pins')).toEqual([]);
  });

  it.each([
    ['adding', 'a tenant', ['tenant', 'add']],
    ['issuing a credential to', 'a credential', ['tenant', 'secret', '--server', 'registry.example']],
    ['rotating the credentials of', 'a credential', ['tenant', 'rotate', '--server', 'registry.example']],
  ] as const)('in the middle of %s a tenant does nothing that was undone since', async (_, held, command) => {
    const tenant = `team-${made}`;
    const run = (...args: readonly string[]) => other.server.spawnCommand('tenant', ...args);
    if (held === 'a credential') await run('add', tenant);
    const { code, logs } = await suspendCommand(hold(held), [...command, tenant], async () => {
      if (held === 'a tenant') await run('add', tenant);
      expect(await run('remove', tenant)).toMatchObject({ code: 0 });
    });
    expect({ code, logs }).toMatchObject({ code: 1, logs: expect.stringMatching(WAS_SUSPENDED) });
    expect(await sql(settings, 'SELECT name FROM @known_tenants')).toEqual([]);
    expect(await sql(settings, 'SELECT id FROM @issued_credentials')).toEqual([]);
  });
});
