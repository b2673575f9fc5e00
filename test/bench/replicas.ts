import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { get } from '../support/client.ts';
import { bytesOf, contentOf, imageOf, type Image, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { HAS_POSTGRES, Postgres, sql } from '../support/postgres.ts';
import { answers, Daemon, freePort, hasPrograms } from '../support/programs.ts';
import { pushImage } from '../support/push-client.ts';
import { replicaConfig } from '../support/replica-config.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import type { NodesJob, NodesResult } from './support/client.ts';
import { HttpConnection } from './support/http-connection.ts';
import { load } from './support/load.ts';
import { BusyCores } from './support/busy-cores.ts';
import { LOOP_DELAY, type LoopDelay, LoopWatch, worstDelay } from './support/loop-delay.ts';
import { NotMeasured } from './support/sections.ts';
import { startNginx, type Subject } from './support/subjects.ts';
import { quantile, spread, table } from './support/table.ts';

const MIB = 2 ** 20;
const UPSTREAM = 'upstream.example';
const REPLICAS = 3;
/** Of an image whose questions are counted. */
const LAYERS = 8;
/** Whatever happens once is divided by this. */
const IMAGES = 20;
/** What is behind a pull or push: uses that are written, uploads that are completed. */
const SETTLED_MS = 6_000;
/** By then, replicas have found each other and have connections ready. */
const ACQUAINTED_MS = 12_000;
/** By then, the replicas have logged what they have sent. */
const LOGGED_MS = 1_000;
/** How many blobs are measured one after the other. */
const SINGLE_BLOBS = 60;
const SERVER_HEADER = 'x-replica';
/** Layers that a node pulls at once, as containerd does. */
const PARALLEL = 3;
/** What many nodes pull at once. */
const BIG = 'library/big';

/** Replicas with one upstream, and haproxy in front as in config/replicas. */
class Fleet {
  readonly upstream: FakeUpstream;
  readonly s3: FakeS3;
  readonly postgres: Postgres;
  readonly replicas: readonly Entrepot[];
  readonly port: number;
  readonly #proxy: Daemon;
  readonly #folder: string;

  private constructor(parts: Pick<Fleet, 'upstream' | 's3' | 'postgres' | 'replicas' | 'port'>, own: Own) {
    this.upstream = parts.upstream;
    this.s3 = parts.s3;
    this.postgres = parts.postgres;
    this.replicas = parts.replicas;
    this.port = parts.port;
    this.#proxy = own.proxy;
    this.#folder = own.folder;
  }

  /** `linkBytesPerS`: what the upstream gives to all. */
  static async start(count: number, linkBytesPerS = Number.POSITIVE_INFINITY): Promise<Fleet> {
    const folder = await makeTempFolder('fleet');
    const parameters = { shared_preload_libraries: 'pg_stat_statements' };
    const postgres = await Postgres.start({ syncs: true, parameters });
    const [s3, upstream] = [await FakeS3.start(), await FakeUpstream.start({ linkBytesPerS })];
    const settings = postgres.settings();
    const replicas: Entrepot[] = [];
    for (let at = 0; at < count; at += 1) {
      replicas.push(
        await Entrepot.start({
          upstreams: { [UPSTREAM]: { url: upstream.url } },
          hosted: { prefixes: ['bench'], anonymous: 'push' },
          ...(await replicaConfig({ settings, s3, folder })),
        }),
      );
    }
    const port = await freePort();
    const proxy = await startHaproxy(
      folder,
      port,
      replicas.map(({ host }) => host),
    );
    await sql(settings, 'CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA public');
    return new Fleet({ upstream, s3, postgres, replicas, port }, { proxy, folder });
  }

  /** What PostgreSQL and S3 were asked so far. */
  async asked(): Promise<Asked> {
    const [row] = await sql<{ statements: string; commits: string; writes: string }>(
      this.postgres.settings(),
      `SELECT coalesce(sum(calls) FILTER (WHERE query !~* '^(BEGIN|COMMIT|ROLLBACK)'), 0) AS statements,
        coalesce(sum(calls) FILTER (WHERE query ~* '^COMMIT'), 0) AS commits,
        pg_snapshot_xmax(pg_current_snapshot())::text AS writes
      FROM public.pg_stat_statements`,
    );
    const s3 = ['GET', 'HEAD', 'PUT', 'POST', 'DELETE'].map(method => this.s3.count(method));
    return [row?.statements, row?.commits, row?.writes, ...s3].map(Number);
  }

  /**
   * By the replicas' logs, all on one clock: how long after the holder's first byte of a blob, or after its own first client
   * had asked for it, each other replica sent its first. Whoever sent the first is taken for the holder.
   */
  async behindHolderMs(digests: readonly string[], askedAtMs: NodesResult['askedAtMs']): Promise<number[]> {
    // A line is written when the client has all bytes.
    await pause(LOGGED_MS);
    const sentAtMs = this.replicas.map(replica => firstSent(replica.logs()));
    return digests.flatMap(digest => {
      const asked = Object.entries(askedAtMs[digest] ?? {}).map(([name, askedMs]) => {
        const sentMs = sentAtMs[this.replicas.findIndex((_, at) => nameOf(at) === name)]?.get(digest);
        if (sentMs === undefined) throw new Error(`${name} has logged no response with ${digest}`);
        return { askedMs, sentMs };
      });
      const [holder, ...others] = asked.toSorted((one, other) => one.sentMs - other.sentMs);
      return others.map(({ askedMs, sentMs }) => sentMs - Math.max(askedMs, holder?.sentMs ?? 0));
    });
  }

  cpuSeconds(): number {
    return this.replicas.reduce((sum, replica) => sum + replica.cpuSeconds(), 0);
  }

  async stop(): Promise<void> {
    await this.#proxy.stop();
    await Promise.all(this.replicas.map(replica => replica.remove()));
    await this.upstream.stop();
    await this.s3.close();
    await this.postgres.remove();
    await removeFolder(this.#folder);
  }
}

interface Own {
  readonly proxy: Daemon;
  readonly folder: string;
}

/** In the order of `COLUMNS`. */
type Asked = readonly number[];

const COLUMNS = [
  'statements',
  'of them COMMIT',
  'that write',
  'GET',
  'HEAD',
  'PUT',
  'POST',
  'DELETE',
] as const;

/** As haproxy names it. */
function nameOf(replica: number): string {
  return `replica${replica}`;
}

/** By digest, when a replica with these logs has sent the first byte of a blob; epoch ms. */
function firstSent(logs: string): ReadonlyMap<string, number> {
  const sent = new Map<string, number>();
  for (const line of logs.split('\n').filter(text => text.includes('"firstByteMs"'))) {
    const { time, reference, firstByteMs, totalMs } = JSON.parse(line);
    const sentMs = Date.parse(time) - totalMs + firstByteMs;
    sent.set(reference, Math.min(sentMs, sent.get(reference) ?? Number.POSITIVE_INFINITY));
  }
  return sent;
}

async function startHaproxy(folder: string, port: number, hosts: readonly string[]): Promise<Daemon> {
  const servers = hosts.map((host, at) => `  server ${nameOf(at)} ${host}`);
  const lines = [
    'defaults',
    '  mode http',
    '  timeout connect 5s',
    '  timeout client 5m',
    '  timeout server 5m',
    '  http-reuse always',
    'listen clients',
    `  bind 127.0.0.1:${port}`,
    '  balance roundrobin',
    `  http-response set-header ${SERVER_HEADER} %s`,
    ...servers,
  ];
  const file = join(folder, 'haproxy.cfg');
  await writeFile(file, `${lines.join('\n')}\n`);
  const isReady = () => answers(`http://127.0.0.1:${port}/v2/`);
  return Daemon.start({ program: 'haproxy', args: ['-db', '-f', file], isReady });
}

/** What PostgreSQL and S3 see of a pull or push of a small image, without what idle replicas ask. */
export async function questions(): Promise<string> {
  requirePrograms();
  const fleet = await Fleet.start(REPLICAS);
  try {
    const images = Array.from({ length: IMAGES }, (_, at) => imageNamed(`image ${at}`, LAYERS, MIB));
    for (const [at, image] of images.entries()) fleet.upstream.add(`library/app-${at}`, image, 'v1');
    const [first, second, third] = fleet.replicas;
    const pullAll = (replica: Entrepot | undefined, parallel = [replica]) =>
      images.reduce(async (before, image, at) => {
        await before;
        await Promise.all(parallel.map(each => pull(each!, `library/app-${at}`, image)));
      }, Promise.resolve());
    await settle();
    const idle = await counted(fleet, settle);
    const cases: readonly (readonly [string, () => Promise<unknown>])[] = [
      ['cold pull', () => pullAll(first)],
      ['the same again, warm', () => pullAll(first)],
      ['through another replica', () => pullAll(second)],
      ['the same again, warm', () => pullAll(second)],
      [
        'push',
        async () => {
          for (let at = 0; at < IMAGES; at += 1) {
            const image = imageNamed(`pushed ${at}`, LAYERS, MIB);
            await pushImage(third!.url, `bench/app-${at}`, 'v1', image);
          }
        },
      ],
    ];
    const rows = [['three idle replicas, each second', ...perSecond(idle)]];
    for (const [name, act] of cases) {
      const { asked, seconds } = await counted(fleet, act);
      const own = asked.map((count, at) => count - (perSecondOf(idle)[at] ?? 0) * seconds);
      rows.push([name, ...own.map(count => (Math.max(0, count) / IMAGES).toFixed(1))]);
    }
    const title = `An image of ${LAYERS} layers of 1 MiB and a config: statements and writing transactions in PostgreSQL, requests to S3`;
    return table(title, ['', ...COLUMNS], rows);
  } finally {
    await fleet.stop();
  }
}

/**
 * First bytes through replicas that follow another one, one blob at a time: how long they take if nothing waits for a core. With
 * many nodes, the same steps also wait for cores (`LOOP_DELAY`).
 */
export async function firstBytes(): Promise<string> {
  requirePrograms();
  const fleet = await Fleet.start(REPLICAS);
  try {
    const connections = await Promise.all(
      fleet.replicas.map(({ url }) => HttpConnection.open(Number(new URL(url).port))),
    );
    await pause(ACQUAINTED_MS);
    const rows: string[][] = [];
    for (const [name, asked] of [
      ['at the same moment', askedAtOnce],
      ['while one downloads it', askedLate],
    ] as const) {
      const image = imageNamed(name, SINGLE_BLOBS, 2 * MIB);
      const repository = `library/${name.replaceAll(' ', '-')}`;
      fleet.upstream.add(repository, image, 'v1');
      for (const { url } of fleet.replicas) await get(`${url}/v2/${repository}/manifests/v1?ns=${UPSTREAM}`);
      const cores = new BusyCores();
      const [first, behind]: [number[], number[]] = [[], []];
      for (const [at, { digest, size }] of image.layers.entries()) {
        const path = `/v2/${repository}/blobs/${digest}?ns=${UPSTREAM}`;
        const turns = [...connections.slice(at % REPLICAS), ...connections.slice(0, at % REPLICAS)];
        const times = await asked(fleet, turns, connection => firstByteOf(connection, path, size));
        const firstMs = Math.min(...times.map(({ arrivedMs }) => arrivedMs));
        for (const { sentMs, arrivedMs } of times) {
          if (arrivedMs === firstMs) first.push(arrivedMs - sentMs);
          else behind.push(arrivedMs - Math.max(sentMs, firstMs));
        }
      }
      rows.push([name, quantiles(first), quantiles(behind), (cores.share() * 100).toFixed(0)]);
    }
    connections.forEach(connection => connection.close());
    return table(
      `First bytes of a blob that clients of ${REPLICAS} replicas want, one blob at a time`,
      ['asked for', 'from the first, ms p50/p90/p99', 'ms behind it, from the others', 'cores busy %'],
      rows,
    );
  } finally {
    await fleet.stop();
  }
}

interface FirstByteTime {
  readonly sentMs: number;
  readonly arrivedMs: number;
}

type Ask = (connection: HttpConnection) => Promise<FirstByteTime>;

async function firstByteOf(connection: HttpConnection, path: string, size: number): Promise<FirstByteTime> {
  const sentMs = performance.now();
  const { status, bytes, firstByteMs } = await connection.request('GET', path);
  if (status !== 200 || bytes !== size) throw new Error(`${path}: status ${status}, ${bytes} bytes`);
  return { sentMs, arrivedMs: sentMs + firstByteMs };
}

function askedAtOnce(_fleet: Fleet, turns: readonly HttpConnection[], ask: Ask): Promise<FirstByteTime[]> {
  return Promise.all(turns.map(ask));
}

/** The others ask when the first one has received half of the blob. */
async function askedLate(
  { upstream }: Fleet,
  [first, ...others]: readonly HttpConnection[],
  ask: Ask,
): Promise<FirstByteTime[]> {
  if (first === undefined) return [];
  let go = () => {};
  const until = new Promise<void>(resolve => (go = resolve));
  upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, pause: { atByte: MIB, until } });
  const asking = ask(first);
  await pause(50);
  const later = others.map(ask);
  await pause(50);
  go();
  return Promise.all([asking, ...later]);
}

