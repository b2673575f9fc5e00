// Several processes that serve clients under one: `server.processes`.
import { cp, readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Agent } from 'node:http';
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import type { StatusDocument } from '../../src/admin/documents/status.ts';
import { get, type Got, many } from '../support/client.ts';
import { bytesOf, type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, type EntrepotConfig } from '../support/entrepot.ts';
import { FakeUpstream, type FakeUpstreamOptions } from '../support/fake-upstream.ts';
import { freePort, tryRun, until } from '../support/programs.ts';
import { beginUpload, offsetOf, putManifest, sendBytes } from '../support/push-client.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { basic, secretManifest } from '../support/tenants.ts';

const MIB = 1024 * 1024;
const UPSTREAM = 'up.example';
const PROJECT = fileURLToPath(new URL('../..', import.meta.url));

let upstream: FakeUpstream | undefined;
let entrepot: Entrepot | undefined;

afterEach(async () => {
  await entrepot?.remove();
  await upstream?.stop();
  entrepot = undefined;
  upstream = undefined;
});

async function start(config: EntrepotConfig = {}): Promise<Entrepot> {
  const upstreams = upstream && { [UPSTREAM]: { url: upstream.url, mirrors: [] } };
  entrepot = await Entrepot.start({
    ...(upstreams && { upstreams }),
    ...config,
    server: { processes: 2, ...config.server },
  });
  return entrepot;
}

async function startMirror(options: FakeUpstreamOptions = {}, config: EntrepotConfig = {}) {
  upstream = await FakeUpstream.start(options);
  return { origin: upstream, server: await start(config) };
}

interface Line {
  readonly msg: string;
  readonly worker?: number;
  readonly method?: string;
  readonly route?: string;
  readonly aborted?: boolean;
}

const linesOf = (server: Entrepot): readonly Line[] =>
  server
    .logs()
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line));

/** The numbers of the processes whose responses are in the log. */
async function workersOf(server: Entrepot, count: number): Promise<readonly number[]> {
  const responses = () => linesOf(server).filter(({ msg }) => msg === 'response');
  await until('the responses to be logged', 20_000, async () => responses().length >= count);
  return [...new Set(responses().map(({ worker = 0 }) => worker))].toSorted(byNumber);
}

const byNumber = (one: number, other: number) => one - other;

const pidsOf = async (server: Entrepot): Promise<readonly number[]> =>
  (await server.ask<StatusDocument>('/debug/server')).servingPids ?? [];

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function sample(server: Entrepot, name: string): Promise<number> {
  const line = (await server.metrics()).split('\n').find(text => text.startsWith(`entrepot_${name} `));
  return Number(line?.slice(line.lastIndexOf(' ')) ?? Number.NaN);
}

const blobUrl = (server: Entrepot, { digest }: Content) =>
  `${server.url}/v2/app/blobs/${digest}?ns=${UPSTREAM}`;

function expectWhole(got: Got, blob: Content): void {
  expect([got.status, got.complete, `sha256:${got.sha256}`]).toEqual([200, true, blob.digest]);
}

