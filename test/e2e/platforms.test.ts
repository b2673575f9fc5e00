// Of an image for many platforms, what is given to whom and fetched ahead, as the configuration says it.
import { afterEach, beforeEach, expect, it } from 'vitest';
import { parsePlatform } from '../../src/oci/platform.ts';
import { get } from '../support/client.ts';
import { bytesOf, type Image, imageOf, indexOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';

const IMAGES_ONLY = { accept: 'application/vnd.oci.image.manifest.v1+json' };

const imageFor = (platform: string): Image =>
  imageOf([randomBlob(100_000, platform)], { platform: parsePlatform(platform) });
const amd64 = imageFor('linux/amd64');
const arm64 = imageFor('linux/arm64');
const pause = indexOf([amd64, arm64]);

let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

async function start(upstreams: Readonly<Record<string, object>>): Promise<void> {
  const urls = Object.entries(upstreams).map(([name, more]) => [name, { url: upstream.url, ...more }]);
  entrepot = await Entrepot.start({ upstreams: Object.fromEntries(urls) });
}

const ask = (path: string, ns: string, method = 'GET', headers: Readonly<Record<string, string>> = {}) =>
  get(`${entrepot.url}/v2/${path}${path.includes('?') ? '&' : '?'}ns=${ns}`, { method, headers });

it('a tag is the index itself, byte for byte, or its child for a client that accepts none or names a platform, by GET and HEAD', async () => {
  upstream.add('pause', pause, '3.10');
  await start({ 'up.example': {} });
  for (const method of ['HEAD', 'GET']) {
    const digestOf = async (query: string, headers = {}) => {
      const got = await ask(`pause/manifests/3.10${query}`, 'up.example', method, headers);
      expect(got.headers['vary']).toBe('Accept');
      return got.headers['docker-content-digest'];
    };
    expect(await digestOf('')).toBe(pause.manifest.digest);
    expect(await digestOf('', IMAGES_ONLY)).toBe(amd64.manifest.digest);
    expect(await digestOf('?platform=linux/arm64')).toBe(arm64.manifest.digest);
    expect(await digestOf('?platform=linux/arm64', IMAGES_ONLY)).toBe(arm64.manifest.digest);
  }
  const { text } = await ask('pause/manifests/3.10', 'up.example');
  expect(text).toBe(bytesOf(pause.manifest).toString());
  expect((await ask('pause/manifests/3.10?platform=linux/s390x', 'up.example')).status).toBe(404);
  expect((await ask('pause/manifests/3.10?platform=nonsense', 'up.example')).status).toBe(400);
});

it('a name with an architecture means the image for it at registry.k8s.io, and elsewhere if configured', async () => {
  upstream.add('pause', pause, '3.10');
  await start({ 'registry.k8s.io': {}, 'asked.example': { archInName: true }, 'other.example': {} });
  for (const registry of ['registry.k8s.io', 'asked.example']) {
    const got = await ask('pause-arm64/manifests/3.10', registry);
    expect([got.status, got.headers['docker-content-digest']]).toEqual([200, arm64.manifest.digest]);
    const layer = await ask(`pause-arm64/blobs/${arm64.layers[0]!.digest}`, registry);
    expect([layer.status, layer.bytes]).toEqual([200, arm64.layers[0]!.size]);
  }
  expect((await ask('pause-arm64/manifests/3.10', 'other.example')).status).toBe(404);
});

it('the content of a manifest is prefetched for the platforms of an upstream with prefetch, and of no other', async () => {
  upstream.add('wanted', pause, '1');
  upstream.add('unwanted', pause, '1');
  const platforms = 'linux/arm64';
  await start({ 'on.example': { prefetch: true, platforms }, 'off.example': { platforms } });
  await ask('unwanted/manifests/1', 'off.example');
  await ask('wanted/manifests/1', 'on.example');
  const blobs = (repository: string) =>
    upstream.requests
      .filter(({ kind, method }) => kind === 'blob' && method === 'GET')
      .filter(request => request.repository === repository)
      .map(({ reference }) => reference);
  await until('the downloads', 60_000, async () => blobs('wanted').length === 2);
  expect(new Set(blobs('wanted'))).toEqual(
    new Set([arm64.config, ...arm64.layers].map(({ digest }) => digest)),
  );
  expect(blobs('unwanted')).toEqual([]);
});
