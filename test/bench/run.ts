/**
 * npm run bench [-- SECTION...]: Entrepot beside Debian's docker-registry and nginx, alternating in one run. Prints one
 * table a section. Needs the programs docker-registry and nginx; asserts every answer. Each table says how long it took.
 */
import { cpus, totalmem } from 'node:os';
import { hasPrograms } from '../support/programs.ts';
import { bundles, bundlesWhileServing, prepull } from './bundles.ts';
import { coldPull, type ColdCase } from './cold.ts';
import { indexes } from './indexes.ts';
import { lazyChunked, lazyEstargz, parallelPull } from './lazy.ts';
import { largePage } from './page.ts';
import { warmWithNotifications } from './notifications.ts';
import { processes } from './processes.ts';
import { pushes } from './push.ts';
import { starts } from './start.ts';
import { firstBytes, fleetPulls, questions } from './replicas.ts';
import { inBucket, overSlowConnections } from './s3.ts';
import { load } from './support/load.ts';
import { pushImage } from './support/push.ts';
import { Sections } from './support/sections.ts';
import {
  startDockerRegistry,
  startEntrepot,
  startNginx,
  startWarmEntrepot,
  type Subject,
} from './support/subjects.ts';
import { manyTenants, warmTenants } from './tenants.ts';
import { largePostgresStore, largeStore } from './upkeep.ts';
import { dockerRegistryFile, warmBlobs, warmManifests } from './warm.ts';

const MIB = 2 ** 20;
const GIGABIT = 125e6;
/** Of the section `connections`, whose rounds take as long as it takes at 25 MB/s. */
const LAYER_BYTES = Number(process.env['BENCH_LAYER_MIB'] ?? 1024) * MIB;

if (!hasPrograms('docker-registry', 'nginx')) {
  console.error(
    'bench: needs the programs docker-registry and nginx (Debian: apt-get install docker-registry nginx-light)',
  );
  process.exit(2);
}
const sections = new Sections(process.argv.slice(2));

const upstream = await startDockerRegistry();
const url = `http://127.0.0.1:${upstream.port}`;
console.log(
  `${cpus().length} × ${cpus()[0]?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`,
);

