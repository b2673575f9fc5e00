// Every way to say which upstream is meant, as the configuration gives it: the naming itself is tested beside the code.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { freePort } from '../support/programs.ts';

const UPSTREAM = 'up.example';

const image = imageOf([randomBlob(1_000, 'layer')]);

let upstream: FakeUpstream;
let other: FakeUpstream;
let entrepot: Entrepot;
let ownPort: string;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  other = await FakeUpstream.start();
  upstream.add('org/app', image, '1');
  ownPort = `127.0.0.1:${await freePort()}`;
  entrepot = await Entrepot.start({
    server: {
      listen: [`127.0.0.1:${await freePort()}`, { address: ownPort, upstream: UPSTREAM }],
    },
    upstreams: {
      [UPSTREAM]: {
        url: upstream.url,
        aliases: ['alias.example'],
        hostAlias: ['mirror.example', 'mirror.example:8080'],
      },
      'other.example': { url: other.url },
    },
  });
});

afterAll(async () => {
  await entrepot.remove();
  await upstream.stop();
  await other.stop();
});

describe('an upstream is selected', () => {
  it.each([
    ['by ns', '/v2/org/app/manifests/1?ns=up.example', undefined],
    ['by an alias as ns', '/v2/org/app/manifests/1?ns=alias.example', undefined],
    ['by the first component', '/v2/up.example/org/app/manifests/1', undefined],
    ['by an alias as the first component', '/v2/alias.example/org/app/manifests/1', undefined],
    ['by ns and the first component', '/v2/up.example/org/app/manifests/1?ns=up.example', undefined],
    ['by its hostAlias', '/v2/org/app/manifests/1', 'mirror.example'],
    ['by its hostAlias with any port', '/v2/org/app/manifests/1', 'mirror.example:5000'],
  ])('%s', async (_, path, host) => {
    const got = await get(entrepot.url + path, { headers: host === undefined ? {} : { host } });
    expect([got.status, got.headers['docker-content-digest']]).toEqual([200, image.manifest.digest]);
  });

  it('by a port of its own', async () => {
    const got = await get(`http://${ownPort}/v2/org/app/manifests/1`);
    expect([got.status, got.headers['docker-content-digest']]).toEqual([200, image.manifest.digest]);
  });

  it('by defaultUpstream, if the name has none', async () => {
    expect((await get(`${entrepot.url}/v2/org/app/manifests/1`)).status).toBe(404);
    const byDefault = await Entrepot.start({
      defaultUpstream: UPSTREAM,
      upstreams: { [UPSTREAM]: { url: upstream.url } },
    });
    try {
      const got = await get(`${byDefault.url}/v2/org/app/manifests/1`);
      expect([got.status, got.headers['docker-content-digest']]).toEqual([200, image.manifest.digest]);
    } finally {
      await byDefault.remove();
    }
  });

  it('and no other is ever asked', () => {
    expect(other.requests).toEqual([]);
  });
});
