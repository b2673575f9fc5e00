import {
  createServer,
  type IncomingMessage,
  request as forward,
  type Server,
  type ServerResponse,
} from 'node:http';
import { readFileSync } from 'node:fs';
import { once } from 'node:events';
import { createServer as createTlsServer } from 'node:https';
import { createServer as createTcpServer } from 'node:net';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setImmediate as nextTick } from 'node:timers/promises';
import { TLSSocket } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { HttpClient, type HttpClientOptions } from './http-client.ts';
import { HttpFailure } from './http-failure.ts';

const LIMITS = { connectMs: 2_000, headersMs: 2_000, idleBodyMs: 2_000 };
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

async function serve(listener: (request: IncomingMessage, response: ServerResponse) => void) {
  const server: Server = createServer(listener);
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(async () => {
    server.closeAllConnections();
    await new Promise(resolve => server.close(resolve));
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('not listening');
  return { server, port: address.port, url: `http://127.0.0.1:${address.port}` };
}

function httpClient(options: Partial<HttpClientOptions> = {}): HttpClient {
  const client = new HttpClient({ ...LIMITS, ...options });
  cleanups.push(() => client.close());
  return client;
}

async function failure(promise: Promise<unknown>): Promise<HttpFailure> {
  const error: unknown = await promise.catch((reason: unknown) => reason);
  if (!(error instanceof HttpFailure)) throw new Error('no HttpFailure', { cause: error });
  return error;
}

const file = (name: string) =>
  readFileSync(new URL(`../../test/support/tls/${name}`, import.meta.url), 'utf8');

describe('HttpClient', () => {
  it('keeps a connection for the next request, even after HEAD', async () => {
    const { server, url } = await serve((_, response) => response.end('body'));
    let connections = 0;
    server.on('connection', () => {
      connections += 1;
    });
    const client = httpClient();
    for (const method of ['HEAD', 'GET', 'HEAD'] as const) {
      const { body } = await client.request({ method, url: new URL(url), headers: {} });
      await text(body);
      await new Promise(resolve => setTimeout(resolve, 20));
    }
    expect(connections).toBe(1);
  });

  it('sends a body of bytes, and a stream again if the server has closed the connection meanwhile', async () => {
    const received: string[] = [];
    let served = 0;
    const { url } = await serve((request, response) => {
      served += 1;
      // The second request finds a connection that seemed to be open.
      if (served === 2) {
        request.socket.destroy();
        return;
      }
      void text(request).then(body => {
        received.push(`${request.method} ${request.headers['content-length']} ${body}`);
        return response.end();
      });
    });
    const client = httpClient();
    let streams = 0;
    const stream = () => {
      streams += 1;
      return Readable.from([Buffer.from('str'), Buffer.from('eam')]);
    };
    const put = async (body: Uint8Array | (() => Readable), length: number) => {
      const headers = { 'content-length': String(length) };
      const response = await client.request({ method: 'PUT', url: new URL(url), headers, body });
      await text(response.body);
    };
    await put(Buffer.from('bytes'), 5);
    // The connection is free again in the next turn.
    await nextTick();
    await put(stream, 6);
    expect([received, streams]).toEqual([['PUT 5 bytes', 'PUT 6 stream'], 2]);
  });

  it.each([
    { isIdempotent: undefined, times: 1, outcome: 'broken' },
    { isIdempotent: true, times: 2, outcome: 200 },
  ])('sends a POST $times times if the connection closes, idempotent: $isIdempotent', async expected => {
    const { isIdempotent, times, outcome } = expected;
    let posts = 0;
    const { url } = await serve((request, response) => {
      if (request.method === 'POST') posts += 1;
      // It may have done already what it was sent.
      if (request.method === 'POST' && posts === 1) request.socket.destroy();
      else response.end();
    });
    const client = httpClient();
    const ask = (method: 'GET' | 'POST') =>
      client.request({ method, url: new URL(url), headers: {}, isIdempotent });
    await text((await ask('GET')).body);
    await nextTick();
    const ended = await ask('POST').then(
      ({ status, body }) => text(body).then(() => status),
      (error: unknown) => (error instanceof HttpFailure ? error.reason : error),
    );
    expect([posts, ended]).toEqual([times, outcome]);
  });
});

describe.each([{ isBulk: false }, { isBulk: true }])(
  'HttpClient, with bulk bodies: $isBulk',
  ({ isBulk }) => {
    const get = (url: string) => ({ method: 'GET', url: new URL(url), headers: {}, isBulk }) as const;

    it('distinguishes unreachable, forbidden and broken', async () => {
      const gone = await serve(() => {});
      gone.server.closeAllConnections();
      await new Promise(resolve => gone.server.close(resolve));
      expect((await failure(httpClient().request(get(gone.url)))).reason).toBe('unreachable');
      const rude = await serve((request: IncomingMessage) => request.socket.destroy());
      expect((await failure(httpClient().request(get(rude.url)))).reason).toBe('broken');
      const guard = {
        admit: () => {
          throw new Error('not there');
        },
        connected() {},
      };
      const { reason, message } = await failure(httpClient({ guard }).request(get(rude.url)));
      expect([reason, message]).toEqual(['forbidden', 'not there']);
    });

    it('gives up a connection that is not made within its limit', async () => {
      // Takes connections, and leaves every TLS handshake without an answer.
      const mute = createTcpServer(() => {}).listen(0, '127.0.0.1');
      await once(mute, 'listening');
      cleanups.push(async () => mute.close());
      const address = mute.address();
      if (address === null || typeof address === 'string') throw new Error('not listening');
      const hanging = await serve(() => {});
      const first = await Promise.race([
        failure(httpClient({ connectMs: 100 }).request(get(`https://127.0.0.1:${address.port}/`))),
        failure(httpClient({ headersMs: 4_000 }).request(get(hanging.url))),
      ]);
      expect(first.reason).toBe('unreachable');
    });

    it('connects to the addresses of a name that its guard admits, and reports which', async () => {
      const { port } = await serve((_, response) => response.end('here'));
      const seen: string[] = [];
      const client = httpClient({
        lookup: async () => ['10.0.0.1', '127.0.0.1'].map(address => ({ address, family: 4 })),
        guard: {
          admit: address => {
            if (address.startsWith('10.')) throw new Error('inner');
          },
          connected: (address, hostname) => seen.push(`${hostname} ${address}`),
        },
      });
      const { body } = await client.request(get(`http://registry.test:${port}/`));
      expect([await text(body), seen]).toEqual(['here', ['registry.test 127.0.0.1']]);
    });

    it('sends the whole URL to a proxy, and resolves nothing itself', async () => {
      const target = await serve((request, response) =>
        response.end(`${request.headers.host} ${request.url}`),
      );
      const asked: string[] = [];
      const proxy = await serve((request, response) => {
        asked.push(request.url ?? '');
        const { pathname } = new URL(request.url ?? '');
        const { headers } = request;
        forward({ host: '127.0.0.1', port: target.port, path: pathname, headers }, answer =>
          answer.pipe(response),
        ).end();
      });
      const client = httpClient({
        proxy: { http: proxy.url },
        lookup: async () => {
          throw new Error('resolved');
        },
      });
      for (let round = 0; round < 2; round += 1) {
        const { body } = await client.request(get('http://registry.test/v2/'));
        expect(await text(body)).toBe('registry.test /v2/');
      }
      expect(asked).toEqual(Array(2).fill('http://registry.test/v2/'));
    });

    it('does not send a literal address that its guard refuses through a proxy', async () => {
      const asked: string[] = [];
      const proxy = await serve((request, response) => {
        asked.push(request.url ?? '');
        response.end();
      });
      const guard = {
        admit: () => {
          throw new Error('never');
        },
        connected() {},
      };
      const client = httpClient({ proxy: { http: proxy.url }, guard });
      expect((await failure(client.request(get('http://169.254.169.254/latest')))).reason).toBe('forbidden');
      expect(asked).toEqual([]);
    });

    it('breaks off a body that fails before anybody reads it, for whoever does', async () => {
      const proxy = await serve((_, response) => {
        response.writeHead(200, { 'Content-Length': 1_000_000 });
        response.write(Buffer.alloc(1_000), () => response.destroy());
      });
      const client = httpClient({ proxy: { http: proxy.url } });
      const { body } = await client.request(get('http://registry.test/blob'));
      await new Promise(resolve => body.once('close', resolve));
      await expect(text(body)).rejects.toBeInstanceOf(Error);
    });

    it('fails if its own certificate cannot be used', async () => {
      const client = httpClient({ clientCertificate: { cert: 'no certificate', key: 'no key' } });
      const { reason, message } = await failure(client.request(get('https://127.0.0.1:1/')));
      expect([reason, message]).toEqual(['unreachable', expect.stringContaining('PEM')]);
    });

    it('sends its own certificate to a server that requests one', async () => {
      const [key, cert] = [file('server.key'), file('server.pem')];
      const server = createTlsServer(
        { key, cert, requestCert: true, rejectUnauthorized: false },
        ({ socket }, response) => {
          const shown = socket instanceof TLSSocket && socket.getPeerCertificate().raw !== undefined;
          response.end(shown ? 'a certificate' : 'none');
        },
      );
      await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
      cleanups.push(() => new Promise(resolve => server.close(resolve)));
      const address = server.address();
      if (address === null || typeof address === 'string') throw new Error('not listening');
      const url = `https://127.0.0.1:${address.port}`;
      const ask = async (options: Partial<HttpClientOptions>) =>
        text((await httpClient({ ca: file('ca.pem'), ...options }).request(get(url))).body);
      expect(await ask({ clientCertificate: { cert, key } })).toBe('a certificate');
      expect(await ask({})).toBe('none');
    });
  },
);
