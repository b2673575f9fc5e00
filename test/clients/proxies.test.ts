// config/proxy and config/replicas: real proxies in front of Entrepot, with the files that people copy, but for paths and ports.
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { Agent, createServer, type IncomingMessage, request as plainRequest, type Server } from 'node:http';
import { type RequestOptions, request } from 'node:https';
import { join } from 'node:path';
import { text as readText } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { listen } from '../../src/http/listen.ts';
import { makeCertificate } from '../support/certificates.ts';
import { randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { IMAGE_PROGRAMS, imageLayout } from '../support/images.ts';
import { Latch } from '../support/latch.ts';
import { answers, Daemon, freePort, hasPrograms, until } from '../support/programs.ts';
import { BUSYBOX_BLOBS, countIntact, Skopeo } from '../support/skopeo.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { type Login, writeSecret } from '../support/tenants.ts';

const UPSTREAM = 'up.example';
const LOGIN: Login = ['ada', 'of-this-registry'];
/** A client that is not this machine's usual one. */
const CLIENT = '127.0.0.3';
const MIB = 1024 * 1024;
/** In place of the time in which a pull has to be answered. */
const UNANSWERED_MS = 2_000;
/** For bytes to get through, on a busy machine. */
const SOON_MS = 60_000;

const configFile = (path: string): string => fileURLToPath(new URL(`../../config/${path}`, import.meta.url));

interface Place {
  readonly folder: string;
  readonly port: number;
  readonly entrepot: Entrepot;
}

/** The file with other words in place of its own, each of which has to be there. */
async function adapted(path: string, words: Readonly<Record<string, string>>): Promise<string> {
  const text = await readFile(configFile(path), 'utf8');
  return Object.entries(words).reduce((all, [from, to]) => {
    if (!all.includes(from)) throw new Error(`${path} has no ${from}`);
    return all.replaceAll(from, to);
  }, text);
}

async function startHaproxy({ folder, port, entrepot }: Place): Promise<Daemon> {
  const file = join(folder, 'haproxy.cfg');
  const words = {
    'bind :443': `bind 127.0.0.1:${port}`,
    '/etc/haproxy/registry.pem': join(folder, 'registry.pem'),
    'entrepot 127.0.0.1:5000': `entrepot ${entrepot.host}`,
    'port 5001': `port ${new URL(entrepot.ops).port}`,
    'server 30s': `server ${UNANSWERED_MS}`,
  };
  await writeFile(file, await adapted('proxy/haproxy.cfg', words));
  return Daemon.start({ program: 'haproxy', args: ['-db', '-f', file], isReady: () => isServed(port) });
}

async function startNginx({ folder, port, entrepot }: Place): Promise<Daemon> {
  const words = {
    'listen 443': `listen 127.0.0.1:${port}`,
    '/etc/nginx/registry': join(folder, 'registry'),
    '127.0.0.1:5000': entrepot.host,
  };
  await writeFile(join(folder, 'entrepot.conf'), await adapted('proxy/nginx.conf', words));
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    name => `${name}_temp_path ${folder}/${name};`,
  );
  const main = `daemon off; pid ${folder}/nginx.pid; events {}
    http { access_log off; ${temporary.join(' ')} include ${folder}/entrepot.conf; }`;
  await writeFile(join(folder, 'nginx.conf'), main);
  const args = ['-p', folder, '-c', join(folder, 'nginx.conf'), '-e', join(folder, 'error.log')];
  return Daemon.start({ program: 'nginx', args, isReady: () => isServed(port) });
}

async function isServed(port: number): Promise<boolean> {
  try {
    return (await ask(port, '/v2/', { rejectUnauthorized: false })).statusCode !== 503;
  } catch {
    return false;
  }
}

function ask(port: number, path: string, options: RequestOptions = {}): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port, path, agent: false, ...options })
      .once('response', resolve)
      .once('error', reject)
      .end();
  });
}