/** A pull of an image that nobody holds, by many nodes at once through haproxy. */
interface FleetCase {
  readonly nodes: number;
  /** 8 layers of this size. */
  readonly layerMiB: number;
  /** What the upstream gives to all; unlimited by default. */
  readonly megabytesPerS?: number;
  readonly rounds: number;
}

/**
 * Without a limit, which takes all of a machine's two cores, and as paced as real upstreams are. The slower upstream is, and the
 * fewer nodes there are, the more the cores have to spare.
 */
const FLEET_CASES: readonly FleetCase[] = [
  { nodes: 60, layerMiB: 64, rounds: 1 },
  { nodes: 24, layerMiB: 64, rounds: 1 },
  { nodes: 12, layerMiB: 64, rounds: 1 },
  { nodes: 6, layerMiB: 64, rounds: 1 },
  { nodes: 60, layerMiB: 16, megabytesPerS: 100, rounds: 2 },
  { nodes: 60, layerMiB: 16, megabytesPerS: 50, rounds: 2 },
  { nodes: 60, layerMiB: 4, megabytesPerS: 4, rounds: 2 },
  { nodes: 12, layerMiB: 16, megabytesPerS: 50, rounds: 2 },
];

/** Cold pulls of an image by many nodes through haproxy, from three replicas and from one. */
export async function fleetPulls(): Promise<void> {
  for (const each of FLEET_CASES) console.log(await fleetPull(each));
}