describe('a push and a pull', () => {
  it('may be served by another process with each request', async () => {
    const server = await start({ hosted: { prefixes: ['team'], anonymous: 'push' } });
    const blob = randomBlob(3 * MIB, 'crossing');
    const location = await beginUpload(server.url, 'team/app');
    for (let at = 0; at < 3; at += 1) {
      const chunk = { start: at * MIB, end: (at + 1) * MIB };
      expect(await sendBytes('PATCH', server.url + location, blob, chunk)).toBe(202);
      expect(await offsetOf(server.url + location)).toBe(chunk.end);
    }
    const done = await get(`${server.url}${location}?digest=${blob.digest}`, { method: 'PUT' });
    expect(done.status).toBe(201);
    const image = imageOf([blob]);
    const config = `${server.url}/v2/team/app/blobs/uploads/?digest=${image.config.digest}`;
    expect((await get(config, { method: 'POST', body: bytesOf(image.config) })).status).toBe(201);
    await putManifest(server.url, 'team/app', 'v1', image.manifest);
    expect((await get(`${server.url}/v2/team/app/manifests/v1`)).text).toBe(
      bytesOf(image.manifest).toString(),
    );
    expectWhole(await get(`${server.url}/v2/team/app/blobs/${blob.digest}`), blob);
    expect(await workersOf(server, 12)).toEqual([1, 2]);
    expect(await readdir(join(server.folder, 'store', 'ingest'))).toEqual([]);
  });

  it('cost upstream one request for each manifest and blob, whoever asks where', async () => {
    const { origin, server } = await startMirror({ linkBytesPerS: 40 * MIB });
    const blob = randomBlob(16 * MIB, 'cold');
    origin.add('app', imageOf([blob]), 'v1');
    const manifests = await many(20, () => get(`${server.url}/v2/app/manifests/v1?ns=${UPSTREAM}`));
    expect(new Set(manifests.map(({ status, sha256 }) => `${status} ${sha256}`)).size).toBe(1);
    expect([
      origin.count('manifest', { method: 'HEAD' }),
      origin.count('manifest', { method: 'GET' }),
    ]).toEqual([1, 1]);
    for (const got of await many(20, () => get(blobUrl(server, blob)))) expectWhole(got, blob);
    expect(origin.downloads().length).toBe(1);
    expect(await workersOf(server, 40)).toEqual([1, 2]);
  });
});

describe('a process that is killed', () => {
  it('loses its own connections alone, is replaced, and others continue what it downloaded', async () => {
    const { origin, server } = await startMirror({ linkBytesPerS: 8 * MIB });
    const blob = randomBlob(32 * MIB, 'killed');
    origin.add('app', imageOf([blob]), 'v1');
    expect((await get(`${server.url}/v2/app/manifests/v1?ns=${UPSTREAM}`)).status).toBe(200);
    const seen: number[] = [];
    const readers = Array.from({ length: 8 }, (_, index) =>
      get(blobUrl(server, blob), { onData: bytes => (seen[index] = bytes) }),
    );
    await until('all to read', 60_000, async () => seen.filter(bytes => bytes > MIB).length === 8);
    const counted = await sample(server, `http_requests_total{route="manifest",method="GET",status="200"}`);
    const [killed = 0, other = 0] = await pidsOf(server);
    process.kill(killed, 'SIGKILL');
    const got = await Promise.all(readers);
    const finished = got.filter(({ complete }) => complete);
    for (const each of finished) expectWhole(each, blob);
    // Four of each; but a process that is slow to take connections gets fewer.
    expect([0, readers.length]).not.toContain(finished.length);
    const bodies = () => linesOf(server).filter(({ msg, route }) => msg === 'response' && route === 'blob');
    await until('the responses to be logged', 20_000, async () => bodies().length >= finished.length);
    expect(bodies().map(({ aborted }) => aborted)).toEqual(finished.map(() => undefined));
    // If it was the one that downloaded, another goes on; and each goes on behind what a further connection has brought.
    const [whole, ...more] = origin.downloads().map(({ headers }) => headers.range ?? '');
    const from = more.map(range => Number(/^bytes=(\d+)-$/.exec(range)?.[1]));
    expect([whole, from]).toEqual(['', from.filter((at, index) => at > (from[index - 1] ?? 0))]);
    await until('a new process', 60_000, async () => {
      const pids = await pidsOf(server);
      return pids.length === 2 && !pids.includes(killed);
    });
    expect(await pidsOf(server)).toContain(other);
    const died = linesOf(server).filter(({ msg }) => msg.includes('has died and is replaced'));
    expect(died).toEqual([expect.objectContaining({ pid: killed, signal: 'SIGKILL' })]);
    expect((await get(`${server.ops}/readyz`)).text).toBe('ok\n');
    expectWhole(await get(blobUrl(server, blob)), blob);
    expectWhole(await get(blobUrl(server, blob)), blob);
    expect(
      await sample(server, `http_requests_total{route="manifest",method="GET",status="200"}`),
    ).toBeGreaterThanOrEqual(counted);
  });

  it('gives back its connections to upstreams', async () => {
    const { origin, server } = await startMirror(
      { linkBytesPerS: 2 * MIB },
      { pulls: { maxConnections: 1 } },
    );
    const [first, second] = [randomBlob(32 * MIB, 'first'), randomBlob(64_000, 'second')];
    for (const blob of [first, second]) origin.add('app', imageOf([blob]));
    let seen = 0;
    const reading = get(blobUrl(server, first), { onData: bytes => (seen = bytes) });
    await until('the first to be downloaded', 60_000, async () => seen > 0);
    const waiting = get(blobUrl(server, second));
    await until('the second to wait', 60_000, async () => (await sample(server, 'queue_length')) === 1);
    expect(origin.downloads().length).toBe(1);
    const holder = (await server.ask<StatusDocument>('/admin/v1/status')).downloads.find(
      ({ state }) => state === 'downloading',
    );
    expect(holder).toMatchObject({ digest: first.digest, holder: null, readers: 1 });
    // Whichever it is, the other one has the second connection.
    const pids = await pidsOf(server);
    process.kill(pids[0] ?? 0, 'SIGKILL');
    const answers = await Promise.all([reading, waiting]);
    expect(answers.filter(({ complete }) => complete).length).toBe(1);
    expectWhole(await get(blobUrl(server, second)), second);
  });
});