try {
  await sections.measure('start', starts);
  await sections.measure('push', pushes);
  await sections.measure('s3', overSlowConnections, inBucket);
  await sections.measure('processes', processes);
  await sections.measure('notifications', warmWithNotifications);
  await sections.measure('indexes', indexes);
  await sections.measure('replicas', questions, firstBytes, fleetPulls);
  await sections.measure('tenants', warmTenants, manyTenants);
  let pushed: ReturnType<typeof pushImage> | undefined;
  /** Pushed once, and only for a section that pulls it. */
  const bigImage = () => (pushed ??= pushImage(url, 'library/big', 'v1', Array<number>(8).fill(64 * MIB)));
  await sections.measure('warm', async () => warm(await bigImage()));
  const all = [
    { name: 'directly', start: undefined },
    { name: 'entrepot', start: startEntrepot },
    { name: 'docker-registry', start: startDockerRegistry },
  ] as const;
  const pick = (...names: string[]) =>
    all
      .filter(({ name }) => names.includes(name))
      .map(({ name, start }) => (start ? { name, start } : { name }));
  const cases: ({ section: string } & ColdCase)[] = [
    // docker-registry fetches once per node: its paced rounds with many nodes take minutes and say nothing new.
    {
      section: 'cold',
      title: 'Cold pull of 8 × 64 MiB by 1 node, upstream at 1 Gbit/s',
      nodes: 1,
      bytesPerSecond: GIGABIT,
      rounds: 3,
      subjects: pick('directly', 'entrepot', 'docker-registry'),
    },
    {
      section: 'cold',
      title: 'Cold pull by 10 nodes, upstream at 1 Gbit/s',
      nodes: 10,
      bytesPerSecond: GIGABIT,
      rounds: 3,
      subjects: pick('entrepot'),
    },
    {
      section: 'cold',
      title: 'Cold pull by 10 nodes, upstream at 1 Gbit/s, the peer once',
      nodes: 10,
      bytesPerSecond: GIGABIT,
      rounds: 1,
      subjects: pick('docker-registry'),
    },
    {
      section: 'cold',
      title: 'Cold pull by 50 nodes, upstream at 1 Gbit/s',
      nodes: 50,
      bytesPerSecond: GIGABIT,
      rounds: 3,
      subjects: pick('entrepot'),
    },
    {
      section: 'unpaced',
      title: 'Cold pull by 1 node, upstream unpaced',
      nodes: 1,
      bytesPerSecond: Number.POSITIVE_INFINITY,
      rounds: 3,
      subjects: pick('directly', 'entrepot', 'docker-registry'),
    },
    {
      section: 'unpaced',
      title: 'Cold pull by 10 nodes, upstream unpaced',
      nodes: 10,
      bytesPerSecond: Number.POSITIVE_INFINITY,
      rounds: 3,
      subjects: pick('entrepot', 'docker-registry'),
    },
    {
      section: 'unpaced',
      title: 'Cold pull by 50 nodes, upstream unpaced',
      nodes: 50,
      bytesPerSecond: Number.POSITIVE_INFINITY,
      rounds: 3,
      subjects: pick('entrepot', 'docker-registry'),
    },
  ];
  for (const { section, ...test } of cases) {
    await sections.measure(section, async () => coldPull(upstream.port, await bigImage(), test));
  }
  const narrow = async (test: Omit<ColdCase, 'bytesPerSecond'>) => {
    const small = await pushImage(url, 'library/small', 'v1', Array<number>(4).fill(32 * MIB));
    return coldPull(upstream.port, small, { ...test, bytesPerSecond: 25e6 });
  };
  await sections.measure(
    'narrow',
    () =>
      narrow({
        title: 'Cold pull of 128 MiB by 20 nodes, upstream at 25 MB/s',
        nodes: 20,
        rounds: 3,
        subjects: pick('entrepot'),
      }),
    // A minute a round.
    () =>
      narrow({
        title: 'The same by 10 nodes, the peer once',
        nodes: 10,
        rounds: 1,
        subjects: pick('docker-registry'),
      }),
  );
  const oneLayer = async (test: Omit<ColdCase, 'nodes' | 'bytesPerSecond'>) => {
    const image = await pushImage(url, 'library/layer', 'v1', [LAYER_BYTES]);
    return coldPull(upstream.port, image, { ...test, nodes: 1, bytesPerSecond: 25e6 });
  };
  const byConnections = (test: Pick<ColdCase, 'title' | 'isPerConnection'>) => {
    const entrepot = (connectionsPerBlob: number) => ({
      name: `entrepot, ${connectionsPerBlob === 1 ? 'one connection' : `up to ${connectionsPerBlob}`}`,
      start: (upstreamPort: number) => startEntrepot(upstreamPort, undefined, { connectionsPerBlob }),
    });
    return oneLayer({ ...test, rounds: 3, subjects: [...pick('directly'), entrepot(1), entrepot(4)] });
  };
  await sections.measure(
    'connections',
    () =>
      byConnections({
        title: 'Cold pull of one layer, upstream at 25 MB/s a connection',
        isPerConnection: true,
      }),
    () => byConnections({ title: 'Cold pull of one layer, upstream at 25 MB/s in all' }),
    // A minute and a half.
    () => oneLayer({ title: 'The same, the peer once', rounds: 1, subjects: pick('docker-registry') }),
  );
  const { port } = upstream;
  await sections.measure(
    'lazy',
    () => lazyEstargz(port),
    () => lazyChunked(port),
    () => parallelPull(port),
  );
  await sections.measure(
    'bundles',
    async () => bundles(upstream.port, await bigImage()),
    async () => bundlesWhileServing(upstream.port, await bigImage()),
    async () => {
      const many = [];
      for (let at = 0; at < 20; at += 1)
        many.push(await pushImage(url, `many/image-${at}`, 'v1', [8 * MIB, 2 * MIB, MIB]));
      return prepull(upstream.port, many);
    },
  );
  // A quarter of an hour, so it comes last.
  await sections.measure('page', largePage);
  await sections.measure('upkeep', () => largeStore());
  await sections.measure('postgres', largePostgresStore);
  sections.close();
} finally {
  await upstream.stop();
}

async function warm(image: Awaited<ReturnType<typeof pushImage>>): Promise<void> {
  const pull = async (subject: Subject) => {
    await load({
      kind: 'nodes',
      port: subject.port,
      base: `/v2/${image.repository}`,
      query: subject.query,
      tag: image.tag,
      nodes: 1,
      parallel: 3,
      digests: image.digests,
      sizes: image.sizes,
    });
    // The peer stores what it served in the background, with a second download.
    await new Promise(resolve => setTimeout(resolve, 5_000));
  };
  const entrepot = await startWarmEntrepot(upstream.port, pull);
  const peer = await startDockerRegistry(upstream.port);
  const nginx = await startNginx(
    new Map(
      image.digests.map(digest => [
        `/v2/${image.repository}/blobs/${digest}`,
        dockerRegistryFile(upstream.dataFolder, digest),
      ]),
    ),
  );
  const subjects: Subject[] = [entrepot, peer, nginx];
  try {
    await pull(peer);
    console.log(await warmManifests([entrepot, peer], image, 3, 4));
    console.log(await warmBlobs(subjects, image, 3, 4));
  } finally {
    for (const subject of subjects) {
      await subject.stop();
    }
  }
}