async function fleetPull({ nodes, layerMiB, megabytesPerS, rounds }: FleetCase): Promise<string> {
  requirePrograms();
  const image = imageNamed('big', 8, layerMiB * MIB);
  const blobs = [image.config, ...image.layers];
  const bytes = blobs.reduce((sum, { size }) => sum + size, image.manifest.size);
  const counts = [1, REPLICAS] as const;
  const figures = counts.map(() => ({
    seconds: [] as number[],
    busy: [] as number[],
    ratio: [] as number[],
    gets: [] as number[],
    ranges: [] as number[],
    manifests: [] as number[],
    heads: [] as number[],
    same: [] as number[],
    others: [] as number[],
    firstOfOthers: [] as number[],
    behindHolder: [] as number[],
    cpu: [] as number[],
    delays: [] as LoopDelay[],
  }));
  for (let round = 0; round < rounds; round += 1) {
    for (const [at, count] of counts.entries()) {
      const fleet = await Fleet.start(count, megabytesPerS === undefined ? undefined : megabytesPerS * 1e6);
      try {
        const { upstream } = fleet;
        if (count > 1) await pause(ACQUAINTED_MS);
        // Measure a fleet that has served before: a new process spends time on compiling what it runs.
        await pullByNodes(fleet, 'library/small', imageNamed('small', 8, MIB / 4), nodes);
        const loops = fleet.replicas.map(replica => new LoopWatch(replica));
        await Promise.all(loops.map(loop => loop.read()));
        const before = { bytes: upstream.bytesSent, cpu: fleet.cpuSeconds(), cores: new BusyCores() };
        const result = await pullByNodes(fleet, BIG, image, nodes);
        const own = figures[at]!;
        own.busy.push(before.cores.share() * 100);
        own.seconds.push(result.seconds);
        own.ratio.push((upstream.bytesSent - before.bytes) / bytes);
        const gets = upstream.requests.filter(
          ({ kind, method, repository }) => kind === 'blob' && method === 'GET' && repository === BIG,
        );
        const whole = gets.filter(({ headers }) => headers.range === undefined).length;
        own.gets.push(whole / blobs.length);
        own.ranges.push(gets.length - whole);
        own.manifests.push(upstream.count('manifest', { method: 'GET', repository: BIG }));
        own.heads.push(upstream.count('manifest', { method: 'HEAD', repository: BIG }));
        own.same.push(...result.behindMs.same);
        own.others.push(...result.behindMs.others);
        own.firstOfOthers.push(...result.behindMs.firstOfOthers);
        const digests = blobs.map(({ digest }) => digest);
        own.behindHolder.push(...(await fleet.behindHolderMs(digests, result.askedAtMs)));
        own.cpu.push((fleet.cpuSeconds() - before.cpu) / (result.bytes / 1e9));
        own.delays.push(...(await Promise.all(loops.map(loop => loop.read()))));
      } finally {
        await fleet.stop();
      }
    }
  }
  const nginx = await pullFromNginx(image, nodes, megabytesPerS);
  const rate = megabytesPerS === undefined ? 'unpaced' : `at ${megabytesPerS} MB/s in all`;
  return table(
    `Cold pull of 8 × ${layerMiB} MiB by ${nodes} nodes through haproxy, upstream ${rate}`,
    [
      'replicas',
      'wall s',
      'cores busy %',
      'upstream ÷ image',
      'GET/blob',
      'with Range',
      'manifest GETs',
      'HEADs',
      'ms behind the first, p50/p90/p99',
      'from other replicas',
      'the first from each',
      'sent by each behind the holder',
      'CPU s/GB served',
      LOOP_DELAY,
    ],
    [
      ...counts.map((count, at) => {
        const own = figures[at]!;
        return [
          String(count),
          spread(own.seconds, 1),
          spread(own.busy),
          spread(own.ratio, 3),
          spread(own.gets, 2),
          spread(own.ranges),
          spread(own.manifests),
          spread(own.heads),
          quantiles(own.same),
          own.others.length === 0 ? '' : quantiles(own.others),
          own.others.length === 0 ? '' : quantiles(own.firstOfOthers),
          own.others.length === 0 ? '' : quantiles(own.behindHolder),
          spread(own.cpu, 2),
          worstDelay(own.delays),
        ];
      }),
      nginx,
    ],
  );
}

