// Pushing over HTTP to the product: killed half way, many at once, the same at once.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Content, randomBlob } from '../support/content.ts';
import { get } from '../support/client.ts';
import { Entrepot } from '../support/entrepot.ts';
import { beginUpload, offsetOf, sendBytes } from '../support/push-client.ts';

const MIB = 1024 * 1024;
const REPOSITORY = 'tools/app';

let entrepot: Entrepot;

beforeEach(async () => {
  entrepot = await Entrepot.start({ hosted: { prefixes: ['tools'], anonymous: 'push' } });
});

afterEach(() => entrepot.remove());

const begin = () => beginUpload(entrepot.url, REPOSITORY);
const at = (location: string) => `${entrepot.url}${location}`;

async function expectPullable({ digest, size }: Content): Promise<void> {
  const got = await get(`${entrepot.url}/v2/${REPOSITORY}/blobs/${digest}`);
  expect(got).toMatchObject({ status: 200, bytes: size, complete: true });
  expect(`sha256:${got.sha256}`).toBe(digest);
}

describe('a push in chunks', () => {
  it('continues after the server was killed in the middle of a chunk, with what had arrived', async () => {
    const blob = randomBlob(96 * MIB, 'killed');
    const location = await begin();
    expect(await sendBytes('PATCH', at(location), blob, { end: 32 * MIB })).toBe(202);
    const interrupted = sendBytes('PATCH', at(location), blob, { start: 32 * MIB, holdAtByte: 64 * MIB });
    while ((await offsetOf(at(location))) < 40 * MIB) await sleep(5);
    await entrepot.kill();
    expect(await interrupted).toBe(0);
    entrepot = await entrepot.startAgain();
    const offset = await offsetOf(at(location));
    expect(offset).toBeGreaterThanOrEqual(40 * MIB);
    expect(offset).toBeLessThanOrEqual(64 * MIB);
    expect(await sendBytes('PATCH', at(location), blob, { start: offset })).toBe(202);
    expect(await sendBytes('PUT', `${at(location)}?digest=${blob.digest}`, blob, { end: 0 })).toBe(201);
    await expectPullable(blob);
  });
});

describe('twenty pushes at once', () => {
  it('of 64 MiB each use less than 256 MiB of memory', { timeout: 300_000 }, async () => {
    const blobs = Array.from({ length: 20 }, (_, number) => randomBlob(64 * MIB, `many ${number}`));
    const statuses = await Promise.all(
      blobs.map(async (blob, number) => {
        const url = at(await begin());
        if (number % 2 === 0) return sendBytes('PUT', `${url}?digest=${blob.digest}`, blob);
        await sendBytes('PATCH', url, blob);
        return sendBytes('PUT', `${url}?digest=${blob.digest}`, blob, { end: 0 });
      }),
    );
    expect(statuses).toEqual(blobs.map(() => 201));
    // 170 to 190 MiB, and more while other work keeps the garbage collector from its buffers.
    expect(entrepot.peakRss()).toBeLessThan(256 * MIB);
    for (const blob of blobs.slice(0, 2)) await expectPullable(blob);
  });
});
