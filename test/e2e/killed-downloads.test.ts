// A process that downloads a layer is killed while another one, on the same store, reads it along for its own clients: whole,
// and ranges behind, just ahead and far ahead of what is there.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { StatusDocument } from '../../src/admin/documents/status.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { get, type Got } from '../support/client.ts';
import { bytesOf, type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, type EntrepotConfig } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const UPSTREAM = 'up.example';
const SIZE = 24 * MIB;
/** What the killed process had not written, and what was on its way to it: it is sent again. */
const LOST_BYTES = 2 * MIB;
/** Bytes that only prove that upstream has them. */
const PROOF_BYTES = 64 * KIB;
/** How much has been downloaded when the process is killed. */
const KILLED_AT = 10 * MIB;
const WITHIN_MS = 60_000;

const WHOLE = [0, SIZE] as const;
const BEHIND = [MIB, 2 * MIB] as const;
/** Is there when its reader comes, up to its end, which comes later. */
const ACROSS = [2 * MIB, 12 * MIB] as const;
const FAR = [20 * MIB, 21 * MIB] as const;

let upstream: FakeUpstream;
let servers: Entrepot[];
let layer: Content;
let sentBefore: number;

beforeEach(async () => {
  upstream = await FakeUpstream.start({ linkBytesPerS: 6 * MIB });
  layer = randomBlob(SIZE, 'killed');
  upstream.add('app', imageOf([layer]), '1');
  servers = [];
});

afterEach(async () => {
  for (const server of servers.toReversed()) await server.remove();
  await upstream.stop();
});

async function serve(config: EntrepotConfig = {}): Promise<Entrepot> {
  const [first] = servers;
  const storage = first === undefined ? {} : { storage: { path: join(first.folder, 'store') } };
  const server = await Entrepot.start({
    upstreams: { [UPSTREAM]: { url: upstream.url } },
    ...storage,
    ...config,
  });
  servers.push(server);
  expect((await get(`${server.url}/v2/app/manifests/1?ns=${UPSTREAM}`)).status).toBe(200);
  sentBefore = upstream.bytesSent;
  return server;
}

interface Reading {
  readonly range: readonly [number, number];
  readonly got: Promise<Got>;
  /** How much it has received. */
  bytes: number;
}

function read(server: Entrepot, range: Reading['range']): Reading {
  const [start, end] = range;
  const headers = { range: `bytes=${start}-${end - 1}` };
  const url = `${server.url}/v2/app/blobs/${layer.digest}?ns=${UPSTREAM}`;
  const reading: Reading = {
    range,
    bytes: 0,
    got: get(url, {
      ...(range === WHOLE ? {} : { headers }),
      onData: bytes => (reading.bytes = bytes),
    }),
  };
  return reading;
}

async function expectRight({ range, got }: Reading): Promise<void> {
  const [start, end] = range;
  const { status, complete, bytes, sha256 } = await got;
  const right = digestOf(bytesOf(layer).subarray(start, end));
  expect([status, complete, bytes, `sha256:${sha256}`]).toEqual([
    range === WHOLE ? 200 : 206,
    true,
    end - start,
    right,
  ]);
}

async function untilRead(reading: Reading, bytes: number): Promise<void> {
  await until(`${bytes} bytes to be read`, WITHIN_MS, async () => reading.bytes >= bytes);
}

/** The layer is stored, and nothing unfinished is left. */
async function expectStored(server: Entrepot): Promise<void> {
  const [first] = servers;
  const ingests = join(first?.folder ?? '', 'store', 'ingest');
  await until('nothing unfinished to be left', WITHIN_MS, async () => (await readdir(ingests)).length === 0);
  const before = upstream.requests.length;
  await expectRight(read(server, WHOLE));
  expect(upstream.requests.length).toBe(before);
}

describe('of two servers, the other one', () => {
  it('continues it for those who read all of it, and everybody gets the right bytes', async () => {
    const first = await serve();
    const second = await serve();
    const leading = read(first, WHOLE);
    await untilRead(leading, 3 * MIB);
    const following = read(second, WHOLE);
    await untilRead(following, 2 * MIB);
    const behind = read(second, BEHIND);
    const across = read(second, ACROSS);
    const far = read(second, FAR);
    await untilRead(following, KILLED_AT);
    await first.kill();
    expect((await leading.got).complete).toBe(false);
    await expectRight(following);
    await expectRight(behind);
    await expectRight(across);
    await expectRight(far);
    expect(upstream.bytesSent - sentBefore).toBeLessThan(SIZE + LOST_BYTES + PROOF_BYTES);
    servers[0] = await first.startAgain();
    await expectStored(second);
  });

  it('requests the rest of the ranges that it read along, and no more; a whole pull then brings what is missing', async () => {
    const first = await serve();
    const second = await serve();
    const leading = read(first, WHOLE);
    await untilRead(leading, 3 * MIB);
    const behind = read(second, BEHIND);
    const across = read(second, ACROSS);
    await untilRead(across, KILLED_AT - ACROSS[0]);
    await first.kill();
    expect((await leading.got).complete).toBe(false);
    await expectRight(behind);
    await expectRight(across);
    expect(upstream.bytesSent - sentBefore).toBeLessThan(ACROSS[1] + LOST_BYTES + PROOF_BYTES);
    await expectRight(read(second, WHOLE));
    expect(upstream.bytesSent - sentBefore).toBeLessThan(SIZE + LOST_BYTES + PROOF_BYTES);
    servers[0] = await first.startAgain();
    await expectStored(second);
  });
});

describe('of two processes of one server, the other one', () => {
  interface Line {
    readonly msg: string;
    readonly worker?: number;
  }

  const linesOf = (server: Entrepot): readonly Line[] =>
    server
      .logs()
      .split('\n')
      .filter(line => line !== '')
      .map(line => JSON.parse(line));

  /** The process that downloads, once the other one reads along. */
  async function leaderOf(server: Entrepot): Promise<number> {
    const isFollowing = ({ msg }: Line) => msg === 'following the download of another process';
    await until('a process to follow', WITHIN_MS, async () => linesOf(server).some(isFollowing));
    const follower = linesOf(server).find(isFollowing)?.worker ?? 0;
    const { servingPids } = await server.ask<StatusDocument>('/debug/server');
    return servingPids[2 - follower] ?? 0;
  }

  it('continues it, and every client of its own gets the right bytes', async () => {
    const server = await serve({ server: { processes: 2 } });
    const wholes = Array.from({ length: 6 }, () => read(server, WHOLE));
    for (const whole of wholes) await untilRead(whole, 3 * MIB);
    const ranges = [BEHIND, BEHIND, ACROSS, ACROSS, FAR, FAR].map(range => read(server, range));
    const leader = await leaderOf(server);
    for (const whole of wholes) await untilRead(whole, KILLED_AT);
    process.kill(leader, 'SIGKILL');
    const finished: Reading[] = [];
    for (const reading of [...wholes, ...ranges]) if ((await reading.got).complete) finished.push(reading);
    for (const reading of finished) await expectRight(reading);
    // Half of the connections were the other's.
    expect(finished.filter(({ range }) => range === WHOLE)).toHaveLength(3);
    expect(upstream.bytesSent - sentBefore).toBeLessThan(SIZE + LOST_BYTES + PROOF_BYTES);
    await expectStored(server);
  });
});