/**
 * The same clients and haproxy with nginx in place of the replicas, which has the whole image in files, and gives each
 * connection what one of the three blobs at a time gets of the upstream's rate: what the machine allows. The cells of a row.
 */
async function pullFromNginx(
  image: Image,
  nodes: number,
  megabytesPerS: number | undefined,
): Promise<string[]> {
  const folder = await makeTempFolder('files');
  const files = new Map<string, string>();
  for (const content of [image.manifest, image.config, ...image.layers]) {
    const { digest } = content;
    const file = join(folder, digest.replace(':', '-'));
    await writeFile(file, bytesOf(content));
    files.set(content === image.manifest ? `/v2/${BIG}/manifests/v1` : `/v2/${BIG}/blobs/${digest}`, file);
  }
  const rate = megabytesPerS === undefined ? undefined : (megabytesPerS * 1e6) / PARALLEL;
  const servers: Subject[] = [];
  for (let at = 0; at < REPLICAS; at += 1) servers.push(await startNginx(files, rate));
  const port = await freePort();
  const proxy = await startHaproxy(
    folder,
    port,
    servers.map(server => `127.0.0.1:${server.port}`),
  );
  try {
    const cpuSeconds = () => servers.reduce((sum, server) => sum + server.cpuSeconds(), 0);
    const before = { cpu: cpuSeconds(), cores: new BusyCores() };
    const { seconds, bytes, behindMs } = await load(nodesJob(port, { name: BIG, query: '' }, image, nodes));
    const busy = (before.cores.share() * 100).toFixed(0);
    const cpu = ((cpuSeconds() - before.cpu) / (bytes / 1e9)).toFixed(2);
    const times = [behindMs.same, behindMs.others, behindMs.firstOfOthers].map(quantiles);
    return [
      `${REPLICAS} × nginx, files`,
      seconds.toFixed(1),
      busy,
      '',
      '',
      '',
      '',
      '',
      ...times,
      '',
      cpu,
      '',
    ];
  } finally {
    await proxy.stop();
    for (const server of servers) await server.stop();
    await removeFolder(folder);
  }
}

