import { join } from 'node:path';
import { silentLog } from '../../src/lib/log.ts';
import { openSqliteMetadataStore } from '../../src/metadata/sqlite-metadata-store.ts';
import type { Repository } from '../../src/oci/repository.ts';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { freePort } from '../support/programs.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import { basic, challengeOf, type Login, tokenFor, writeSecret } from '../support/tenants.ts';
import { load } from './support/load.ts';
import { LOOP_DELAY, type LoopDelay, LoopWatch, worstDelay } from './support/loop-delay.ts';
import { runInChild } from './support/child.ts';
import type { ManyTenantsResult } from './support/many-tenants.ts';
import { median, spread, table } from './support/table.ts';

const UPSTREAM = 'upstream.example';
const ACCEPT = 'Accept: application/vnd.oci.image.manifest.v1+json\r\n';
const ROUNDS = 3;
const SECONDS = 3;
const TENANTS = 10_000;
const GRANTS = 10_000;
const SECRETS_PER_TENANT = 5;
/** What the tenant's Secret holds for the upstream, and for Entrepot itself. */
const FOR_UPSTREAM: Login = ['alice', 'password-for-upstream'];
const FOR_ENTREPOT: Login = ['team', 'password-for-entrepot'];

/** A manifest that is held: what is public by anybody, what is private by its tenant, in each of the ways to log in. */
export async function warmTenants(): Promise<string> {
  const users = {
    [FOR_UPSTREAM[0]]: { password: FOR_UPSTREAM[1], repositories: ['acme/private', 'acme/crowded'] },
  };
  const upstream = await FakeUpstream.start({ auth: { scheme: 'bearer', users, public: ['acme/public'] } });
  const image = imageOf([randomBlob(10_000, 'layer')]);
  for (const repository of ['acme/public', 'acme/private', 'acme/crowded'])
    upstream.add(repository, image, 'v1');
  const folder = await makeTempFolder('bench');
  const host = `127.0.0.1:${await freePort()}`;
  const secrets = join(folder, 'team.json');
  await writeSecret(secrets, { [UPSTREAM]: FOR_UPSTREAM, [host]: FOR_ENTREPOT });
  const entrepot = await Entrepot.start(
    {
      server: { listen: host, serverNames: [host] },
      upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
      tenants: [{ name: 'team', secrets }],
    },
    { folder },
  );
  try {
    await proveForOthers(join(folder, 'store', 'index.db'), { upstream: UPSTREAM, name: 'acme/crowded' });
    const asked = await get(`${entrepot.url}/v2/acme/private/manifests/v1?ns=${UPSTREAM}`);
    const { token }: { token: string } = JSON.parse((await tokenFor(challengeOf(asked), FOR_ENTREPOT)).text);
    const ways: readonly Way[] = [
      { name: 'anonymous', repository: 'acme/public', headers: '' },
      { name: 'Basic', repository: 'acme/private', headers: authorization(basic(FOR_ENTREPOT)) },
      {
        name: `Basic, beside ${GRANTS.toLocaleString('en')} other Grants`,
        repository: 'acme/crowded',
        headers: authorization(basic(FOR_ENTREPOT)),
      },
      {
        name: "Basic, the upstream's login",
        repository: 'acme/private',
        headers: authorization(basic(FOR_UPSTREAM)),
      },
      {
        name: 'Bearer',
        repository: 'acme/private',
        headers: authorization({ authorization: `Bearer ${token}` }),
      },
    ];
    const rows = [
      ...(await rowsOf(entrepot, ways, 'by tag', 'v1', image.manifest.size)),
      ...(await rowsOf(entrepot, ways, 'by digest', image.manifest.digest, image.manifest.size)),
    ];
    return table(
      'Warm manifest GET by a tenant, 16 connections',
      ['', 'requests/s', 'of anonymous', 'CPU µs/request', 'by least CPU', LOOP_DELAY],
      rows,
    );
  } finally {
    await entrepot.remove();
    await upstream.stop();
  }
}

