// A client that reads one layer over several connections, as containerd does from 2.1 on: each chunk is requested to the
// end of the layer (`bytes=N-`, the first one without a range), and its connection closed when the chunk is there.
import { createHash } from 'node:crypto';
import { get as request, type IncomingMessage } from 'node:http';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { get, many } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';

const MIB = 1024 * 1024;
const UPSTREAM = 'up.example';
const CHUNK_BYTES = 2 * MIB;
const WORKERS = 4;
/** What upstream may send beyond the layer: bytes that were under way when a connection was closed. */
const EXCESS = 1.05;

let upstream: FakeUpstream;
let entrepot: Entrepot;
let layer: Content;

beforeEach(async () => {
  upstream = await FakeUpstream.start({ linkBytesPerS: 20 * MIB });
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } } });
  layer = randomBlob(24 * MIB + 1_234, 'parallel');
  upstream.add('app', imageOf([layer]), '1');
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

const urlOf = () => `${entrepot.url}/v2/app/blobs/${layer.digest}?ns=${UPSTREAM}`;

describe('one layer, read in chunks by several connections', () => {
  it('has the right bytes, which upstream sends once', async () => {
    expect(await pullInChunks()).toBe(layer.digest);
    expect(upstream.bytesSent).toBeLessThan(layer.size * EXCESS);
  });

  it('is stored then', async () => {
    await pullInChunks();
    const sent = upstream.bytesSent;
    const { sha256 } = await get(urlOf());
    expect(`sha256:${sha256}`).toBe(layer.digest);
    expect(upstream.bytesSent - sent).toBeLessThan(layer.size * (EXCESS - 1));
  });

  it('is sent once for several such clients', async () => {
    expect(await many(3, pullInChunks)).toEqual(Array(3).fill(layer.digest));
    expect(upstream.bytesSent).toBeLessThan(layer.size * EXCESS);
  });
});

/** The digest of what was read. */
async function pullInChunks(): Promise<string> {
  const chunks: Buffer[] = [];
  const starts = Array.from({ length: Math.ceil(layer.size / CHUNK_BYTES) }, (_, at) => at * CHUNK_BYTES);
  const queue = starts.values();
  await many(WORKERS, async () => {
    for (const start of queue) chunks[start / CHUNK_BYTES] = await readChunk(start);
  });
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  return `sha256:${hash.digest('hex')}`;
}

async function readChunk(start: number): Promise<Buffer> {
  const bytes = Math.min(CHUNK_BYTES, layer.size - start);
  const headers = start === 0 ? {} : { range: `bytes=${start}-` };
  const pieces: Buffer[] = [];
  let missing = bytes;
  const response = await open(headers);
  expect(response.statusCode).toBe(start === 0 ? 200 : 206);
  for await (const piece of response as AsyncIterable<Buffer>) {
    pieces.push(piece.subarray(0, missing));
    missing -= Math.min(missing, piece.length);
    // Leaving the loop destroys the connection.
    if (missing === 0) break;
  }
  return Buffer.concat(pieces);
}

function open(headers: Record<string, string>): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request(urlOf(), { headers, agent: false }, resolve).once('error', reject);
  });
}
