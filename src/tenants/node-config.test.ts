import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { dockerConfig, WITHOUT_RESCAN } from './tenants.fixture.ts';
import { NodeConfig } from './node-config.ts';

let folder: string;
let node: NodeConfig;
let changes = 0;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-node-'));
  await mkdir(join(folder, 'root'));
  await mkdir(join(folder, 'home'));
  changes = 0;
});

afterEach(async () => {
  await node.close();
  await rm(folder, { recursive: true, force: true });
});

async function start(...paths: string[]): Promise<void> {
  node = new NodeConfig({
    paths: paths.map(path => join(folder, path)),
    log: silentLog,
    clock: WITHOUT_RESCAN,
    onChange: () => (changes += 1),
  });
  await node.start();
}

/** The user name that counts. */
function user(): string | undefined {
  return [...(node.current?.config.values() ?? [])][0]?.username;
}

function states(): string[] {
  return node.states.map(({ name, state }) => `${name.slice(folder.length + 1)} ${state}`);
}

const SOON = { interval: 20 };
const OLD = '{"reg.example": {"username": "old", "password": "p"}}';

test('the first valid config.json counts, even if a .dockercfg comes before it', async () => {
  await writeFile(join(folder, 'root', '.dockercfg'), OLD);
  await writeFile(join(folder, 'root', 'config.json'), '{ malformed');
  await writeFile(join(folder, 'home', 'config.json'), dockerConfig({ 'reg.example': 'new:p' }));
  await start('root', 'home/config.json');
  expect(user()).toBe('new');
  expect(states()).toEqual(['root/config.json malformed', 'home/config.json loaded']);
});

test('without a valid config.json, the first valid .dockercfg counts', async () => {
  await writeFile(join(folder, 'home', '.dockercfg'), OLD);
  await start('root', 'home');
  expect(user()).toBe('old');
});

test('a change counts within seconds; a malformed file keeps its last good version, a removed one does not', async () => {
  const file = join(folder, 'root', 'config.json');
  await start('root');
  expect(node.current).toBeUndefined();
  await writeFile(file, dockerConfig({ 'reg.example': 'first:p' }));
  await expect.poll(user, SOON).toBe('first');
  await writeFile(file, '{ malformed');
  await expect.poll(states, SOON).toEqual(['root/config.json malformed']);
  expect(user()).toBe('first');
  expect(changes).toBe(3);
  await writeFile(file, dockerConfig({ 'reg.example': 'second:p' }));
  await expect.poll(user, SOON).toBe('second');
  await rm(file);
  await expect.poll(user, SOON).toBeUndefined();
  expect(changes).toBe(5);
}, 40_000);
