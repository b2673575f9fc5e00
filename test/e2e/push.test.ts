// Pushing over HTTP to the product: killed half way, many at once, the same at once.
import { request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Content, randomBlob } from '../support/content.ts';
import { get } from '../support/client.ts';
import { Entrepot } from '../support/entrepot.ts';

const MIB = 1024 * 1024;
const REPOSITORY = 'tools/app';

let entrepot: Entrepot;

beforeEach(async () => {
  entrepot = await Entrepot.start({ hosted: { prefixes: ['tools'], anonymous: 'push' } });
});

afterEach(() => entrepot.remove());

async function begin(): Promise<string> {
  const { status, headers } = await get(`${entrepot.url}/v2/${REPOSITORY}/blobs/uploads/`, {
    method: 'POST',
  });
  expect(status).toBe(202);
  return headers.location ?? '';
}

/** Streams bytes `start` to `end` of a blob; the status, or 0 when the connection broke. */
async function send(
  method: 'PATCH' | 'PUT',
  path: string,
  blob: Content,
  start = 0,
  end = blob.size,
): Promise<number> {
  return new Promise(resolve => {
    const sent = request(
      `${entrepot.url}${path}`,
      { method, headers: { 'content-length': end - start } },
      response => {
        response.resume();
        response.on('end', () => resolve(response.statusCode ?? 0));
        response.on('error', () => resolve(0));
      },
    );
    sent.on('error', () => resolve(0));
    const pieces = blob.slice(start, end)[Symbol.iterator]();
    const more = () => {
      for (;;) {
        const { value, done } = pieces.next();
        if (done === true) return sent.end();
        if (!sent.write(value)) return sent.once('drain', more);
      }
    };
    more();
  });
}

async function expectPullable({ digest, size }: Content): Promise<void> {
  const got = await get(`${entrepot.url}/v2/${REPOSITORY}/blobs/${digest}`);
  expect(got).toMatchObject({ status: 200, bytes: size, complete: true });
  expect(`sha256:${got.sha256}`).toBe(digest);
}

async function offsetOf(location: string): Promise<number> {
  const { status, headers } = await get(`${entrepot.url}${location}`);
  expect(status).toBe(204);
  return Number(headers['range']?.replace('0-', '')) + 1;
}

describe('a push in chunks', () => {
  it('goes on after the server was killed in the middle of one, with what had arrived', async () => {
    const blob = randomBlob(96 * MIB, 'killed');
    const location = await begin();
    expect(await send('PATCH', location, blob, 0, 32 * MIB)).toBe(202);
    const interrupted = send('PATCH', location, blob, 32 * MIB);
    while ((await offsetOf(location)) < 40 * MIB) await sleep(5);
    await entrepot.kill();
    expect(await interrupted).toBe(0);
    entrepot = await entrepot.startAgain();
    const offset = await offsetOf(location);
    expect(offset).toBeGreaterThanOrEqual(40 * MIB);
    expect(offset).toBeLessThan(blob.size);
    expect(await send('PATCH', location, blob, offset)).toBe(202);
    expect(await send('PUT', `${location}?digest=${blob.digest}`, blob, 0, 0)).toBe(201);
    await expectPullable(blob);
  });
});

describe('twenty pushes at once', () => {
  it('of 64 MiB each stay under 200 MiB of memory', { timeout: 300_000 }, async () => {
    const blobs = Array.from({ length: 20 }, (_, at) => randomBlob(64 * MIB, `many ${at}`));
    const statuses = await Promise.all(
      blobs.map(async (blob, at) => {
        const location = await begin();
        if (at % 2 === 0) return send('PUT', `${location}?digest=${blob.digest}`, blob);
        await send('PATCH', location, blob);
        return send('PUT', `${location}?digest=${blob.digest}`, blob, 0, 0);
      }),
    );
    expect(statuses).toEqual(blobs.map(() => 201));
    expect(entrepot.peakRss()).toBeLessThan(200 * MIB);
    for (const blob of blobs.slice(0, 2)) await expectPullable(blob);
  });
});
