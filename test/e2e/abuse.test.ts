// What one client may take of a server from all others.
import { type ClientRequest, request } from 'node:http';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { OCI_INDEX } from '../../src/oci/media-types.ts';
import { contentOf } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { freePort } from '../support/programs.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import { basic, type Login, secretManifest } from '../support/tenants.ts';

const MIB = 1024 * 1024;
const LOGINS: Readonly<Record<string, Login>> = { hostile: ['hostile', 'p1'], other: ['other', 'p2'] };
const EMPTY_INDEX = JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] });

let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  const folder = await makeTempFolder('abuse');
  const host = `127.0.0.1:${await freePort()}`;
  const tenants = [];
  for (const [name, login] of Object.entries(LOGINS)) {
    await writeFile(join(folder, `${name}.json`), secretManifest('pull', { [host]: login }));
    tenants.push({ name, secrets: [`${name}.json`] });
  }
  const server = { listen: host, serverNames: [host] };
  entrepot = await Entrepot.start(
    { upstreams: { 'up.example': { url: upstream.url } }, tenants, server },
    { folder },
  );
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

const headersOf = (tenant: string) => ({
  ...basic(LOGINS[tenant] ?? ['', '']),
  'content-type': OCI_INDEX,
});

async function push(tenant: string): Promise<number> {
  const answer = await fetch(`${entrepot.url}/v2/${tenant}/app/manifests/v1`, {
    method: 'PUT',
    headers: headersOf(tenant),
    body: EMPTY_INDEX,
  });
  return answer.status;
}

/** Of the server, once it has grown no more for two seconds. */
async function settledRss(): Promise<number> {
  let most = 0;
  for (let still = 0; still < 8; still += 1) {
    const rss = entrepot.rss();
    if (rss > most + MIB) still = 0;
    most = Math.max(most, rss);
    await sleep(250);
  }
  return most;
}

it('150 stalled manifests of one tenant use little memory, and another tenant pushes meanwhile', async () => {
  expect(await push('hostile')).toBe(201);
  const before = entrepot.rss();
  const stalled = Array.from({ length: 150 }, () => {
    const put = request(`${entrepot.url}/v2/hostile/app/manifests/v1`, {
      method: 'PUT',
      headers: { ...headersOf('hostile'), 'content-length': 4 * MIB },
    });
    put.on('error', () => {});
    put.write(Buffer.alloc(4 * MIB - 1, ' '));
    return put;
  });
  const after = await settledRss();
  const status = await push('other');
  for (const put of stalled) put.destroy();
  expect(status).toBe(201);
  expect(after - before).toBeLessThan(200 * MIB);
  await expect.poll(() => push('hostile'), { timeout: 30_000 }).toBe(201);
});

it('20 clients of one address that read nothing do not prevent others from getting large manifests', async () => {
  const paths = Array.from({ length: 20 }, (_, at) => `/v2/up.example/org/app/manifests/v${at}`);
  paths.forEach((_, at) => {
    const index = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [], annotations: { at: `${at}` } };
    upstream.add('org/app', contentOf(JSON.stringify(index).padEnd(4 * MIB, ' '), OCI_INDEX), `v${at}`);
  });
  const asked = paths.map(
    path =>
      new Promise<[ClientRequest, number | undefined]>((resolve, reject) => {
        const get = request(`${entrepot.url}${path}`, { localAddress: '127.0.0.2' }, answer =>
          resolve([get, answer.statusCode]),
        );
        get.on('error', reject).end();
      }),
  );
  const stalled = await Promise.all(asked);
  const statuses = stalled.map(([, status]) => status);
  expect(statuses).toContain(200);
  expect(statuses).toContain(429);
  const answer = await fetch(`${entrepot.url}${paths[statuses.indexOf(429)]}`);
  expect([answer.status, (await answer.text()).length]).toEqual([200, 4 * MIB]);
  for (const [get] of stalled) get.on('error', () => {}).destroy();
});