/** The process that the server starts to replace one, before it serves. */
async function replacementIn(server: Entrepot): Promise<number> {
  const serving = await pidsOf(server);
  const isStarting = async (pid: number): Promise<boolean> => {
    // Its parent waits while it still has the parent's command line.
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    return !serving.includes(pid) && commandLine.includes('serving-process');
  };
  let starting: number | undefined;
  await until('a process to start', 20_000, async () => {
    const children = await readFile(`/proc/${server.pid}/task/${server.pid}/children`, 'utf8');
    for (const pid of children.trim().split(' ').map(Number)) if (await isStarting(pid)) starting = pid;
    return starting !== undefined;
  });
  return starting ?? 0;
}

it('a process that hangs gets no connections, and is killed and replaced', { timeout: 240_000 }, async () => {
  const server = await start({ server: { processes: 3 } });
  const [hung = 0, killed = 0] = await pidsOf(server);
  process.kill(killed, 'SIGKILL');
  process.kill(await replacementIn(server), 'SIGSTOP');
  process.kill(hung, 'SIGSTOP');
  // It may get one before it is noticed, which breaks when it is killed.
  const asked = Array.from({ length: 10 }, () => get(`${server.url}/v2/`));
  await until('both to be replaced', 180_000, async () => {
    const pids = await pidsOf(server);
    return pids.length === 3 && !pids.includes(hung);
  });
  const statuses = (await Promise.all(asked)).map(({ status }) => status);
  expect(statuses.filter(status => status === 200).length).toBeGreaterThanOrEqual(9);
  expect(linesOf(server).map(({ msg }) => msg)).toContain('a serving process does not answer and is killed');
});

it('processes that have run out of descriptors serve again when connections are closed', async () => {
  const limit = 128;
  const within = ['sh', '-c', `ulimit -n ${limit}; exec "$@"`, 'sh'];
  entrepot = await Entrepot.start({ server: { processes: 2 } }, { within });
  const { url, host, pid } = entrepot;
  const [address, port] = host.split(':');
  const count = async (of: number) => (await readdir(`/proc/${of}/fd`)).length;
  const before = await count(pid);
  const idle: Socket[] = [];
  const isFull = async (of: number, descriptors: number): Promise<boolean> => {
    idle.push(connect(Number(port), address).on('error', () => {}));
    return (await count(of)) >= descriptors;
  };
  for (const one of await pidsOf(entrepot)) {
    await until('no descriptor to be left', 20_000, async () => isFull(one, limit));
  }
  await until('connections to wait', 20_000, async () => isFull(pid, before + 8));
  for (const socket of idle) socket.destroy();
  for (let at = 0; at < 4; at += 1) expect((await get(`${url}/v2/`)).status).toBe(200);
});

