import { mkdir, writeFile } from 'node:fs/promises';
import type http from 'node:http';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { connect, request } from '../http/server.fixture.ts';
import { createOpsServer, type OpsServer } from '../http/ops-server.ts';
import { silentLog } from '../lib/log.ts';
import { AdminProblem } from './admin-problem.ts';
import { PageSite, type PageSiteOptions } from './page-site.ts';

let folder: string;
let server: OpsServer;
let port: number;

/** Whom `admit` is asked about. */
let asked: http.IncomingHttpHeaders[];
let refusing: AdminProblem | undefined;

const access: PageSiteOptions['access'] = {
  admit: async ({ headers }) => {
    asked.push(headers);
    if (refusing !== undefined) throw refusing;
    return { name: 'loopback', by: 'loopback', rights: 'full', remote: '127.0.0.1' };
  },
};

beforeEach(async () => {
  asked = [];
  refusing = undefined;
  folder = await makeTempFolder('page');
  await mkdir(join(folder, 'ui', 'assets'), { recursive: true });
  await writeFile(join(folder, 'ui', 'index.html'), '<!doctype html>');
  await writeFile(join(folder, 'ui', 'assets', 'main-1a2b.js'), 'void 0;');
  await writeFile(join(folder, 'ui', 'assets', 'main.js.map'), '{}');
  server = await createOpsServer({
    address: { host: '127.0.0.1', port: 0 },
    socketFolder: join(folder, 'sockets'),
    notReady: async () => undefined,
    metrics: async () => ({ contentType: 'text/plain', text: '' }),
    sites: [new PageSite({ folder: join(folder, 'ui'), access })],
    log: silentLog,
  });
  port = server.port ?? 0;
});

afterEach(async () => {
  await server.close();
  await removeFolder(folder);
});

describe('the page', () => {
  it('is a document that is looked for each time, and files that never change', async () => {
    const document = await request(port, '/ui/');
    expect([document.status, document.body.toString()]).toEqual([200, '<!doctype html>']);
    expect(document.headers).toMatchObject({
      'content-type': 'text/html; charset=utf-8',
      'cache-control': 'no-cache',
    });
    const script = await request(port, '/ui/assets/main-1a2b.js');
    expect([script.status, script.body.toString()]).toEqual([200, 'void 0;']);
    expect(script.headers).toMatchObject({
      'content-type': 'text/javascript; charset=utf-8',
      'cache-control': 'private, max-age=31536000, immutable',
    });
  });

  it('is sent again only if it has changed, in each encoding', async () => {
    const plain = await request(port, '/ui/');
    const gzipped = await request(port, '/ui/', { headers: { 'accept-encoding': 'br, gzip' } });
    expect(gzipped.headers).toMatchObject({ 'content-encoding': 'gzip', vary: 'Accept-Encoding' });
    expect(gunzipSync(gzipped.body)).toEqual(plain.body);
    expect(gzipped.headers['etag']).not.toBe(plain.headers['etag']);
    const again = await request(port, '/ui/', {
      headers: { 'if-none-match': `"other", W/${plain.headers['etag']}` },
    });
    expect([again.status, again.body.byteLength, again.headers['etag']]).toEqual([
      304,
      0,
      plain.headers['etag'],
    ]);
    const other = await request(port, '/ui/', { headers: { 'if-none-match': '"other"' } });
    expect(other.status).toBe(200);
  });

  it('leads to its folder without naming the host, so that a prefix of a proxy stays', async () => {
    const { status, headers } = await request(port, '/ui');
    expect([status, headers['location']]).toEqual([308, 'ui/']);
  });

  it('has no file that the build did not put there, nor one of another kind', async () => {
    const paths = [
      '/ui/../../package.json',
      '/ui/%2e%2e/secret',
      '/ui/nothing',
      '/ui/assets/',
      '/ui/assets/main.js.map',
    ];
    for (const path of paths) expect([path, (await request(port, path)).status]).toEqual([path, 404]);
    const raw = connect(port);
    raw.socket.write('GET /ui/../sockets HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
    expect(await raw.closed).toMatch(/^HTTP\/1\.1 404 /);
    expect((await request(port, '/uix')).status).toBe(404);
  });

  it('is only read, also by HEAD', async () => {
    expect((await request(port, '/ui/', { method: 'POST' })).status).toBe(405);
    const head = await request(port, '/ui/', { method: 'HEAD' });
    expect([head.status, head.body.byteLength, head.headers['content-length']]).toEqual([200, 0, '15']);
  });

  it('is shown in no other page, and asks nobody else, whatever the answer is', async () => {
    for (const path of ['/ui', '/ui/', '/ui/nothing', '/ui/assets/main-1a2b.js']) {
      const { headers } = await request(port, path);
      expect(headers).toMatchObject({
        'x-frame-options': 'DENY',
        'x-content-type-options': 'nosniff',
        'referrer-policy': 'no-referrer',
        'cross-origin-resource-policy': 'same-origin',
      });
      const policy = headers['content-security-policy'];
      expect(policy).toContain("default-src 'none'; script-src 'self'; style-src 'self'");
      expect(policy).toContain("connect-src 'self'");
      expect(policy).toContain("base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
      expect(policy).toContain("require-trusted-types-for 'script'; trusted-types 'none'");
      expect(policy).not.toContain('unsafe');
    }
  });

  it('is given only to whom its figures are given', async () => {
    refusing = new AdminProblem('unauthorized', 'log in', { 'WWW-Authenticate': 'Basic realm="x"' });
    const { status, headers, body } = await request(port, '/ui/');
    expect([status, headers['www-authenticate'], body.toString()]).toEqual([
      401,
      'Basic realm="x"',
      'log in\n',
    ]);
  });

  it('may be linked to from elsewhere, but not framed, posted to or asked for by a script', async () => {
    const site = 'cross-site';
    const visit = { 'sec-fetch-site': site, 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' };
    await request(port, '/ui/', { headers: visit });
    await request(port, '/ui/', { headers: { ...visit, 'sec-fetch-dest': 'iframe' } });
    await request(port, '/ui/', { headers: { ...visit, 'sec-fetch-mode': 'no-cors' } });
    await request(port, '/ui/', { headers: { ...visit, origin: 'https://elsewhere.example' } });
    await request(port, '/ui/', { method: 'POST', headers: visit });
    expect(asked.map(headers => headers['sec-fetch-site'])).toEqual(['none', site, site, site, site]);
  });

  it('is missing with a hint where it was not built', async () => {
    await server.close();
    server = await createOpsServer({
      address: { host: '127.0.0.1', port: 0 },
      socketFolder: join(folder, 'sockets'),
      notReady: async () => undefined,
      metrics: async () => ({ contentType: 'text/plain', text: '' }),
      sites: [new PageSite({ folder: join(folder, 'none'), access })],
      log: silentLog,
    });
    const { status, body } = await request(server.port ?? 0, '/ui/');
    expect([status, body.toString()]).toEqual([
      404,
      'this installation has no page: npm run build makes it\n',
    ]);
  });
});
