// A command closes what it opened: others may run in the same process, as they do in these tests.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { openFiles } from '../support/open-files.ts';

const UPSTREAM = 'up.example';
const APP = `${UPSTREAM}/org/app:1`;
const CLOSED_MS = 10_000;

let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  upstream.add('org/app', imageOf([randomBlob(100_000, 'closed')]), '1');
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } } });
  // From now on Node has its own threads.
  await entrepot.command('pull', APP);
});

afterAll(async () => {
  await entrepot.remove();
  await upstream.stop();
});

/** How many sockets, threads, handlers of signals and files of the store this process has. */
async function opened(): Promise<Readonly<Record<string, number>>> {
  const paths = await openFiles();
  return {
    sockets: paths.filter(path => path.startsWith('socket:')).length,
    files: paths.filter(path => path.startsWith(entrepot.folder)).length,
    threads: (await readdir('/proc/self/task')).length,
    handlers: process.eventNames().reduce((sum, name) => sum + process.listenerCount(name), 0),
  };
}

it.each([
  [0, `pull ${APP}`],
  [1, `pull ${UPSTREAM}/org/absent:1`],
  [0, `refresh ${APP}`],
  [0, `check ${APP}`],
  [0, `export ${APP} -o bundle.tar`],
  [0, 'import bundle.tar'],
  [0, 'import --dry-run bundle.tar'],
  [1, 'import absent.tar'],
  [0, 'have -o have.json'],
  [0, 'images'],
  [0, `inspect ${APP}`],
  [0, `explain ${APP}`],
  [0, 'status'],
  [0, 'tenants'],
  [0, 'tenant add team-a'],
  [0, 'tenant secret team-a --server registry.example'],
  [0, 'tenant remove team-a'],
  [0, 'gc'],
  [2, 'gc --grace-period soon'],
  [0, 'scrub'],
  [0, 'rebuild'],
  [0, 'backup backup.tar'],
  [0, `rm --force ${APP}`],
  [0, 'config check'],
])('ends with %i and has closed everything: %s', async (code, line) => {
  const before = await opened();
  const args = line.split(' ').map(arg => (/\.(tar|json)$/.test(arg) ? join(entrepot.folder, arg) : arg));
  expect(await entrepot.command(...args)).toMatchObject({ code });
  // The other ends of connections close a little later.
  const more = async () => {
    const after = await opened();
    return Object.entries(after).filter(([kind, count]) => count > (before[kind] ?? 0));
  };
  await expect.poll(more, { timeout: CLOSED_MS }).toEqual([]);
});
