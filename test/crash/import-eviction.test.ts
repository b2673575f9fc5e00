// `entrepot import` beside a server that has to evict all the time: slow, suspended, killed, and two at once.
import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { layoutFiles, tarOf } from '../../src/archive/archive.fixture.ts';
import { get } from '../support/client.ts';
import { type Image, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';

const UPSTREAM = 'up.example';
/** More than the server takes to consider a process dead, and to evict. */
const LONG_MS = 15_000;

let upstream: FakeUpstream;
let server: Entrepot;
/** Pulls so much that the server has to evict, until it is stopped. */
let pressure: { stop(): Promise<void> };
const children = new Set<ChildProcess>();

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  server = await Entrepot.start({
    storage: { maxBytes: '2MB' },
    upkeep: { gcGracePeriod: '1s', gcInterval: '3s' },
    upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
  });
  pressure = pull();
});

afterEach(async () => {
  for (const child of children) child.kill('SIGKILL');
  await pressure.stop();
  await server.remove();
  await upstream.stop();
});

function pull(): typeof pressure {
  const stopped = new AbortController();
  const pulling = (async () => {
    for (let at = 0; !stopped.signal.aborted; at += 1) {
      const layer = randomBlob(300_000, `pressure ${at}`);
      upstream.add('pressure', imageOf([layer]), `v${at}`);
      await get(`${server.url}/v2/pressure/manifests/v${at}?ns=${UPSTREAM}`);
      await get(`${server.url}/v2/pressure/blobs/${layer.digest}?ns=${UPSTREAM}`);
      await sleep(200);
    }
  })();
  return {
    stop: async () => {
      stopped.abort();
      await pulling;
    },
  };
}

interface Importing {
  readonly child: ChildProcess;
  write(bytes: Uint8Array): Promise<void>;
  end(): void;
  readonly ended: Promise<{ readonly code: number | null; readonly text: string }>;
}

/** An import from a pipe. */
function startImport(): Importing {
  const child = spawn(process.execPath, [...STARTER, 'import', '-', '--config', server.configFile]);
  children.add(child);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => (text += String(chunk)));
  child.stdin.on('error', () => {});
  const ended = new Promise<{ code: number | null; text: string }>(resolve =>
    child.on('close', code => resolve({ code, text })),
  );
  return {
    child,
    write: bytes => new Promise(resolve => child.stdin.write(bytes, () => resolve())),
    end: () => child.stdin.end(),
    ended,
  };
}

const image = (name: string) => imageOf([0, 1, 2].map(at => randomBlob(150_000 + at, `${name} ${at}`)));

/** The image as a tar in two parts; most blobs are in the first one. */
async function partsOf(content: Image, name: string): Promise<readonly [Uint8Array, Uint8Array]> {
  const tar = await tarOf(layoutFiles(content, name));
  const half = Math.floor(tar.byteLength * 0.8);
  return [tar.subarray(0, half), tar.subarray(half)];
}

async function statusesOf(name: string, { manifest, config, layers }: Image): Promise<readonly number[]> {
  const asked = [
    `manifests/${manifest.digest}`,
    ...[config, ...layers].map(({ digest }) => `blobs/${digest}`),
  ];
  const got = await Promise.all(
    asked.map(path => get(`${server.url}/v2/${name}/${path}?ns=${UPSTREAM}`, { method: 'HEAD' })),
  );
  return got.map(({ status }) => status);
}

const ALL = [200, 200, 200, 200, 200];

test('a slow import is whole in the end', { timeout: 120_000 }, async () => {
  const slow = image('slow');
  const [first, rest] = await partsOf(slow, `${UPSTREAM}/slow:v1`);
  const importing = startImport();
  await importing.write(first);
  await sleep(LONG_MS);
  await importing.write(rest);
  importing.end();
  expect(await importing.ended).toMatchObject({ code: 0 });
  await sleep(LONG_MS);
  expect(await statusesOf('slow', slow)).toEqual(ALL);
});

test('an import that was suspended is whole, or says that it is not', { timeout: 180_000 }, async () => {
  const suspended = image('suspended');
  const name = `${UPSTREAM}/suspended:v1`;
  const [first, rest] = await partsOf(suspended, name);
  const importing = startImport();
  await importing.write(first);
  await sleep(3_000);
  importing.child.kill('SIGSTOP');
  await sleep(LONG_MS);
  importing.child.kill('SIGCONT');
  await importing.write(rest);
  importing.end();
  const { code, text } = await importing.ended;
  const isHonest = code === 0 || text.includes('was removed during the import: run it again');
  expect({ code, text, isHonest }).toMatchObject({ isHonest: true });
  await sleep(LONG_MS);
  const statuses = await statusesOf('suspended', suspended);
  expect(code === 0 ? statuses : ALL).toEqual(ALL);
  const again = startImport();
  for (const part of [first, rest]) await again.write(part);
  again.end();
  expect(await again.ended).toMatchObject({ code: 0 });
  await sleep(LONG_MS);
  expect(await statusesOf('suspended', suspended)).toEqual(ALL);
});

test('two imports of the same content, one of which is killed, leave it whole', {
  timeout: 180_000,
}, async () => {
  const shared = image('shared');
  const [first, rest] = await partsOf(shared, `${UPSTREAM}/shared:v1`);
  const killed = startImport();
  await killed.write(first);
  await sleep(3_000);
  const other = startImport();
  await other.write(first);
  await sleep(2_000);
  killed.child.kill('SIGKILL');
  await killed.ended;
  await sleep(LONG_MS);
  await other.write(rest);
  other.end();
  expect(await other.ended).toMatchObject({ code: 0 });
  const images = await server.command('check', `${UPSTREAM}/shared:v1`);
  expect(images).toMatchObject({ code: 0 });
});
