import { randomFillSync } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Bucket } from '../../src/blobs/s3/bucket.ts';
import { Ceph, CEPH_PROGRAMS } from '../support/ceph.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { hasPrograms, run } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { digestOf, pushBlob, pushesTo, startHosted } from './push.ts';
import { load } from './support/load.ts';
import { NotMeasured } from './support/sections.ts';
import { startDockerRegistry, startNginxProxy, type Subject } from './support/subjects.ts';
import { spread, table } from './support/table.ts';

const MIB = 2 ** 20;
const ROUNDS = 7;
const READ_BYTES = 256 * MIB;
const CONNECTION_BYTES_PER_S = 25e6;
const WARM_BYTES = 64 * MIB;
const WARM_SECONDS = 4;
const PREFIX = 'entrepot/';
/** Of the store whose clients are sent to the bucket. */
const REDIRECTED = 'redirected/';

/** First reads of a blob from an S3 that limits the rate of a connection, as AWS's does. */
export async function overSlowConnections(): Promise<string> {
  if (!hasPrograms('curl')) throw new NotMeasured('slow connections to S3 need curl');
  const folder = await makeTempFolder('s3');
  const s3 = await FakeS3.start();
  const subject = await startHosted({ s3: await s3.config(folder, PREFIX) });
  const redirecting = await startHosted({ s3: { ...(await s3.config(folder, REDIRECTED)), redirect: true } });
  try {
    const read = await pushedTo({ subject, redirecting, bucket: new Bucket(s3.settings()) });
    s3.fault = ({ method }) => (method === 'GET' ? { bytesPerS: CONNECTION_BYTES_PER_S } : undefined);
    return await firstReads(`an S3 that gives ${CONNECTION_BYTES_PER_S / 1e6} MB/s a connection`, read);
  } finally {
    await Promise.all([subject.stop(), redirecting.stop()]);
    await s3.close();
    await removeFolder(folder);
  }
}

/** Blobs in a bucket of Ceph's gateway: first reads, warm reads, pushes. */
export async function inBucket(): Promise<string | undefined> {
  if (!hasPrograms(...CEPH_PROGRAMS, 'curl')) throw new NotMeasured('a bucket needs Ceph and curl');
  const ceph = await Ceph.start();
  try {
    const inS3 = await startHosted({ s3: ceph.config(PREFIX) });
    const redirecting = await startHosted({ s3: { ...ceph.config(REDIRECTED), redirect: true } });
    const inFolder = await startHosted();
    try {
      const bucket = new Bucket(ceph.settings(PREFIX));
      console.log(await firstReads('Ceph', await pushedTo({ subject: inS3, redirecting, bucket })));
      console.log(await warmReads({ ...inS3, name: 'first level' }, { ...inFolder, name: 'folder' }));
    } finally {
      await Promise.all([inS3.stop(), redirecting.stop(), inFolder.stop()]);
    }
    const { accessKeyId, secretAccessKey } = ceph.keys;
    const peer = await startDockerRegistry(undefined, {
      s3: {
        accesskey: accessKeyId,
        secretkey: secretAccessKey,
        region: 'us-east-1',
        regionendpoint: ceph.endpoint,
        bucket: ceph.bucket,
        secure: false,
        rootdirectory: '/docker-registry',
      },
    });
    const own = await startHosted({ s3: ceph.config('pushes/') });
    return await pushesTo([own, peer], 'Push into one bucket');
  } finally {
    await ceph.stop();
  }
}

type Hosted = Subject & { readonly folder: string };

interface Servers {
  readonly subject: Hosted;
  /** With `storage.s3.redirect`. */
  readonly redirecting: Hosted;
  /** That of `subject`, with its prefix. */
  readonly bucket: Bucket;
}

interface ReadBlob extends Omit<Servers, 'bucket'> {
  readonly digest: string;
  /** The URL of its object. */
  readonly plain: string;
}

/** Pushes a blob to both servers. The bucket is closed. */
async function pushedTo({ subject, redirecting, bucket }: Servers): Promise<ReadBlob> {
  const bytes = randomFillSync(new Uint8Array(READ_BYTES));
  const digest = digestOf(bytes);
  for (const server of [subject, redirecting]) await pushBlob(server, 'bench/reads', bytes, digest);
  return { subject, redirecting, digest, plain: await urlOfObject(bucket) };
}

/**
 * Reads of a blob that is in the bucket alone, and of its object as curl gets it from S3, in turn; and through nginx, which
 * shows what a server in between costs here that verifies nothing, and one that also keeps the bytes.
 */
