// A range of a layer that two servers on one store want at the same time, and that one of them requests.
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { digestOf } from '../../src/oci/digest.ts';
import { get } from '../support/client.ts';
import { bytesOf, type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';

const MIB = 1024 * 1024;
const UPSTREAM = 'up.example';
const START = 3 * MIB;
const END = 15 * MIB;
/** What a process that is killed has not saved, with what is on its way to it. */
const LOST_BYTES = 2 * MIB;

let upstream: FakeUpstream;
let first: Entrepot;
let second: Entrepot;
let layer: Content;
let right: string;
let sentBefore: number;

beforeEach(async () => {
  upstream = await FakeUpstream.start({ linkBytesPerS: 4 * MIB });
  const config = { upstreams: { [UPSTREAM]: { url: upstream.url } } };
  first = await Entrepot.start(config);
  second = await Entrepot.start({ ...config, storage: { path: join(first.folder, 'store') } });
  layer = randomBlob(16 * MIB, 'elsewhere');
  right = digestOf(bytesOf(layer).subarray(START, END));
  upstream.add('app', imageOf([layer]), '1');
  for (const { url } of [first, second]) await get(`${url}/v2/app/manifests/1?ns=${UPSTREAM}`);
  sentBefore = upstream.bytesSent;
});

afterEach(async () => {
  await second.remove();
  await first.remove();
  await upstream.stop();
});

/** Resolves when the first byte is there; the rest is in the body. */
async function request({ url }: Entrepot): Promise<Response> {
  const headers = { range: `bytes=${START}-${END - 1}` };
  const response = await fetch(`${url}/v2/app/blobs/${layer.digest}?ns=${UPSTREAM}`, { headers });
  expect(response.status).toBe(206);
  return response;
}

async function digestOfBody(response: Response): Promise<string> {
  return digestOf(Buffer.from(await response.arrayBuffer()));
}

/** Has the first server request the range, and the second one read with it. */
async function readInBoth(): Promise<readonly [Response, Response]> {
  const requesting = await request(first);
  return [requesting, await request(second)];
}

it('is requested once', async () => {
  for (const response of await readInBoth()) expect(await digestOfBody(response)).toBe(right);
  expect(upstream.bytesSent - sentBefore).toBe(END - START);
});

it('is continued by the other server when the one that requests it is killed', async () => {
  const [requesting, reading] = await readInBoth();
  await first.kill();
  await expect(requesting.arrayBuffer()).rejects.toThrow('terminated');
  expect(await digestOfBody(reading)).toBe(right);
  expect(upstream.bytesSent - sentBefore).toBeLessThan(END - START + LOST_BYTES);
  first = await first.startAgain();
});

it('is continued by the other server when the one that requests it is suspended', async () => {
  const [requesting, reading] = await readInBoth();
  process.kill(first.pid, 'SIGSTOP');
  expect(await digestOfBody(reading)).toBe(right);
  process.kill(first.pid, 'SIGCONT');
  expect(await digestOfBody(requesting)).toBe(right);
});