/** Adds an image upstream that no replica has, and lets nodes pull it at once. */
function pullByNodes(
  { upstream, port }: Fleet,
  name: string,
  image: Image,
  nodes: number,
): Promise<NodesResult> {
  upstream.add(name, image, 'v1');
  return load(nodesJob(port, { name, query: `?ns=${UPSTREAM}` }, image, nodes));
}

function nodesJob(
  port: number,
  { name, query }: { readonly name: string; readonly query: string },
  image: Image,
  nodes: number,
): NodesJob {
  const blobs = [image.config, ...image.layers];
  return {
    kind: 'nodes',
    port,
    base: `/v2/${name}`,
    query,
    tag: 'v1',
    nodes,
    parallel: PARALLEL,
    digests: blobs.map(({ digest }) => digest),
    sizes: blobs.map(({ size }) => size),
    serverHeader: SERVER_HEADER,
  };
}

/** As text: `5/16/98`. */
function quantiles(values: readonly number[]): string {
  return [0.5, 0.9, 0.99].map(share => quantile(values, share).toFixed(0)).join('/');
}

/** In memory: an upstream that makes bytes while it sends them takes CPU time from those that are measured. */
function imageNamed(seed: string, layers: number, size: number): Image {
  const layerAt = (at: number) => {
    const made = randomBlob(size, `${seed} ${at}`);
    return contentOf(bytesOf(made), made.mediaType);
  };
  return imageOf(Array.from({ length: layers }, (_, at) => layerAt(at)));
}