async function firstReads(s3: string, { subject, redirecting, digest, plain }: ReadBlob): Promise<string> {
  const urlAt = ({ port }: Subject) => `http://127.0.0.1:${port}/v2/bench/reads/blobs/${digest}`;
  const object = new URL(plain);
  const [passing, keeping] = [
    await startNginxProxy(object, { keeps: false }),
    await startNginxProxy(object, { keeps: true }),
  ];
  const through = (server: Subject) => ({
    name: server.name,
    url: `http://127.0.0.1:${server.port}${object.pathname}${object.search}`,
    server,
  });
  const ways: readonly { readonly name: string; readonly url: string; readonly server?: Subject }[] = [
    { name: 'plain GET', url: plain },
    { name: 'entrepot', url: urlAt(subject), server: subject },
    { name: 'entrepot, redirect', url: urlAt(redirecting), server: redirecting },
    through(passing),
    through(keeping),
  ];
  const measured = ways.map(() => ({
    rate: [] as number[],
    firstByteMs: [] as number[],
    cpu: [] as number[],
  }));
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [at, { url, server }] of ways.entries()) {
      await rm(join(subject.folder, 'store', 'copies'), { recursive: true, force: true });
      const before = server?.cpuSeconds() ?? 0;
      const { megabytesPerSecond, firstByteMs } = await download(url);
      measured[at]?.rate.push(megabytesPerSecond);
      measured[at]?.firstByteMs.push(firstByteMs);
      measured[at]?.cpu.push(((server?.cpuSeconds() ?? 0) - before) / (READ_BYTES / 2 ** 30));
    }
  }
  await Promise.all([passing.stop(), keeping.stop()]);
  // Of the same round, since what else the machine does changes from one to the next.
  const shares = (rates: readonly number[]) =>
    rates.map((rate, round) => rate / (measured[0]?.rate[round] ?? Number.NaN));
  return table(
    `First read of a blob of ${READ_BYTES / MIB} MiB from ${s3}`,
    ['', 'MB/s', 'first byte ms', 'CPU s/GiB', 'of the plain GET'],
    ways.map(({ name, server }, at) => {
      const { rate, firstByteMs, cpu } = measured[at]!;
      const own = server === undefined ? ['', ''] : [spread(cpu, 2), spread(shares(rate), 2)];
      return [name, spread(rate), spread(firstByteMs, 1), ...own];
    }),
  );
}

async function warmReads(...subjects: readonly Subject[]): Promise<string> {
  const digests = new Map<Subject, string>();
  for (const subject of subjects) digests.set(subject, await pushRandom(subject, WARM_BYTES));
  const rates = new Map(subjects.map(subject => [subject, [] as number[]]));
  const cpu = new Map(subjects.map(subject => [subject, [] as number[]]));
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const subject of subjects) {
      const before = subject.cpuSeconds();
      const { bytes, seconds } = await load({
        kind: 'rate',
        port: subject.port,
        path: `/v2/bench/reads/blobs/${digests.get(subject)}`,
        headers: '',
        connections: 8,
        seconds: WARM_SECONDS,
        expectBytes: WARM_BYTES,
      });
      rates.get(subject)?.push(bytes / seconds / 1e9);
      cpu.get(subject)?.push((subject.cpuSeconds() - before) / (bytes / 2 ** 30));
    }
  }
  const cells = subjects.map(subject => [
    subject.name,
    spread(rates.get(subject) ?? [], 2),
    spread(cpu.get(subject) ?? [], 2),
  ]);
  return table('Warm blob of 64 MiB, 8 clients', ['', 'GB/s', 'CPU s/GiB'], cells);
}

async function pushRandom(subject: Subject, size: number): Promise<string> {
  const bytes = randomFillSync(new Uint8Array(size));
  const digest = digestOf(bytes);
  await pushBlob(subject, 'bench/reads', bytes, digest);
  return digest;
}

/** A URL of the only object of the bucket, which is closed. */
async function urlOfObject(bucket: Bucket): Promise<string> {
  try {
    for await (const { key } of bucket.list('blobs/')) return await bucket.urlOf(key);
    throw new Error('the bucket is empty');
  } finally {
    await bucket.close();
  }
}

/** What curl says of a download, which may be somewhere else. */
async function download(url: string): Promise<{ megabytesPerSecond: number; firstByteMs: number }> {
  const format = '%{http_code} %{size_download} %{time_starttransfer} %{time_total}';
  const options = ['--silent', '--location', '--output', '/dev/null', '--write-out', format];
  const text = await run('curl', [...options, url]);
  const [status = 0, bytes = 0, firstS = 0, totalS = 0] = text.split(' ').map(Number);
  if (status !== 200 || bytes !== READ_BYTES) throw new Error(`${url}: ${text}`);
  return { megabytesPerSecond: bytes / 1e6 / totalS, firstByteMs: firstS * 1000 };
}