it('connections that end within a TLS handshake, or after it, are closed at once', async () => {
  const pem = (name: string) => join(PROJECT, 'test', 'support', 'tls', name);
  const tls = { certFile: pem('server.pem'), keyFile: pem('server.key') };
  const server = await start({ server: { tls } });
  const pids = await pidsOf(server);
  const descriptors = async () =>
    Promise.all(pids.map(async pid => (await readdir(`/proc/${pid}/fd`)).length)).then(String);
  const before = await descriptors();
  const port = Number(server.host.split(':')[1]);
  const clients = [
    () =>
      connect(port, '127.0.0.1', function (this: Socket) {
        this.destroy();
      }),
    () => connectTls({ port, host: '127.0.0.1' }),
  ];
  for (const client of clients) {
    await many(
      8,
      () =>
        new Promise(resolve => {
          client()
            .on('error', () => {})
            .on('close', resolve)
            .resume();
        }),
    );
  }
  // The limit on a handshake, 20 s, would close some, too.
  await expect.poll(descriptors, { timeout: 10_000 }).toBe(before);
});

it('SIGTERM lets the bodies of all processes finish, refuses new work, and ends all', async () => {
  const { origin, server } = await startMirror({ linkBytesPerS: 16 * MIB });
  const blob = randomBlob(16 * MIB, 'drained');
  origin.add('app', imageOf([blob]));
  const pids = await pidsOf(server);
  const seen: number[] = [];
  let read: (() => void) | undefined;
  const readAfter = new Promise<void>(resolve => (read = resolve));
  const readers = Array.from({ length: 4 }, (_, index) =>
    get(blobUrl(server, blob), { readAfter, onData: bytes => (seen[index] = bytes) }),
  );
  await until('all bodies to begin', 60_000, async () => seen.filter(bytes => bytes > 0).length === 4);
  // As systemd may do it: to every process of the service.
  for (const pid of [...pids, server.pid]) process.kill(pid, 'SIGTERM');
  await until('new connections to be refused', 60_000, async () => (await get(server.url)).status === 0);
  expect((await get(`${server.ops}/readyz`)).text).toBe('stopping\n');
  read?.();
  for (const got of await Promise.all(readers)) expectWhole(got, blob);
  await until('the end', 60_000, async () => !server.isRunning);
  expect([server.exitCode, pids.filter(isAlive)]).toEqual([0, []]);
  expect(linesOf(server).filter(({ msg }) => msg.includes('replaced'))).toEqual([]);
});

it('a process that has ended because the server stops is not reported as one that is replaced', async () => {
  const { origin, server } = await startMirror({ linkBytesPerS: 16 * MIB });
  const blob = randomBlob(16 * MIB, 'stopping');
  origin.add('app', imageOf([blob]));
  const pids = await pidsOf(server);
  let read: (() => void) | undefined;
  const readAfter = new Promise<void>(resolve => (read = resolve));
  let seen = 0;
  const reader = get(blobUrl(server, blob), { readAfter, onData: bytes => (seen = bytes) });
  await until('the body to begin', 60_000, async () => seen > 0);
  process.kill(server.pid, 'SIGTERM');
  await until('the idle process to end', 60_000, async () => (await pidsOf(server)).length === 1);
  expect(pids.filter(isAlive).length).toBe(1);
  expect((await server.ask<StatusDocument>('/admin/v1/status')).problems).toEqual([]);
  read?.();
  expectWhole(await reader, blob);
});

it('when the process that started them is killed, all end, and the next one can start at once', async () => {
  const server = await start();
  const pids = await pidsOf(server);
  expect(pids.length).toBe(2);
  await server.kill();
  await until('all to end', 20_000, async () => pids.filter(isAlive).length === 0);
  entrepot = await server.startAgain({ server: { processes: 2 } });
  expect((await get(`${entrepot.url}/v2/`)).status).toBe(200);
});

