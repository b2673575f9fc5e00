import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { get, many } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { pullInChunks } from '../support/parallel-client.ts';

const MIB = 1024 * 1024;
const UPSTREAM = 'up.example';
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
const pull = () => pullInChunks(urlOf(), { sizeBytes: layer.size, chunkBytes: 2 * MIB, connections: 4 });

describe('one layer, read in chunks over several connections', () => {
  it('has the right bytes, which upstream sends once', async () => {
    expect(await pull()).toBe(layer.digest);
    expect(upstream.bytesSent).toBeLessThan(layer.size * EXCESS);
  });

  it('is stored then', async () => {
    await pull();
    const sent = upstream.bytesSent;
    const { sha256 } = await get(urlOf());
    expect(`sha256:${sha256}`).toBe(layer.digest);
    expect(upstream.bytesSent - sent).toBeLessThan(layer.size * (EXCESS - 1));
  });

  it('is sent once for several such clients', async () => {
    expect(await many(3, pull)).toEqual(Array(3).fill(layer.digest));
    expect(upstream.bytesSent).toBeLessThan(layer.size * EXCESS);
  });
});
