import { createHash, randomBytes } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { HttpClient } from '../../lib/http-client.ts';
import { payloadOfIngest } from './payload.ts';

const LIMITS = { connectMs: 5_000, headersMs: 30_000, idleBodyMs: 30_000 };
const BYTES = randomBytes(3 * 1024 * 1024 + 7);
const SPAN = { start: 5, end: BYTES.length - 1 };
const SENT = BYTES.subarray(SPAN.start, SPAN.end);

const file = (name: string) =>
  readFileSync(new URL(`../../../test/support/tls/${name}`, import.meta.url), 'utf8');
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** An ingest that may return less than it is asked for. */
const ingest = {
  read: async (buffer: Uint8Array, position: number) =>
    BYTES.copy(buffer, 0, position, position + Math.min(buffer.byteLength, 100_000)),
};

test('bytes of an ingest are sent from memory that is reused', async () => {
  const payload = await payloadOfIngest(ingest, SPAN);
  expect(payload).toMatchObject({ size: SENT.length, sha256: sha256(SENT) });
  const [hash, memory] = [createHash('sha256'), new Set<ArrayBufferLike>()];
  for await (const piece of payload.stream()) {
    hash.update(piece);
    memory.add(piece.buffer);
  }
  expect(hash.digest('hex')).toBe(payload.sha256);
  expect(memory.size).toBe(2);
});

test.each(['http', 'https'])('a server that reads slowly over %s receives the right bytes', async scheme => {
  const received: Buffer[] = [];
  const take = async (req: IncomingMessage, res: ServerResponse) => {
    for await (const chunk of req) {
      received.push(chunk);
      if (received.length % 5 === 0) await pause(1);
    }
    res.end();
  };
  const listener = (req: IncomingMessage, res: ServerResponse) => void take(req, res);
  const server =
    scheme === 'http'
      ? createServer(listener)
      : createTlsServer({ key: file('server.key'), cert: file('server.pem') }, listener);
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const client = new HttpClient({ ...LIMITS, ca: file('ca.pem') });
  try {
    const { size, stream } = await payloadOfIngest(ingest, SPAN);
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- it listens on a port
    const { port } = server.address() as AddressInfo;
    const { body } = await client.request({
      method: 'PUT',
      url: new URL(`${scheme}://127.0.0.1:${port}/`),
      headers: { 'content-length': String(size) },
      body: stream,
    });
    await body.toArray();
    expect(Buffer.concat(received).equals(SENT)).toBe(true);
  } finally {
    await client.close();
    server.close();
  }
});