it('a reload reaches all processes before it is reported, and those that are started later', async () => {
  const { origin, server } = await startMirror();
  origin.add('app', imageOf([randomBlob(1_000, 'reload')]), '1');
  const ask = (name: string) =>
    many(4, () => get(`${server.url}/v2/${name}/app/manifests/1`)).then(all =>
      all.map(({ status }) => status),
    );
  expect(await ask('new.example')).toEqual([404, 404, 404, 404]);
  const upstreams = { 'new.example': { url: origin.url } };
  const listen = { listen: server.host, opsListen: server.ops.replace('http://', ''), processes: 2 };
  const file = { server: listen, storage: { path: join(server.folder, 'store') }, upstreams };
  await writeFile(server.configFile, stringify({ ...file, log: { level: 'debug' } }));
  process.kill(server.pid, 'SIGHUP');
  const isReloaded = () => linesOf(server).some(({ msg }) => msg === 'configuration reloaded');
  await until('the reload', 20_000, async () => isReloaded());
  expect(await ask('new.example')).toEqual([200, 200, 200, 200]);
  // Not what is in the file by then.
  await writeFile(server.configFile, 'nonsense: true');
  const before = await pidsOf(server);
  for (const pid of before) process.kill(pid, 'SIGKILL');
  await until('new processes', 60_000, async () => {
    const pids = await pidsOf(server);
    return pids.length === 2 && before.every(pid => !pids.includes(pid));
  });
  expect(await ask('new.example')).toEqual([200, 200, 200, 200]);
});

describe('limits for all processes together', () => {
  it('hold for connections to upstreams', async () => {
    const { origin, server } = await startMirror(
      { linkBytesPerS: 8 * MIB },
      { pulls: { maxConnections: 2 } },
    );
    const blobs = Array.from({ length: 8 }, (_, index) => randomBlob(MIB, `limit ${index}`));
    for (const blob of blobs) origin.add('app', imageOf([blob]));
    let most = 0;
    const over = new AbortController();
    const watch = async () => {
      while (!over.signal.aborted) {
        const { downloads } = await server.ask<StatusDocument>('/admin/v1/status');
        most = Math.max(most, downloads.filter(({ state }) => state === 'downloading').length);
      }
    };
    const watching = watch();
    const got = await Promise.all(blobs.map(blob => get(blobUrl(server, blob))));
    over.abort();
    await watching;
    got.forEach((each, index) => expectWhole(each, blobs[index] ?? blobs[0]!));
    expect(most).toBe(2);
    expect(await workersOf(server, 8)).toEqual([1, 2]);
    expect(await sample(server, 'queue_length')).toBe(0);
  });

  it('hold for quotas', async () => {
    const folder = await makeTempFolder('quota');
    const secret = join(folder, 'team.json');
    const host = `127.0.0.1:${await freePort()}`;
    await writeFile(secret, secretManifest('pull', { [host]: ['team', 'password-of-team'] }));
    const server = await start({
      server: { listen: host, serverNames: [host] },
      tenants: [{ name: 'team', secrets: [secret], quotaBytes: '4MiB' }],
    });
    const headers = basic(['team', 'password-of-team']);
    const statuses: number[] = [];
    for (let upload = 0; upload < 4; upload += 1) {
      const begun = await get(`${server.url}/v2/team/app/blobs/uploads/`, { method: 'POST', headers });
      const chunk = { method: 'PATCH', headers, body: Buffer.alloc(1.5 * MIB) };
      statuses.push((await get(server.url + (begun.headers.location ?? ''), chunk)).status);
    }
    expect(statuses).toEqual([202, 202, 403, 403]);
    expect(await workersOf(server, 8)).toEqual([1, 2]);
    await removeFolder(folder);
  });

  it('hold for guessing passwords', async () => {
    const folder = await makeTempFolder('guesses');
    const secret = join(folder, 'team.json');
    const host = `127.0.0.1:${await freePort()}`;
    await writeFile(secret, secretManifest('pull', { [host]: ['team', 'password-of-team'] }));
    const server = await start({
      server: { listen: host, serverNames: [host] },
      tenants: [{ name: 'team', secrets: [secret] }],
    });
    const statuses: number[] = [];
    for (let guess = 0; guess < 16; guess += 1) {
      statuses.push(
        (await get(`${server.url}/token`, { headers: basic(['team', `guess-${guess}`]) })).status,
      );
    }
    // A process learns a moment later of what the other has counted. Each for itself would check all of its eight.
    const checked = statuses.filter(status => status === 401).length;
    expect(checked).toBeGreaterThanOrEqual(10);
    expect(checked).toBeLessThanOrEqual(12);
    expect(statuses.filter(status => status === 429).length).toBe(16 - checked);
    expect(await workersOf(server, 16)).toEqual([1, 2]);
    await removeFolder(folder);
  });

  it('hold for failures of upstreams, which are asked once in a delay', async () => {
    const { origin, server } = await startMirror();
    origin.misbehave({ kind: 'manifest', status: 503 });
    let tags = 0;
    const ask = async () => {
      const tag = `none-${(tags += 1)}`;
      const statuses = new Set<number>();
      for (let at = 0; at < 6; at += 1) {
        statuses.add((await get(`${server.url}/v2/app/manifests/${tag}?ns=${UPSTREAM}`)).status);
      }
      const requests = origin.count('manifest', { reference: tag });
      return { statuses: [...statuses], requests, backoffs: await sample(server, 'backoffs') };
    };
    // The first delay is 1 s: a busy machine may need longer for six requests, and for the news of the other process.
    await expect.poll(ask, { interval: 2_000 }).toEqual({ statuses: [503], requests: 1, backoffs: 1 });
    expect(await workersOf(server, 6)).toEqual([1, 2]);
  });
});

