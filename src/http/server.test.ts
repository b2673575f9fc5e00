import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { IndexAway } from '../metadata/index-away.ts';
import { parseDigest } from '../oci/digest.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../oci/media-types.ts';
import { OciError } from '../oci/errors.ts';
import {
  KeptLog,
  MemoryReader,
  MemorySource,
  openSubject,
  type Reply,
  request,
  RIGHT,
  startServer,
  until,
} from './server.fixture.ts';
import type { RegistryServer, RegistryServerOptions } from './server.ts';

let source: MemorySource;
let server: (RegistryServer & { port: number }) | undefined;

beforeEach(() => {
  source = new MemorySource();
});

afterEach(async () => {
  await server?.close(0);
  server = undefined;
});

async function start(options: Partial<RegistryServerOptions> = {}): Promise<number> {
  server = await startServer(source, options);
  return server.port;
}

function codeOf(reply: Reply): string {
  return /^\{"errors":\[\{"code":"([A-Z_]+)"/.exec(reply.body.toString())?.[1] ?? '';
}

const MISSING = `sha256:${'0'.repeat(64)}`;

describe('GET /v2/', () => {
  it('identifies a registry', async () => {
    const reply = await request(await start(), '/v2/');
    expect(reply.status).toBe(200);
    expect(reply.headers['docker-distribution-api-version']).toBe('registry/2.0');
    expect(reply.body.toString()).toBe('{}');
  });

  it('gets 503 until tenants are loaded, like every request', async () => {
    let waitingFor: string | undefined = 'a cluster';
    const port = await start({ waitingFor: () => waitingFor });
    for (const path of ['/v2/', '/v2/library/nginx/manifests/1?ns=docker.io', '/token', '/']) {
      const reply = await request(port, path);
      expect([reply.status, codeOf(reply), reply.headers['retry-after']]).toEqual([503, 'UNAVAILABLE', '5']);
    }
    waitingFor = undefined;
    expect((await request(port, '/v2/')).status).toBe(200);
  });

  it('gets the challenge of access if somebody can log in', async () => {
    const challenge = 'Bearer realm="http://x/token"';
    const port = await start({
      access: {
        authenticate: async () => ({
          ...openSubject,
          admit: async () => {
            throw new OciError('UNAUTHORIZED', { headers: { 'WWW-Authenticate': challenge } });
          },
        }),
      },
    });
    const reply = await request(port, '/v2/');
    expect([reply.status, reply.headers['www-authenticate']]).toEqual([401, challenge]);
    expect(codeOf(reply)).toBe('UNAUTHORIZED');
  });
});

describe('a manifest', () => {
  const text = '{ "schemaVersion":2 }\n';

  it('is served byte for byte with its digest, type and length, by tag and by digest, by GET and HEAD', async () => {
    const { digest } = source.addManifest('docker.io/library/nginx', 'latest', text, OCI_MANIFEST);
    const port = await start();
    for (const reference of ['latest', digest]) {
      for (const method of ['GET', 'HEAD']) {
        const reply = await request(port, `/v2/docker.io/library/nginx/manifests/${reference}`, { method });
        expect(reply.status).toBe(200);
        expect(reply.headers).toMatchObject({
          'docker-content-digest': digest,
          'content-type': OCI_MANIFEST,
          'content-length': String(text.length),
          etag: `"${digest}"`,
          'cache-status': 'entrepot; hit',
        });
        expect(reply.headers['content-encoding']).toBeUndefined();
        expect(reply.headers['vary']).toBe(reference === 'latest' ? 'Accept' : undefined);
        expect(reply.body.toString()).toBe(method === 'GET' ? text : '');
      }
    }
  });

  it('requested with ns is answered with the namespace', async () => {
    source.addManifest('docker.io/library/nginx', 'latest', text, OCI_MANIFEST);
    const reply = await request(await start(), '/v2/library/nginx/manifests/latest?ns=docker.io');
    expect([reply.status, reply.headers['oci-namespace']]).toEqual([200, 'docker.io']);
  });

  it('with an unknown ns is unknown, and no source is asked', async () => {
    const reply = await request(await start(), '/v2/library/nginx/manifests/latest?ns=evil.example');
    expect([reply.status, codeOf(reply)]).toEqual([404, 'NAME_UNKNOWN']);
    expect(reply.headers['oci-namespace']).toBeUndefined();
    expect(source.asked).toEqual([]);
  });

  it('on a listener of one upstream, or by its host alias, needs no prefix', async () => {
    source.addManifest('docker.io/library/nginx', 'latest', text, OCI_MANIFEST);
    const port = await start({ listeners: [{ host: '127.0.0.1', port: 0, upstream: 'docker.io' }] });
    expect((await request(port, '/v2/library/nginx/manifests/latest')).status).toBe(200);
    await server?.close(0);
    const plain = await start();
    expect((await request(plain, '/v2/library/nginx/manifests/latest')).status).toBe(404);
    const aliased = await request(plain, '/v2/nginx/manifests/latest', {
      headers: { host: 'docker.mirror.example:5000' },
    });
    expect(aliased.status).toBe(200);
  });

  it('that the client has is 304', async () => {
    const { digest } = source.addManifest('ghcr.io/a', 'v1', text, OCI_MANIFEST);
    const port = await start();
    for (const etag of [`"${digest}"`, `W/"${digest}"`, '*', `"x", "${digest}"`]) {
      const reply = await request(port, '/v2/ghcr.io/a/manifests/v1', { headers: { 'if-none-match': etag } });
      expect([reply.status, reply.body.length]).toEqual([304, 0]);
    }
    const other = await request(port, '/v2/ghcr.io/a/manifests/v1', {
      headers: { 'if-none-match': '"other"' },
    });
    expect(other.status).toBe(200);
  });

  it.each([
    [undefined, true, true],
    ['*/*', true, true],
    ['application/*', true, true],
    [`${OCI_MANIFEST}, */*`, true, true],
    [`${OCI_INDEX}, ${OCI_MANIFEST}`, true, true],
    [OCI_MANIFEST, false, true],
    [OCI_MANIFEST.toUpperCase(), false, true],
    [`${OCI_MANIFEST};q=0.5`, false, true],
    [`*/*, ${OCI_INDEX};q=0`, false, true],
    ['text/html', false, false],
  ])('with Accept %s lets an index: %s, a manifest: %s', async (accept, index, manifest) => {
    source.addManifest('ghcr.io/a', 'v1', text, OCI_MANIFEST);
    const port = await start();
    await request(port, '/v2/ghcr.io/a/manifests/v1?platform=linux/arm64', {
      headers: accept === undefined ? {} : { accept },
    });
    expect(source.lastWant?.accepts(OCI_INDEX)).toBe(index);
    expect(source.lastWant?.accepts(OCI_MANIFEST)).toBe(manifest);
    expect(source.lastWant?.platform).toBe('linux/arm64');
  });

  it.each([
    ['hit', 'entrepot; hit'],
    ['revalidated', 'entrepot; fwd=stale; detail=revalidated'],
    ['stale', 'entrepot; fwd=stale; detail=upstream-failed'],
    ['miss', 'entrepot; fwd=uri-miss; stored'],
    ['joined', 'entrepot; fwd=uri-miss; stored; collapsed'],
    ['hosted', undefined],
  ] as const)('whose outcome is %s says %s', async (outcome, expected) => {
    source.addManifest('ghcr.io/a', 'v1', text, OCI_MANIFEST);
    source.outcome = outcome;
    const reply = await request(await start(), '/v2/ghcr.io/a/manifests/v1');
    expect(reply.headers['cache-status']).toBe(expected);
  });
});

describe('an error', () => {
  it('has an OCI body with its length, no Cache-Status, and none of it for HEAD', async () => {
    const port = await start();
    const path = '/v2/ghcr.io/a/manifests/none';
    const reply = await request(port, path);
    expect([reply.status, codeOf(reply)]).toEqual([404, 'MANIFEST_UNKNOWN']);
    expect(reply.headers['content-length']).toBe(String(reply.body.length));
    expect(reply.headers['content-type']).toMatch(/^application\/json/);
    expect(reply.headers['cache-status']).toBeUndefined();
    const head = await request(port, path, { method: 'HEAD' });
    expect([head.status, head.body.length]).toEqual([404, 0]);
  });

  it.each([
    ['/v2/library%2Fnginx/manifests/x', 400, 'NAME_INVALID'],
    ['/v2/a/../b/manifests/x', 400, 'NAME_INVALID'],
    ['/v2/A/manifests/x', 400, 'NAME_INVALID'],
    ['/v2/a//b/manifests/x', 400, 'NAME_INVALID'],
    ['/v2/ghcr.io/a/blobs/sha256:..%2Fx', 400, 'DIGEST_INVALID'],
    ['/v2/nothing', 404, 'NAME_UNKNOWN'],
    ['/', 404, 'NAME_UNKNOWN'],
    ['/v2x/', 404, 'NAME_UNKNOWN'],
    [`/v2/ghcr.io/a/blobs/${MISSING}`, 404, 'BLOB_UNKNOWN'],
  ])('of %s is %i %s', async (path, status, code) => {
    const reply = await request(await start(), path);
    expect([reply.status, codeOf(reply)]).toEqual([status, code]);
  });

  it('for an unsupported method lists those that are supported', async () => {
    const port = await start();
    for (const method of ['DELETE', 'OPTIONS', 'PROPFIND']) {
      const reply = await request(port, '/v2/ghcr.io/a/tags/list', { method });
      expect([reply.status, codeOf(reply), reply.headers['allow']]).toEqual([
        405,
        'UNSUPPORTED',
        'GET, HEAD',
      ]);
    }
  });

  it('that is a bug is 500, with its cause only in the log', async () => {
    const log = new KeptLog();
    source.manifest = async () => {
      throw new TypeError('secret internals');
    };
    const reply = await request(await start({ log }), '/v2/ghcr.io/a/manifests/x');
    expect([reply.status, codeOf(reply)]).toEqual([500, 'UNKNOWN']);
    expect(reply.body.toString()).not.toContain('secret');
    expect(log.lines.find(({ level }) => level === 'error')?.fields['err']).toBeInstanceOf(TypeError);
  });

  it('of an outage that is logged already has no line but its own, which says why without a stack', async () => {
    const log = new KeptLog();
    source.manifest = async () => {
      throw new IndexAway('the database of the index cannot be reached: connect ECONNREFUSED');
    };
    const reply = await request(await start({ log }), '/v2/ghcr.io/a/manifests/x');
    expect([reply.status, codeOf(reply), reply.headers['retry-after']]).toEqual([503, 'UNAVAILABLE', '5']);
    await until(() => log.lines.some(({ message }) => message === 'response'));
    expect(log.lines.filter(({ level }) => level === 'error')).toEqual([]);
    const [line] = log.lines.filter(({ message }) => message === 'response');
    expect(line?.fields).toMatchObject({
      err: undefined,
      reason: expect.stringMatching(
        /^UNAVAILABLE: .*\(the database of the index cannot be reached: .*ECONNREFUSED\)$/,
      ),
    });
  });

  it('keeps its own headers', async () => {
    source.manifest = async () => {
      throw new OciError('TOOMANYREQUESTS', { headers: { 'Retry-After': '7' } });
    };
    const reply = await request(await start(), '/v2/ghcr.io/a/manifests/x');
    expect([reply.status, reply.headers['retry-after']]).toEqual([429, '7']);
  });

  it('of a source may become a challenge of access', async () => {
    const port = await start({
      access: {
        authenticate: async () => ({
          ...openSubject,
          refusal: async (error, repository, action) =>
            new OciError('UNAUTHORIZED', {
              headers: { 'WWW-Authenticate': `${error.code} ${repository.upstream} ${action}` },
            }),
        }),
      },
    });
    const reply = await request(port, '/v2/ghcr.io/a/manifests/x');
    expect([reply.status, reply.headers['www-authenticate']]).toEqual([401, 'MANIFEST_UNKNOWN ghcr.io pull']);
  });
});

describe('access', () => {
  it('is asked before any source, with the action and the sender', async () => {
    const seen: unknown[] = [];
    const port = await start({
      access: {
        authenticate: async sender => {
          seen.push(sender);
          return {
            ...openSubject,
            authorize: async (repository, action) => {
              seen.push([repository, action]);
              throw new OciError('NAME_UNKNOWN');
            },
          };
        },
      },
    });
    const reply = await request(port, `/v2/a/blobs/${MISSING}?ns=ghcr.io`, {
      headers: { authorization: 'Basic eDp5' },
    });
    expect(reply.status).toBe(404);
    expect(source.asked).toEqual([]);
    expect(seen).toEqual([
      expect.objectContaining({
        authorization: 'Basic eDp5',
        remote: '127.0.0.1',
        loopback: true,
        secure: false,
        byNamespace: true,
      }),
      [{ upstream: 'ghcr.io', name: 'a' }, 'pull'],
    ]);
  });

  it('never lets a write reach a mirror; without handlers nothing can be written', async () => {
    const port = await start();
    for (const name of ['ghcr.io/a', 'team-a/app']) {
      const reply = await request(port, `/v2/${name}/manifests/x`, { method: 'PUT', body: '{}' });
      expect([name, reply.status]).toEqual([name, 405]);
    }
  });
});

describe('a blob', () => {
  it('is served completely, with its digest and length, by GET and HEAD', async () => {
    const bytes = randomBytes(3_000_000);
    const digest = source.addBlob('ghcr.io/a', bytes);
    const port = await start();
    const reply = await request(port, `/v2/ghcr.io/a/blobs/${digest}`);
    expect(reply.status).toBe(200);
    expect(reply.body.equals(bytes)).toBe(true);
    expect(reply.headers).toMatchObject({
      'content-type': 'application/octet-stream',
      'content-length': '3000000',
      'docker-content-digest': digest,
      'accept-ranges': 'bytes',
      'cache-status': 'entrepot; hit',
    });
    const head = await request(port, `/v2/ghcr.io/a/blobs/${digest}`, { method: 'HEAD' });
    expect([head.status, head.headers['content-length'], head.body.length]).toEqual([200, '3000000', 0]);
    expect(source.opened).toBe(1);
    await until(() => source.stillOpen.size === 0);
  });

  it.each([
    ['bytes=0-', 206, 0, 200_000],
    ['bytes=10-19', 206, 10, 20],
    ['bytes=-5', 206, 199_995, 200_000],
    ['bytes=199999-', 206, 199_999, 200_000],
    ['bytes=100000-999999999', 206, 100_000, 200_000],
    ['lines=1-2', 200, 0, 200_000],
    ['bytes=nonsense', 200, 0, 200_000],
  ])('with Range %s is %i, from %i to %i', async (range, status, start_, end) => {
    const bytes = randomBytes(200_000);
    const digest = source.addBlob('ghcr.io/a', bytes);
    const reply = await request(await start(), `/v2/ghcr.io/a/blobs/${digest}`, { headers: { range } });
    expect(reply.status).toBe(status);
    expect(reply.body.equals(bytes.subarray(start_, end))).toBe(true);
    expect(reply.headers['content-range']).toBe(
      status === 206 ? `bytes ${start_}-${end - 1}/200000` : undefined,
    );
  });

  it('with ranges is logged with those that were requested, at most so many of them, and those that were sent', async () => {
    const log = new KeptLog();
    const digest = source.addBlob('ghcr.io/a', randomBytes(100));
    const port = await start({ log });
    const many = `bytes=${Array.from({ length: 99 }, (_, at) => `${at}-${at}`).join()}`;
    const malformed = 'bytes=secret';
    for (const [at, range] of ['bytes=2-4', many, 'bytes=100-', malformed].entries()) {
      await request(port, `/v2/ghcr.io/a/blobs/${digest}`, { headers: { range } });
      await until(() => log.lines.filter(({ message }) => message === 'response').length === at + 1);
    }
    const lines = log.lines.filter(({ message }) => message === 'response').map(({ fields }) => fields);
    expect(lines.map(line => [line['range'], line['contentRange']])).toEqual([
      ['bytes=2-4', 'bytes 2-4/100'],
      [many.slice(0, 200), 'multipart/byteranges'],
      ['bytes=100-', undefined],
      ['bytes=', undefined],
    ]);
  });

  it('of which nothing can be read is refused, and no range of it is logged as sent', async () => {
    const log = new KeptLog();
    const bytes = randomBytes(100);
    const digest = source.addBlob('ghcr.io/a', bytes, () => {
      const reader = new MemoryReader(bytes);
      reader.read = async () => {
        throw new OciError('UPSTREAM_INVALID');
      };
      return reader;
    });
    const port = await start({ log });
    const reply = await request(port, `/v2/ghcr.io/a/blobs/${digest}`, { headers: { range: 'bytes=2-4' } });
    expect(reply.status).toBe(502);
    await until(() => log.lines.some(({ message }) => message === 'response'));
    const [line] = log.lines.filter(({ message }) => message === 'response');
    expect(line?.fields).toMatchObject({ status: 502, range: 'bytes=2-4', contentRange: undefined });
  });

  it('that clients read elsewhere is logged as sent there, without a byte or range of it, and its reader is closed', async () => {
    const log = new KeptLog();
    const bytes = randomBytes(100);
    const digest = source.addBlob('ghcr.io/a', bytes, () => {
      const reader = new MemoryReader(bytes);
      reader.url = async () => 'https://s3.example/object';
      return reader;
    });
    const port = await start({ log });
    const reply = await request(port, `/v2/ghcr.io/a/blobs/${digest}`, { headers: { range: 'bytes=2-4' } });
    expect([reply.status, reply.headers.location, reply.headers['cache-control']]).toEqual([
      307,
      'https://s3.example/object',
      'no-store',
    ]);
    await until(() => log.lines.some(({ message }) => message === 'response'));
    const [line] = log.lines.filter(({ message }) => message === 'response');
    expect(line?.fields).toMatchObject({
      status: 307,
      bytes: 0,
      range: 'bytes=2-4',
      contentRange: undefined,
    });
    expect(source.stillOpen).toEqual(new Set());
  });

  it('with a range after its end is 416, and its reader is closed', async () => {
    const digest = source.addBlob('ghcr.io/a', randomBytes(100));
    const reply = await request(await start(), `/v2/ghcr.io/a/blobs/${digest}`, {
      headers: { range: 'bytes=100-' },
    });
    expect([reply.status, codeOf(reply), reply.headers['content-range']]).toEqual([
      416,
      'RANGE_INVALID',
      'bytes */100',
    ]);
    expect(reply.headers['cache-status']).toBeUndefined();
    expect(source.stillOpen.size).toBe(0);
  });

  it("with If-Range is partial only if that is this blob's entity tag", async () => {
    const digest = source.addBlob('ghcr.io/a', randomBytes(100));
    const port = await start();
    const ask = (condition: string) =>
      request(port, `/v2/ghcr.io/a/blobs/${digest}`, {
        headers: { range: 'bytes=0-9', 'if-range': condition },
      });
    expect((await ask(`"${digest}"`)).status).toBe(206);
    expect((await ask('"other"')).status).toBe(200);
    expect((await ask('Wed, 21 Oct 2026 07:28:00 GMT')).status).toBe(200);
  });

  it('that the client has is 304, and is not opened', async () => {
    const digest = source.addBlob('ghcr.io/a', randomBytes(100));
    const reply = await request(await start(), `/v2/ghcr.io/a/blobs/${digest}`, {
      headers: { 'if-none-match': `"${digest}"` },
    });
    expect([reply.status, reply.body.length]).toEqual([304, 0]);
    expect(source.opened).toBe(0);
  });

  it('is no failure of the response if its reader cannot be closed', async () => {
    const bytes = randomBytes(1_000);
    const digest = source.addBlob('ghcr.io/a', bytes, () =>
      Object.assign(new MemoryReader(bytes), { close: () => Promise.reject(new Error('EIO')) }),
    );
    const log = new KeptLog();
    const { body } = await request(await start({ log }), `/v2/ghcr.io/a/blobs/${digest}`);
    expect(body.equals(bytes)).toBe(true);
    await until(() => log.lines.length === 2);
    expect(log.lines.map(({ message }) => message).toSorted()).toEqual([
      'a blob that was sent could not be closed',
      'response',
    ]);
  });

  it('may be empty', async () => {
    const digest = source.addBlob('ghcr.io/a', new Uint8Array());
    const reply = await request(await start(), `/v2/ghcr.io/a/blobs/${digest}`, {
      headers: { range: 'bytes=0-' },
    });
    expect([reply.status, reply.headers['content-length'], reply.body.length]).toEqual([200, '0', 0]);
  });
});

describe('a list of tags', () => {
  const names = Array.from({ length: 2_500 }, (_, index) => `v${String(index).padStart(5, '0')}`);

  it('is paged, and its Link keeps the parameters of the client', async () => {
    source.tagNames.set('docker.io/library/nginx', ['a', 'b', 'c']);
    const port = await start();
    const first = await request(port, '/v2/library/nginx/tags/list?n=2&ns=docker.io');
    expect(JSON.parse(first.body.toString())).toEqual({ name: 'library/nginx', tags: ['a', 'b'] });
    expect(first.headers['link']).toBe('</v2/library/nginx/tags/list?n=2&last=b&ns=docker.io>; rel="next"');
    const second = await request(port, '/v2/library/nginx/tags/list?n=2&last=b&ns=docker.io');
    expect(JSON.parse(second.body.toString())).toEqual({ name: 'library/nginx', tags: ['c'] });
    expect(second.headers['link']).toBeUndefined();
  });

  it.each(['', '?n=1000000000', '?n=99999999999999999999999'])('with %s is bounded', async query => {
    source.tagNames.set('ghcr.io/a', names);
    const reply = await request(await start(), `/v2/ghcr.io/a/tags/list${query}`);
    expect(JSON.parse(reply.body.toString())).toEqual({ name: 'ghcr.io/a', tags: names.slice(0, 1000) });
    expect(reply.headers['link']).toBe('</v2/ghcr.io/a/tags/list?n=1000&last=v00999>; rel="next"');
  });

  it('after a name that is too long is refused', async () => {
    source.tagNames.set('ghcr.io/a', names);
    const reply = await request(await start(), `/v2/ghcr.io/a/tags/list?last=${'v'.repeat(256)}`);
    expect([reply.status, JSON.parse(reply.body.toString()).errors[0].code]).toEqual([400, 'QUERY_INVALID']);
  });

  it('with n=0 is empty and has no Link, if the repository exists', async () => {
    source.tagNames.set('ghcr.io/a', names);
    const port = await start();
    const reply = await request(port, '/v2/ghcr.io/a/tags/list?n=0');
    expect([reply.status, reply.body.toString(), reply.headers['link']]).toEqual([
      200,
      '{"name":"ghcr.io/a","tags":[]}',
      undefined,
    ]);
    expect((await request(port, '/v2/ghcr.io/none/tags/list?n=0')).status).toBe(404);
  });

  it.each(['-1', 'NaN', '1.5', '1e3', ' ', ''])('with n=%j is refused', async n => {
    source.tagNames.set('ghcr.io/a', names);
    const reply = await request(await start(), `/v2/ghcr.io/a/tags/list?n=${encodeURIComponent(n)}`);
    expect([reply.status, codeOf(reply)]).toEqual([400, 'PAGINATION_NUMBER_INVALID']);
  });
});

describe('a list of referrers', () => {
  it('is an index, filtered and paged', async () => {
    const subject = source.addManifest('ghcr.io/a', 'v1', '{}', OCI_MANIFEST).digest;
    source.referrerList = ['1', '2', '3'].map(digit => ({
      mediaType: OCI_MANIFEST,
      digest: parseDigest(`sha256:${digit.repeat(64)}`),
      size: 2,
      artifactType: digit === '3' ? 'application/sbom' : 'application/signature',
    }));
    const port = await start();
    const all = await request(port, `/v2/ghcr.io/a/referrers/${subject}`);
    expect(all.headers['content-type']).toBe(OCI_INDEX);
    expect(JSON.parse(all.body.toString())).toEqual({
      schemaVersion: 2,
      mediaType: OCI_INDEX,
      manifests: source.referrerList,
    });
    expect(all.headers['oci-filters-applied']).toBeUndefined();
    const page = await request(
      port,
      `/v2/ghcr.io/a/referrers/${subject}?artifactType=application%2Fsignature&n=1`,
    );
    expect(page.headers['oci-filters-applied']).toBe('artifactType');
    expect(page.headers['link']).toBe(
      `</v2/ghcr.io/a/referrers/${subject}?n=1&last=${encodeURIComponent(`sha256:${'1'.repeat(64)}`)}&artifactType=application%2Fsignature>; rel="next"`,
    );
  });
});

describe('the response log', () => {
  it('has one line per response with what was requested and sent, and no secrets', async () => {
    const log = new KeptLog();
    const digest = source.addBlob('docker.io/library/nginx', randomBytes(100_000));
    const port = await start({ log });
    await request(port, `/v2/library/nginx/blobs/${digest}?ns=docker.io&token=hunter2`, {
      headers: { authorization: 'Bearer hunter2', cookie: 'hunter2' },
    });
    await request(port, '/v2/docker.io/library/nginx/manifests/none');
    const responses = (): KeptLog['lines'] => log.lines.filter(({ message }) => message === 'response');
    await until(() => responses().length === 2);
    expect(responses()[0]?.fields).toMatchObject({
      method: 'GET',
      route: 'blob',
      upstream: 'docker.io',
      repository: 'library/nginx',
      reference: digest,
      status: 200,
      bytes: 100_000,
      outcome: 'hit',
      requester: 'anonymous',
      remote: '127.0.0.1',
    });
    const { firstByteMs, totalMs } = responses()[0]?.fields ?? {};
    expect(firstByteMs).toBeGreaterThan(0);
    expect(totalMs).toBeGreaterThanOrEqual(Number(firstByteMs));
    expect(responses()[1]?.fields).toMatchObject({
      route: 'manifest',
      reference: 'none',
      status: 404,
      reason: 'MANIFEST_UNKNOWN: manifest unknown to registry',
    });
    expect(JSON.stringify(log.lines)).not.toContain('hunter2');
  });

  it('says why upstream failed, even if the client is told less or something else', async () => {
    const log = new KeptLog();
    source.manifest = async () => {
      throw new OciError('MANIFEST_UNKNOWN', { cause: new Error('ghcr.io answers 401') });
    };
    const asked = { ...openSubject, refusal: async () => new OciError('UNAUTHORIZED') };
    const port = await start({ log, access: { authenticate: async () => asked } });
    expect((await request(port, '/v2/ghcr.io/a/b/manifests/1')).status).toBe(401);
    const responses = (): KeptLog['lines'] => log.lines.filter(({ message }) => message === 'response');
    await until(() => responses().length === 1);
    expect(responses()[0]?.fields).toMatchObject({
      status: 401,
      reason: 'MANIFEST_UNKNOWN: manifest unknown to registry (ghcr.io answers 401)',
    });
    expect(responses()[0]?.fields).toMatchObject({ upstreamMs: undefined });
  });

  it('says what the client is told if that is due to another failure', async () => {
    const log = new KeptLog();
    source.manifest = async () => {
      throw new OciError('UNAVAILABLE', { message: 'ghcr.io is away' });
    };
    const asked = {
      ...openSubject,
      refusal: async (cause: OciError) => new OciError('UNSUPPORTED', { message: 'only pulled', cause }),
    };
    const port = await start({ log, access: { authenticate: async () => asked } });
    expect((await request(port, '/v2/ghcr.io/a/b/manifests/1', { method: 'HEAD' })).status).toBe(405);
    const responses = (): KeptLog['lines'] => log.lines.filter(({ message }) => message === 'response');
    await until(() => responses().length === 1);
    expect(responses()[0]?.fields).toMatchObject({
      status: 405,
      reason: 'UNSUPPORTED: only pulled (ghcr.io is away)',
      firstByteMs: undefined,
    });
  });
});

describe('the right that access returns', () => {
  it('is passed to the source', async () => {
    const rights: unknown[] = [];
    source.tags = async (_repository, _page, right) => {
      rights.push(right);
      return { tags: [], next: undefined, outcome: 'hit', stored: true, upstreamMs: 0 };
    };
    await request(await start(), '/v2/ghcr.io/a/tags/list');
    expect(rights).toEqual([RIGHT]);
  });
});