describe.each([
  ['haproxy', startHaproxy],
  ['nginx', startNginx],
] as const)('behind %s', (program, start) => {
  const canRun = hasPrograms(program, 'openssl', ...IMAGE_PROGRAMS);

  describe.skipIf(!canRun)('Entrepot', () => {
    let upstream: FakeUpstream;
    let entrepot: Entrepot;
    let proxy: Daemon;
    let skopeo: Skopeo;
    let folder: string;
    let port: number;
    let ca: string;

    beforeAll(async () => {
      skopeo = await Skopeo.make();
      ({ folder } = skopeo.config);
      port = await freePort();
      const { cert, key } = await makeCertificate(folder, 'registry', 'IP:127.0.0.1');
      ca = cert;
      await writeFile(join(folder, 'registry.pem'), cert + key);
      upstream = await FakeUpstream.start();
      const secrets = join(folder, 'team-a.json');
      const name = `127.0.0.1:${port}`;
      await writeSecret(secrets, { [name]: LOGIN });
      entrepot = await Entrepot.start({
        server: { externalUrl: `https://${name}`, trustedProxies: ['127.0.0.1'], serverNames: [name] },
        upstreams: { [UPSTREAM]: { url: upstream.url } },
        tenants: [{ name: 'team-a', secrets }],
        hosted: { prefixes: ['tools'], anonymous: 'push', anonymousBeyondLoopback: true },
      });
      proxy = await start({ folder, port, entrepot });
    });
    afterAll(async () => {
      await proxy.stop();
      await entrepot.remove();
      await upstream.stop();
      await skopeo.remove();
    });

    test('takes a login, a push and a pull with TLS', async () => {
      const trusted = join(folder, 'trusted');
      await mkdir(trusted);
      await writeFile(join(trusted, 'ca.crt'), ca);
      const own = ['--cert-dir', trusted];
      const name = `127.0.0.1:${port}/team-a/busybox:1`;
      const [user, password] = LOGIN;
      await skopeo.run('login', ...own, '--username', user, '--password', password, `127.0.0.1:${port}`);
      const to = ['--dest-cert-dir', trusted, '--all', '--preserve-digests'];
      await skopeo.run('copy', '--quiet', ...to, `oci:${await imageLayout()}:busybox`, `docker://${name}`);
      const out = join(folder, 'out');
      const from = ['--src-cert-dir', trusted, '--all', '--preserve-digests'];
      await skopeo.run('copy', '--quiet', ...from, `docker://${name}`, `dir:${out}`);
      expect(await countIntact(out)).toBe(BUSYBOX_BLOBS);
    });

    test('knows the address of the client, whatever that claims', async () => {
      const headers = { 'x-forwarded-for': '192.0.2.1', 'x-forwarded-proto': 'http' };
      (await ask(port, '/v2/tools/who/tags/list', { ca, localAddress: CLIENT, headers })).resume();
      const line = () =>
        entrepot
          .logs()
          .split('\n')
          .find(each => each.includes('tools/who'));
      await until('the line of the log', SOON_MS, async () => line() !== undefined);
      expect(line()).toContain(`"remote":"${CLIENT}"`);
    });

    test('gets an upload while it is being sent, however large', async () => {
      const begun = await ask(port, '/v2/tools/app/blobs/uploads/', { ca, method: 'POST' });
      begun.resume();
      const blob = randomBlob(8 * MIB, `upload by ${program}`);
      const options = { host: '127.0.0.1', port, ca, method: 'PATCH', agent: false };
      const headers = { 'content-length': blob.size, 'content-type': 'application/octet-stream' };
      const sent = request({ ...options, path: String(begun.headers.location), headers });
      const answered = new Promise<IncomingMessage>((resolve, reject) => {
        sent.once('response', resolve).once('error', reject);
      });
      const bytes = Buffer.concat(Array.from(blob.slice()));
      sent.write(bytes.subarray(0, 4 * MIB));
      await until('half of it to be there', SOON_MS, async () => (await spooledBytes()) >= 3 * MIB);
      sent.end(bytes.subarray(4 * MIB));
      const { statusCode, headers: answer } = await answered;
      expect(statusCode).toBe(202);
      const end = `${answer.location}${answer.location?.includes('?') ? '&' : '?'}digest=${blob.digest}`;
      expect((await ask(port, end, { ca, method: 'PUT' })).statusCode).toBe(201);
    });

    test('sends a layer while it is being downloaded, and several ranges of it', async () => {
      const blob = randomBlob(4 * MIB, `download by ${program}`);
      upstream.add('app', blob);
      const rest = new Latch();
      upstream.misbehave({ kind: 'blob', pause: { atByte: 2 * MIB, until: rest.opened } });
      const path = `/v2/app/blobs/${blob.digest}?ns=${UPSTREAM}`;
      const response = await ask(port, path, { ca });
      let received = 0;
      response.on('data', (chunk: Buffer) => void (received += chunk.length));
      await until('the first part', SOON_MS, async () => received >= MIB);
      rest.open();
      await new Promise(resolve => response.once('end', resolve));
      expect(received).toBe(blob.size);
      const ranges = await ask(port, path, { ca, headers: { range: 'bytes=0-9,100-109' } });
      expect(ranges.statusCode).toBe(206);
      expect(await readText(ranges)).toContain('Content-Range: bytes 100-109/');
    });

    // nginx has one time for all methods.
    test.each(['haproxy'].filter(name => name === program))(
      'does not let a pull wait for it while it is suspended, and leaves a silent download alone',
      async () => {
        const blob = randomBlob(4 * MIB, 'silent download');
        upstream.add('app', blob);
        const rest = new Latch();
        upstream.misbehave({ kind: 'blob', pause: { atByte: 2 * MIB, until: rest.opened } });
        const silent = await ask(port, `/v2/app/blobs/${blob.digest}?ns=${UPSTREAM}`, { ca });
        const closed = new Promise(resolve => silent.once('close', resolve));
        silent.on('error', () => {});
        let received = 0;
        silent.on('data', (chunk: Buffer) => void (received += chunk.length));
        await until('the first part', SOON_MS, async () => received >= MIB);
        process.kill(entrepot.pid, 'SIGSTOP');
        try {
          expect((await ask(port, '/v2/tools/app/tags/list', { ca })).statusCode).toBe(504);
        } finally {
          process.kill(entrepot.pid, 'SIGCONT');
        }
        rest.open();
        await closed;
        expect(received).toBe(blob.size);
      },
    );

    async function spooledBytes(): Promise<number> {
      const spool = join(entrepot.folder, 'store', 'ingest');
      const names = await readdir(spool).catch(() => []);
      const sizes = await Promise.all(names.map(async name => (await stat(join(spool, name))).size));
      return Math.max(0, ...sizes);
    }
  });
});

