import { createHash, randomFillSync } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { Entrepot } from '../support/entrepot.ts';
import { LOOP_DELAY, type LoopDelay, LoopWatch, worstDelay } from './support/loop-delay.ts';
import { startDockerRegistry, type Subject } from './support/subjects.ts';
import { spread, table } from './support/table.ts';

const MIB = 2 ** 20;
const ROUNDS = 3;
const BLOBS = 4;
const BLOB_BYTES = 64 * MIB;
const MANIFESTS = 400;
const PUSHERS = 8;
const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';

/** Pushes to folders. */
export async function pushes(): Promise<string> {
  return pushesTo([await startHosted(), await startDockerRegistry()], 'Push');
}

/** Pushes of big blobs and of many manifests to each in turn, which are stopped then. Every answer is asserted. */
export async function pushesTo(subjects: readonly Subject[], title: string): Promise<string> {
  const rows = new Map(
    subjects.map(({ name }) => [
      name,
      { blobs: [] as number[], manifests: [] as number[], cpu: [] as number[], delays: [] as LoopDelay[] },
    ]),
  );
  try {
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const subject of subjects) {
        const row = rows.get(subject.name);
        const cpuBefore = subject.cpuSeconds();
        row?.blobs.push(await pushBlobs(subject, round));
        row?.cpu.push((subject.cpuSeconds() - cpuBefore) / ((BLOBS * BLOB_BYTES) / 2 ** 30));
        row?.manifests.push(await pushManifests(subject, round));
        const delay = await subject.loop?.read();
        // The start of the server is in that of the first round.
        if (delay !== undefined && round > 0) row?.delays.push(delay);
      }
    }
    const cells = [...rows].map(([name, { blobs, manifests, cpu, delays }]) => [
      name,
      spread(blobs),
      spread(cpu, 2),
      spread(manifests),
      worstDelay(delays),
    ]);
    return table(
      `${title}: ${BLOBS} blobs of 64 MiB at once; ${MANIFESTS} manifests by ${PUSHERS}`,
      ['', 'MB/s', 'CPU s/GiB', 'manifests/s', LOOP_DELAY],
      cells,
    );
  } finally {
    await Promise.all(subjects.map(subject => subject.stop()));
  }
}

/** Entrepot with hosted repositories `bench/…`. */
export async function startHosted(
  storage: Readonly<Record<string, unknown>> = {},
): Promise<Subject & { readonly folder: string }> {
  const entrepot = await Entrepot.start({ hosted: { prefixes: ['bench'], anonymous: 'push' }, storage });
  return {
    name: 'entrepot',
    folder: entrepot.folder,
    port: Number(new URL(entrepot.url).port),
    query: '',
    cpuSeconds: () => entrepot.cpuSeconds(),
    peakRssBytes: () => entrepot.peakRss(),
    loop: new LoopWatch(entrepot),
    stop: async () => {
      await entrepot.remove();
      await rm(entrepot.folder, { recursive: true, force: true });
    },
  };
}

/** MB/s, all blobs at the same time. */
async function pushBlobs(subject: Subject, round: number): Promise<number> {
  const blobs = Array.from({ length: BLOBS }, () => randomFillSync(new Uint8Array(BLOB_BYTES)));
  const digests = blobs.map(digestOf);
  const startedMs = performance.now();
  await Promise.all(
    blobs.map((bytes, at) => pushBlob(subject, `bench/blobs${round}`, bytes, digests[at] ?? '')),
  );
  return (BLOBS * BLOB_BYTES) / 1e6 / ((performance.now() - startedMs) / 1000);
}

async function pushManifests(subject: Subject, round: number): Promise<number> {
  const repository = `bench/manifests${round}`;
  const config = new TextEncoder().encode(JSON.stringify({ round, name: subject.name }));
  await pushBlob(subject, repository, config, digestOf(config));
  const descriptor = {
    mediaType: 'application/vnd.oci.image.config.v1+json',
    digest: digestOf(config),
    size: config.length,
  };
  let next = 0;
  const startedMs = performance.now();
  const pusher = async () => {
    while (next < MANIFESTS) {
      const number = next++;
      const body = JSON.stringify({
        schemaVersion: 2,
        mediaType: MANIFEST_TYPE,
        config: descriptor,
        layers: [],
        annotations: { number: String(number) },
      });
      const url = `http://127.0.0.1:${subject.port}/v2/${repository}/manifests/v${number}`;
      const headers = { 'content-type': MANIFEST_TYPE };
      await expectCreated(await fetch(url, { method: 'PUT', body, headers }));
    }
  };
  await Promise.all(Array.from({ length: PUSHERS }, pusher));
  return MANIFESTS / ((performance.now() - startedMs) / 1000);
}

/** Pushes one blob by a POST and a PUT. */
export async function pushBlob(
  { port }: Subject,
  repository: string,
  bytes: Uint8Array<ArrayBuffer>,
  digest: string,
): Promise<void> {
  const registry = `http://127.0.0.1:${port}`;
  const begun = await fetch(`${registry}/v2/${repository}/blobs/uploads/`, { method: 'POST' });
  await begun.arrayBuffer();
  const target = new URL(begun.headers.get('location') ?? '', registry);
  target.searchParams.set('digest', digest);
  const headers = { 'content-type': 'application/octet-stream' };
  await expectCreated(await fetch(target, { method: 'PUT', body: bytes, headers }));
}

async function expectCreated(response: Response): Promise<void> {
  const text = await response.text();
  if (response.status !== 201) {
    throw new Error(`${response.url}: ${response.status} ${text}`);
  }
}

/** The digest of bytes. */
export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