it('connections are divided evenly, and the metrics of all are summed', async () => {
  const server = await start();
  const agents = Array.from({ length: 8 }, () => new Agent({ keepAlive: true, maxSockets: 1 }));
  for (const agent of agents) {
    for (let at = 0; at < 3; at += 1) expect((await get(`${server.url}/v2/`, { agent })).status).toBe(200);
  }
  expect(await sample(server, 'http_requests_total{route="base",method="GET",status="200"}')).toBe(24);
  await until(
    'the log',
    20_000,
    async () => linesOf(server).filter(({ msg }) => msg === 'response').length === 24,
  );
  const by = (number: number) => linesOf(server).filter(({ worker }) => worker === number).length;
  expect([by(1), by(2)]).toEqual([12, 12]);
  for (const agent of agents) agent.destroy();
});

describe('a start that fails', () => {
  it('because of a port is reported as that of one process, once', async () => {
    const server = await start();
    const taken = join(server.folder, 'taken.yaml');
    const other = { listen: server.host, opsListen: `127.0.0.1:${await freePort()}`, processes: 3 };
    await writeFile(taken, stringify({ server: other, storage: { path: join(server.folder, 'other') } }));
    const args = [join(PROJECT, 'dist', 'entrepot.cjs'), 'serve', '--config', taken];
    const { code, stdout, stderr } = await tryRun(process.execPath, args);
    expect([code, stdout.includes('serving')]).toEqual([1, false]);
    expect(stderr.match(/EADDRINUSE/g)?.length).toBe(1);
    expect(stderr).toContain('server.listen');
  });

  it('because of a process is reported once, and nothing is left', async () => {
    const folder = await makeTempFolder('unstartable');
    await cp(join(PROJECT, 'dist'), join(folder, 'dist'), { recursive: true });
    await symlink(join(PROJECT, 'node_modules'), join(folder, 'node_modules'));
    await cp(join(PROJECT, 'package.json'), join(folder, 'package.json'));
    await writeFile(join(folder, 'dist', 'serving-process.cjs'), 'process.exit(7);\n');
    const [port, ops] = [await freePort(), await freePort()];
    const config = {
      server: { listen: `127.0.0.1:${port}`, opsListen: `127.0.0.1:${ops}`, processes: 2 },
      storage: { path: join(folder, 'store') },
    };
    await writeFile(join(folder, 'config.yaml'), stringify(config));
    const args = [join(folder, 'dist', 'entrepot.cjs'), 'serve', '--config', join(folder, 'config.yaml')];
    const { code, stderr } = await tryRun(process.execPath, args, { cwd: folder });
    expect([code, stderr]).toEqual([1, 'entrepot: a serving process cannot be started: it ended with 7\n']);
    await removeFolder(folder);
  });
});
