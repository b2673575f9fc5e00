/**
 * The load, in a process of its own so that it has a core of its own. Takes one job as JSON in argv, prints one result
 * as JSON. Every answer's status and size is asserted: a number about wrong answers is worth nothing.
 */
import { HttpConnection, type Response } from './http-connection.ts';
import { quantile } from './table.ts';

export interface RateJob {
  readonly kind: 'rate';
  readonly port: number;
  readonly path: string;
  readonly headers: string;
  readonly connections: number;
  readonly seconds: number;
  readonly expectBytes: number;
}

export interface RateResult {
  readonly requests: number;
  readonly bytes: number;
  readonly seconds: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** What the load itself took. */
  readonly cpuSeconds: number;
}

export interface NodesJob {
  readonly kind: 'nodes';
  readonly port: number;
  /** `/v2/library/big`, with `query` behind each path: `?ns=...` or nothing. */
  readonly base: string;
  readonly query: string;
  readonly tag: string;
  readonly nodes: number;
  /** Layers that one node fetches at once, as containerd does. */
  readonly parallel: number;
  readonly digests: readonly string[];
  readonly sizes: readonly number[];
  /** The header in which a proxy says which server has answered. */
  readonly serverHeader?: string;
}

export interface NodesResult {
  readonly seconds: number;
  readonly bytes: number;
  readonly firstByteP50Ms: number;
  readonly firstByteP99Ms: number;
  /** p99 of `behindMs`. */
  readonly spreadP99Ms: number;
  /**
   * How long after the first client's first byte of the same blob, or after its own request, one's own comes: from the
   * server that the first client had it from, and from others; of these also the first that each of them sent of a blob.
   */
  readonly behindMs: {
    readonly same: readonly number[];
    readonly others: readonly number[];
    readonly firstOfOthers: readonly number[];
  };
  /** When each server was first asked for a blob, by digest and server; epoch ms. */
  readonly askedAtMs: Readonly<Record<string, Readonly<Record<string, number>>>>;
}

interface FirstByte {
  readonly sentMs: number;
  readonly arrivedMs: number;
  /** Absent if no proxy names it. */
  readonly server: string | undefined;
}

const ACCEPT =
  'Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, ' +
  'application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json\r\n';

function expectOk(response: Response, what: string, bytes?: number): void {
  if (response.status !== 200 || (bytes !== undefined && response.bytes !== bytes)) {
    throw new Error(
      `${what}: status ${response.status}, ${response.bytes} bytes (expected ${bytes})\n${response.headers}`,
    );
  }
}

async function rate(job: RateJob): Promise<RateResult> {
  const connections = await Promise.all(
    Array.from({ length: job.connections }, () => HttpConnection.open(job.port)),
  );
  const latencies: number[] = [];
  let bytes = 0;
  const before = process.cpuUsage();
  const startMs = performance.now();
  const endMs = startMs + job.seconds * 1000;
  await Promise.all(
    connections.map(async connection => {
      while (performance.now() < endMs) {
        const sentMs = performance.now();
        const response = await connection.request('GET', job.path, job.headers);
        expectOk(response, job.path, job.expectBytes);
        latencies.push(performance.now() - sentMs);
        bytes += response.bytes;
      }
    }),
  );
  const seconds = (performance.now() - startMs) / 1000;
  const { user, system } = process.cpuUsage(before);
  for (const connection of connections) {
    connection.close();
  }
  return {
    requests: latencies.length,
    bytes,
    seconds,
    p50Ms: quantile(latencies, 0.5),
    p99Ms: quantile(latencies, 0.99),
    cpuSeconds: (user + system) / 1e6,
  };
}

async function nodes(job: NodesJob): Promise<NodesResult> {
  const startMs = performance.now();
  const firstBytes = job.digests.map(() => [] as FirstByte[]);
  const waits: number[] = [];
  const serverLine =
    job.serverHeader === undefined ? undefined : new RegExp(`^${job.serverHeader}: *(.*)$`, 'im');
  let bytes = 0;
  const pullBlob = async (connection: HttpConnection, index: number) => {
    const sentMs = performance.now();
    const response = await connection.request('GET', `${job.base}/blobs/${job.digests[index]}${job.query}`);
    expectOk(response, `blob ${job.digests[index]}`, job.sizes[index]);
    bytes += response.bytes;
    waits.push(response.firstByteMs);
    const server = serverLine?.exec(response.headers)?.[1];
    firstBytes[index]?.push({ sentMs, arrivedMs: sentMs + response.firstByteMs, server });
  };
  const pull = async () => {
    const connections = await Promise.all(
      Array.from({ length: job.parallel }, () => HttpConnection.open(job.port)),
    );
    const [first] = connections;
    const manifest = await first?.request('GET', `${job.base}/manifests/${job.tag}${job.query}`, ACCEPT);
    if (manifest !== undefined) {
      expectOk(manifest, 'manifest');
    }
    let next = 0;
    await Promise.all(
      connections.map(async connection => {
        while (next < job.digests.length) {
          await pullBlob(connection, next++);
        }
        connection.close();
      }),
    );
  };
  await Promise.all(Array.from({ length: job.nodes }, pull));
  const behindMs = behindTheFirst(firstBytes);
  return {
    seconds: (performance.now() - startMs) / 1000,
    bytes,
    firstByteP50Ms: quantile(waits, 0.5),
    firstByteP99Ms: quantile(waits, 0.99),
    spreadP99Ms: quantile([...behindMs.same, ...behindMs.others], 0.99),
    behindMs,
    askedAtMs: Object.fromEntries(
      job.digests.map((digest, at) => [digest, firstAsked(firstBytes[at] ?? [])]),
    ),
  };
}

function firstAsked(times: readonly FirstByte[]): Record<string, number> {
  const inOrder = times.toSorted((one, other) => other.sentMs - one.sentMs);
  return Object.fromEntries(
    inOrder.map(({ sentMs, server = '' }) => [server, performance.timeOrigin + sentMs]),
  );
}

function behindTheFirst(blobs: readonly (readonly FirstByte[])[]): NodesResult['behindMs'] {
  const [same, others, firstOfOthers]: [number[], number[], number[]] = [[], [], []];
  for (const times of blobs) {
    const inOrder = times.toSorted((one, other) => one.arrivedMs - other.arrivedMs);
    const [first] = inOrder;
    const seen = new Set([first?.server]);
    for (const { sentMs, arrivedMs, server } of inOrder) {
      const ms = arrivedMs - Math.max(sentMs, first?.arrivedMs ?? 0);
      (server === first?.server ? same : others).push(ms);
      if (!seen.has(server)) firstOfOthers.push(ms);
      seen.add(server);
    }
  }
  return { same, others, firstOfOthers };
}

const job = JSON.parse(process.argv[2] ?? 'null') as RateJob | NodesJob;
const result = job.kind === 'rate' ? await rate(job) : await nodes(job);
console.log(JSON.stringify(result));