/** As if so many credentials had proved their right to the repository. */
async function proveForOthers(indexFile: string, repository: Repository): Promise<void> {
  const metadata = await openSqliteMetadataStore(indexFile, { log: silentLog });
  try {
    const verifiedAtMs = Date.now();
    for (let at = 0; at < GRANTS; at += 100) {
      const credentials = Array.from({ length: 100 }, (_, index) => `credential-${at + index}`);
      await Promise.all(
        credentials.map(credentialId => metadata.putGrant(repository, { credentialId, verifiedAtMs })),
      );
    }
  } finally {
    await metadata.close();
  }
}

interface Way {
  readonly name: string;
  readonly repository: string;
  /** Header lines. */
  readonly headers: string;
}

function authorization(headers: { readonly authorization: string }): string {
  return `Authorization: ${headers.authorization}\r\n`;
}

async function rowsOf(
  entrepot: Entrepot,
  ways: readonly Way[],
  kind: string,
  reference: string,
  expectBytes: number,
): Promise<readonly (readonly string[])[]> {
  const rates = new Map<Way, number[]>(ways.map(way => [way, []]));
  const cpu = new Map<Way, number[]>(ways.map(way => [way, []]));
  const delays = new Map<Way, LoopDelay[]>(ways.map(way => [way, []]));
  const run = async ({ repository, headers }: Way, seconds: number) =>
    load({
      kind: 'rate',
      port: Number(new URL(entrepot.url).port),
      path: `/v2/${repository}/manifests/${reference}?ns=${UPSTREAM}`,
      headers: ACCEPT + headers,
      connections: 16,
      seconds,
      expectBytes,
    });
  // Fetches what is then held, and lets the server's code be compiled.
  for (const way of ways) await run(way, 1);
  const loop = new LoopWatch(entrepot);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const way of ways) {
      await loop.read();
      const before = entrepot.cpuSeconds();
      const { requests, seconds } = await run(way, SECONDS);
      rates.get(way)?.push(requests / seconds);
      cpu.get(way)?.push(((entrepot.cpuSeconds() - before) / requests) * 1e6);
      delays.get(way)?.push(await loop.read());
    }
  }
  const [anonymousRate = []] = rates.values();
  const [anonymousCpu = []] = cpu.values();
  return ways.map(way => {
    const rate = rates.get(way) ?? [];
    const cost = cpu.get(way) ?? [];
    return [
      `${kind}, ${way.name}`,
      spread(rate),
      percent(median(rate) / median(anonymousRate)),
      spread(cost),
      // What a busy machine blurs least.
      percent(Math.min(...anonymousCpu) / Math.min(...cost)),
      worstDelay(delays.get(way) ?? []),
    ];
  });
}

function percent(share: number): string {
  return `${(share * 100).toFixed(0)} %`;
}

/** What many tenants cost: in a process of its own, so that its memory is theirs. */
export async function manyTenants(): Promise<string> {
  const job = { tenants: TENANTS, secretsPerTenant: SECRETS_PER_TENANT };
  const result = await runInChild<ManyTenantsResult>('many-tenants.ts', job, ['--expose-gc']);
  return table(
    `${TENANTS.toLocaleString('en')} tenants with ${SECRETS_PER_TENANT} Secrets each`,
    ['', ''],
    [
      ['parsing and loading all', `${(result.loadMs / 1000).toFixed(2)} s`],
      ['heap for them', `${(result.heapBytes / 2 ** 20).toFixed(0)} MiB`],
      ['memory of the process for them', `${(result.rssBytes / 2 ** 20).toFixed(0)} MiB`],
      ['who holds a credential', `${result.holdersUs.toFixed(2)} µs`],
      ['naming a user and password, and who holds it', `${result.identifyUs.toFixed(2)} µs`],
      ['what a tenant has for an image, first time', `${result.firstLookupUs.toFixed(1)} µs`],
      ['what a tenant has for an image', `${result.lookupUs.toFixed(1)} µs`],
      ['one Secret of one tenant rotated', `${result.rotateUs.toFixed(0)} µs`],
    ],
  );
}