/** The manifest by its tag, then the blobs three at a time. */
async function pull({ url }: Entrepot, name: string, { config, layers }: Image): Promise<void> {
  const asked = async (path: string, size?: number) => {
    const got = await get(`${url}/v2/${name}/${path}?ns=${UPSTREAM}`);
    if (got.status !== 200 || (size !== undefined && got.bytes !== size)) {
      throw new Error(`${path}: status ${got.status}, ${got.bytes} bytes`);
    }
  };
  await asked('manifests/v1');
  const blobs = [config, ...layers];
  for (let at = 0; at < blobs.length; at += 3) {
    await Promise.all(blobs.slice(at, at + 3).map(({ digest, size }) => asked(`blobs/${digest}`, size)));
  }
}

interface Counted {
  readonly asked: Asked;
  readonly seconds: number;
}

/** What is asked while something is done, and until it has settled. */
async function counted(fleet: Fleet, act: () => Promise<unknown>): Promise<Counted> {
  const before = await fleet.asked();
  const startedMs = performance.now();
  await act();
  await settle();
  const after = await fleet.asked();
  return {
    asked: after.map((count, at) => count - (before[at] ?? 0)),
    seconds: (performance.now() - startedMs) / 1000,
  };
}

function perSecondOf({ asked, seconds }: Counted): readonly number[] {
  return asked.map(count => count / seconds);
}

function perSecond(idle: Counted): string[] {
  return perSecondOf(idle).map(count => count.toFixed(1));
}

function settle(): Promise<void> {
  return pause(SETTLED_MS);
}

function requirePrograms(): void {
  if (!HAS_POSTGRES || !hasPrograms('haproxy')) throw new NotMeasured('replicas need PostgreSQL and haproxy');
}
