/**
 * Many tenants in a process of their own, as a cluster's API tells of them: takes its job as JSON in argv, prints one
 * result as JSON. Every look-up's answer is asserted.
 */
import { join } from 'node:path';
import { silentLog } from '../../../src/lib/log.ts';
import { silentMeter } from '../../../src/lib/meter.ts';
import { openSqliteMetadataStore } from '../../../src/metadata/sqlite-metadata-store.ts';
import { nameCredential } from '../../../src/oci/credential.ts';
import { openTenants } from '../../../src/tenants/tenant-directory.ts';
import type { SecretReading, SecretSink } from '../../../src/tenants/secret-source.ts';
import { parseSecretObject } from '../../../src/tenants/secret.ts';
import type { Tenants } from '../../../src/tenants/tenant.ts';
import { makeTempFolder, removeFolder } from '../../support/temp-folder.ts';
import { type Login, secretManifest } from '../../support/tenants.ts';

export interface ManyTenantsJob {
  readonly tenants: number;
  readonly secretsPerTenant: number;
}

export interface ManyTenantsResult {
  readonly loadMs: number;
  readonly heapBytes: number;
  readonly rssBytes: number;
  readonly holdersUs: number;
  readonly identifyUs: number;
  /** With the tenant's keyring to be made. */
  readonly firstLookupUs: number;
  readonly lookupUs: number;
  readonly rotateUs: number;
}

const KEY = 'credential-key';
const ROTATIONS = 1_000;

const job = JSON.parse(process.argv[2] ?? 'null') as ManyTenantsJob;

const nameOf = (tenant: number) => `team-${tenant}`;
const hostOf = (secret: number) => `registry-${secret}.example`;
const loginOf = (tenant: number, secret: number, revision = 0): Login => [
  `user-${tenant}-${secret}`,
  `password-${tenant}-${secret}-${revision}`,
];

/** The texts as they come over the wire: made beforehand, since writing them is no part of loading. */
function textsOf(tenant: number, revision = 0): readonly string[] {
  return Array.from({ length: job.secretsPerTenant }, (_, secret) =>
    secretManifest(`pull-${secret}`, { [hostOf(secret)]: loginOf(tenant, secret, revision) }),
  );
}

function readingOf(text: string): SecretReading {
  const secret = parseSecretObject(JSON.parse(text));
  if (secret === undefined) throw new Error('expected a Secret for pulls');
  return { name: secret.name, source: 'kubernetes', result: { state: 'loaded', secret } };
}

function putTexts(sink: SecretSink, tenant: number, texts: readonly string[]): void {
  sink.put(nameOf(tenant), { secrets: texts.map(readingOf) });
}

function memory(): { readonly heapBytes: number; readonly rssBytes: number } {
  for (let run = 0; run < 3; run += 1) globalThis.gc?.();
  const { heapUsed, rss } = process.memoryUsage();
  return { heapBytes: heapUsed, rssBytes: rss };
}

/** Every tenant in an order that no cache likes. */
function* shuffled(): Iterable<number> {
  const stride = 7919;
  for (let at = 0; at < job.tenants; at += 1) yield (at * stride) % job.tenants;
}

async function microsecondsEach(ask: (tenant: number, secret: number) => unknown): Promise<number> {
  const startedMs = performance.now();
  for (const tenant of shuffled()) await ask(tenant, tenant % job.secretsPerTenant);
  return ((performance.now() - startedMs) * 1000) / job.tenants;
}

function idOf(tenant: number, secret: number): string {
  return nameCredential(KEY, ...loginOf(tenant, secret)).id;
}

async function measure(tenants: Tenants, sink: SecretSink): Promise<ManyTenantsResult> {
  const texts = Array.from({ length: job.tenants }, (_, tenant) => textsOf(tenant));
  const before = memory();
  const startedMs = performance.now();
  for (const [tenant, own] of texts.entries()) putTexts(sink, tenant, own);
  // Changes are told at the end of a turn, to whoever listens.
  await new Promise(resolve => setImmediate(resolve));
  const loadMs = performance.now() - startedMs;
  const after = memory();

  const ids = Array.from({ length: job.tenants }, (_, tenant) => idOf(tenant, tenant % job.secretsPerTenant));
  const expectHolder = (id: string, tenant: number) => {
    if (tenants.holders(id)[0]?.tenant.name !== nameOf(tenant)) throw new Error('found another holder');
  };
  const expectCredential = async (tenant: number, secret: number) => {
    const found = await tenants.find(nameOf(tenant))?.lookup(`${hostOf(secret)}/acme/app`);
    if (found?.[0]?.credential?.username !== loginOf(tenant, secret)[0]) throw new Error('found another');
  };
  const holdersUs = await microsecondsEach(tenant => expectHolder(ids[tenant] ?? '', tenant));
  const identifyUs = await microsecondsEach((tenant, secret) => expectHolder(idOf(tenant, secret), tenant));
  const firstLookupUs = await microsecondsEach(expectCredential);
  const lookupUs = await microsecondsEach(expectCredential);

  const rotated = Array.from({ length: ROTATIONS }, (_, tenant) => textsOf(tenant, 1));
  const rotatingMs = performance.now();
  for (const [tenant, own] of rotated.entries()) {
    putTexts(sink, tenant, own);
    await Promise.resolve();
  }
  const rotateUs = ((performance.now() - rotatingMs) * 1000) / ROTATIONS;
  return {
    loadMs,
    heapBytes: after.heapBytes - before.heapBytes,
    rssBytes: after.rssBytes - before.rssBytes,
    holdersUs,
    identifyUs,
    firstLookupUs,
    lookupUs,
    rotateUs,
  };
}

const folder = await makeTempFolder('many');
const store = await openSqliteMetadataStore(join(folder, 'index.db'), { log: silentLog });
let sink: SecretSink | undefined;
const tenants = await openTenants({
  sources: [{ start: async given => void (sink = given), close: async () => {} }],
  configured: [],
  nodeConfig: [],
  plugins: undefined,
  store,
  credentialKey: KEY,
  nameProblem: () => undefined,
  log: silentLog,
  meter: silentMeter,
});
if (sink === undefined) throw new Error('the source was not started');
console.log(JSON.stringify(await measure(tenants, sink)));
await tenants.close();
await store.close();
await removeFolder(folder);
