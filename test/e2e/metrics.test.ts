// What /metrics says of a server to which known things have happened.
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { OverviewDocument } from '../../src/admin/documents/overview.ts';
import { get } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';

const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;

let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeEach(async () => {
  upstream = await FakeUpstream.start({ linkBytesPerS: 8 * MIB });
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } } });
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

const urlOf = (blob: Content) => `${entrepot.url}/v2/${UPSTREAM}/app/blobs/${blob.digest}`;

/** Puts a blob upstream. */
function added(size: number, seed: string): Content {
  const blob = randomBlob(size, seed);
  upstream.add('app', blob);
  return blob;
}

/** The value of a sample, as its line begins; `undefined` when there is none. */
async function sample(line: string): Promise<number | undefined> {
  const lines = (await entrepot.metrics()).split('\n');
  const found = lines.find(text => text.startsWith(`entrepot_${line} `));
  return found === undefined ? undefined : Number(found.slice(found.lastIndexOf(' ')));
}

const outcome = (route: string, name: string) =>
  sample(`http_outcomes_total{route="${route}",upstream="${UPSTREAM}",outcome="${name}"}`);

it('downloads, clients that joined, and the bytes on both sides', async () => {
  const blob = added(4 * MIB, 'read along');
  let send: (() => void) | undefined;
  const after = new Promise<void>(resolve => (send = resolve));
  upstream.misbehave({ kind: 'blob', method: 'GET', after });
  const first = get(urlOf(blob));
  await until('the fill to run', 60_000, async () => (await sample('fills_running')) === 1);
  const second = get(urlOf(blob));
  await until('the second to join it', 60_000, async () => (await sample('fills_joined_total')) === 1);
  send?.();
  expect([(await first).bytes, (await second).bytes]).toEqual([blob.size, blob.size]);
  await until('the fill to end', 60_000, async () => (await sample('fills_running')) === 0);
  await get(urlOf(blob));
  expect(await sample('fills_joined_total')).toBe(1);
  for (const name of ['miss', 'joined', 'hit']) {
    const line = `http_first_byte_seconds_count{upstream="${UPSTREAM}",outcome="${name}"}`;
    await until(`the ${name} to be counted`, 60_000, async () => (await sample(line)) === 1);
  }
  const answer = await (await fetch(`${entrepot.ops}/admin/v1/overview`)).text();
  const overview: OverviewDocument = JSON.parse(answer);
  expect(overview.firstBytes.map(({ outcome: name, count }) => `${name} ${count}`)).toEqual([
    'hit 1',
    'joined 1',
    'miss 1',
  ]);
  const { stdout } = await entrepot.command('status');
  expect(stdout).toMatch(/up\.example .* hit [\d.]+ ms, joined [\d.]+ ms, miss [\d.]+ ms/);
  expect(await sample('fills_total{outcome="verified"}')).toBe(1);
  expect(await sample(`bytes_from_upstream_total{upstream="${UPSTREAM}"}`)).toBe(blob.size);
  expect(await sample(`http_sent_bytes_total{upstream="${UPSTREAM}"}`)).toBe(3 * blob.size);
  const counted = [
    await outcome('blob', 'miss'),
    await outcome('blob', 'joined'),
    await outcome('blob', 'hit'),
  ];
  expect(counted).toEqual([1, 1, 1]);
  expect(await sample('http_requests_total{route="blob",method="GET",status="200"}')).toBe(3);
});

it('downloads that were resumed, and that failed', async () => {
  const [cut, wrong] = [added(2 * MIB, 'cut'), added(2 * MIB, 'wrong')];
  upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, cutAtByte: MIB });
  expect((await get(urlOf(cut))).complete).toBe(true);
  expect(await sample('fills_resumed_total')).toBe(1);
  upstream.misbehave({ kind: 'blob', method: 'GET', corruptByte: 1_000 });
  expect((await get(urlOf(wrong))).complete).toBe(false);
  await until(
    'the failure to count',
    60_000,
    async () => (await sample('fills_total{outcome="failed"}')) === 1,
  );
  expect(await sample('http_aborted_total{route="blob"}')).toBe(1);
});

it('failures only during their delay, and how many pulls an upstream still allows', async () => {
  const image = imageOf([]);
  upstream.add('app', image, '1');
  upstream.misbehave({
    kind: 'manifest',
    headers: { 'ratelimit-limit': '100;w=21600', 'ratelimit-remaining': '76;w=21600' },
  });
  expect((await get(`${entrepot.url}/v2/${UPSTREAM}/app/manifests/1`)).status).toBe(200);
  expect(await sample(`upstream_budget_remaining{upstream="${UPSTREAM}"}`)).toBe(76);
  upstream.behave();
  expect((await get(`${entrepot.url}/v2/${UPSTREAM}/app/manifests/none`)).status).toBe(404);
  expect(await sample('backoffs')).toBe(1);
  await until('the wait to be over', 30_000, async () => (await sample('backoffs')) === 0);
});
