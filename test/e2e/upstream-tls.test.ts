import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { codeOf, get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';

const file = (name: string) => fileURLToPath(new URL(`../support/tls/${name}`, import.meta.url));
const blob = randomBlob(200_000, 'tls');

let upstream: FakeUpstream;
let plain: FakeUpstream;
let entrepot: Entrepot;

beforeAll(async () => {
  const tls = {
    key: readFileSync(file('server.key'), 'utf8'),
    cert: readFileSync(file('server.pem'), 'utf8'),
  };
  upstream = await FakeUpstream.start({ tls });
  upstream.add('app', imageOf([blob]), '1');
  plain = await FakeUpstream.start({ storageOf: upstream });
  entrepot = await Entrepot.start({
    upstreams: {
      'trusted.example': { url: upstream.url, caFile: file('ca.pem') },
      'insecure.example': { url: upstream.url, insecure: true },
      'unknown.example': { url: upstream.url },
    },
  });
});

afterAll(async () => {
  await entrepot.remove();
  await upstream.stop();
  await plain.stop();
});

const manifest = (name: string) => get(`${entrepot.url}/v2/${name}/app/manifests/1`);

describe('an upstream with a certificate of its own CA', () => {
  it('is reached if caFile names the CA', async () => {
    expect((await manifest('trusted.example')).status).toBe(200);
    const got = await get(`${entrepot.url}/v2/trusted.example/app/blobs/${blob.digest}`);
    expect(`sha256:${got.sha256}`).toBe(blob.digest);
  });

  it('is reached without verification if insecure is set', async () => {
    expect((await manifest('insecure.example')).status).toBe(200);
  });

  it('is not reached otherwise, and the log says what is wrong', async () => {
    const got = await manifest('unknown.example');
    expect([got.status, codeOf(got)]).toEqual([503, 'UNAVAILABLE']);
    expect(got.text).toContain('unknown.example cannot be reached');
    await expect
      .poll(() => entrepot.logs())
      .toMatch(/certificate.*upstreams\.\*\.caFile names the CAs to trust/i);
  });

  it('is not followed from https to http', async () => {
    const other = randomBlob(1_000, 'downgraded');
    upstream.add('app', other);
    upstream.redirectBlobsTo(plain);
    const got = await get(`${entrepot.url}/v2/trusted.example/app/blobs/${other.digest}`);
    upstream.redirectBlobsTo(undefined);
    expect(got.status).toBeGreaterThanOrEqual(500);
    expect(plain.requests).toEqual([]);
  });
});
