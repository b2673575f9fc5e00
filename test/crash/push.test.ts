import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { beginUpload, offsetOf, sendBytes } from '../support/push-client.ts';

const GIB = 1024 ** 3;
const CHUNK = GIB / 16;

let entrepot: Entrepot;

beforeEach(async () => {
  entrepot = await Entrepot.start({ hosted: { prefixes: ['tools'], anonymous: 'push' } });
});

afterEach(() => entrepot.remove());

describe('a push of 1 GiB in chunks', () => {
  it('is resumed and completed when the server is killed halfway', async () => {
    const blob = randomBlob(GIB, 'gibibyte');
    const location = await beginUpload(entrepot.url, 'tools/app');
    const url = () => `${entrepot.url}${location}`;
    for (let start = 0; start < GIB / 2; start += CHUNK) {
      expect(await sendBytes('PATCH', url(), blob, { start, end: start + CHUNK })).toBe(202);
    }
    const half = GIB / 2;
    const interrupted = sendBytes('PATCH', url(), blob, {
      start: half,
      end: half + CHUNK,
      holdAtByte: half + CHUNK / 2,
    });
    while ((await offsetOf(url())) <= half) await sleep(5);
    await entrepot.kill();
    expect(await interrupted).toBe(0);
    entrepot = await entrepot.startAgain();
    let start = await offsetOf(url());
    expect(start).toBeGreaterThan(half);
    while (start < GIB) {
      const end = Math.min(start + CHUNK, GIB);
      expect(await sendBytes('PATCH', url(), blob, { start, end })).toBe(202);
      start = end;
    }
    expect(await sendBytes('PUT', `${url()}?digest=${blob.digest}`, blob, { end: 0 })).toBe(201);
    const got = await get(`${entrepot.url}/v2/tools/app/blobs/${blob.digest}`);
    expect([got.complete, `sha256:${got.sha256}`]).toEqual([true, blob.digest]);
  });
});