describe.skipIf(!hasPrograms('haproxy'))('behind haproxy, replicas', () => {
  let folder: string;
  let proxy: Daemon;
  let port: number;
  let replicas: Server[];
  /** Requests they received, such as `GET 1`. */
  let asked: string[];
  let connections: number;
  /** Those that end connections without an answer, as one that is killed. */
  let dead: Set<number>;

  beforeAll(async () => {
    [asked, dead, connections] = [[], new Set(), 0];
    folder = await makeTempFolder('haproxy');
    port = await freePort();
    const seen = new WeakSet<object>();
    replicas = [1, 2, 3].map(at =>
      createServer((req, res) => {
        const isCheck = req.url?.endsWith('z') === true;
        if (!isCheck) asked.push(`${req.method} ${at}`);
        if (!isCheck && dead.has(at)) req.socket.destroy();
        else res.end();
      }),
    );
    const words: Record<string, string> = {
      'bind :5000': `bind 127.0.0.1:${port}`,
      'bind 127.0.0.1:8405': `bind 127.0.0.1:${await freePort()}`,
      ' port 5001': '',
      ' resolvers docker init-addr last,libc,none': '',
      'nameserver dns 127.0.0.11:53': '',
    };
    for (const [at, replica] of replicas.entries()) {
      // Health checks have connections of their own.
      replica.on('request', ({ socket, url }) => {
        if (url?.endsWith('z') === false && !seen.has(socket)) connections += 1;
        seen.add(socket);
      });
      const own = await listen(replica, { host: '127.0.0.1', port: 0, setting: 'server.listen' });
      words[`replica${at + 1}:5000`] = `127.0.0.1:${own}`;
    }
    const file = join(folder, 'haproxy.cfg');
    await writeFile(file, await adapted('replicas/haproxy.cfg', words));
    const args = ['-db', '-f', file];
    proxy = await Daemon.start({
      program: 'haproxy',
      args,
      isReady: () => answers(`http://127.0.0.1:${port}/v2/`),
    });
  });
  afterAll(async () => {
    await proxy.stop();
    for (const replica of replicas) {
      replica.close();
      replica.closeAllConnections();
    }
    await removeFolder(folder);
  });

  const status = async (method: string, agent: Agent | false = false): Promise<number | undefined> => {
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      plainRequest({ host: '127.0.0.1', port, path: '/v2/', method, agent })
        .once('response', resolve)
        .once('error', reject)
        .end();
    });
    await readText(response);
    return response.statusCode;
  };

  test('receive the requests of clients that stay connected over few connections', async () => {
    const before = connections;
    const agents = Array.from({ length: 12 }, () => new Agent({ keepAlive: true }));
    for (const agent of agents) for (let turn = 0; turn < 3; turn += 1) await status('GET', agent);
    for (const agent of agents) agent.destroy();
    expect(connections - before).toBeLessThanOrEqual(3);
  });

  test('if one is killed before it answers a pull, another answers it', async () => {
    dead = new Set([2]);
    asked = [];
    for (let client = 0; client < 6; client += 1) expect(await status('GET')).toBe(200);
    expect(asked).toContain('GET 2');
  });

  test('if one is killed before it answers a push, no other gets the push', async () => {
    dead = new Set([1, 2, 3]);
    asked = [];
    expect(await status('POST')).toBe(502);
    expect(asked).toHaveLength(1);
  });
});
