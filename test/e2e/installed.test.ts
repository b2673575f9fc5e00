// The program as people install and start it. What the build has compiled makes it start faster, and does nothing else.
import { chmod, cp, mkdir, readdir, readFile, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { isBuiltin } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { hasPrograms, type RunResult, tryRun } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const canBeAnother = process.getuid?.() === 0 && hasPrograms('setpriv');
const [FLAG = ''] = STARTER;

/** Has a store, and runs no more. */
let server: Entrepot;
let folder: string;
/** An installation of its own, with a space in its path. */
let dist: string;

beforeAll(async () => {
  server = await Entrepot.start();
  await server.stop();
});

afterAll(() => server.remove());

beforeEach(async () => {
  folder = await makeTempFolder('installed');
  await chmod(folder, 0o755);
  const installed = join(folder, 'my programs');
  dist = join(installed, 'dist');
  await mkdir(installed);
  await cp(join(PROJECT, 'dist'), dist, { recursive: true });
  await symlink(join(PROJECT, 'node_modules'), join(installed, 'node_modules'));
});

afterEach(() => removeFolder(folder));

/** Runs a command that needs the SQLite driver and a thread. */
async function collect(...flags: readonly string[]): Promise<RunResult> {
  const args = [...flags, join(dist, 'entrepot.cjs'), 'gc', '--dry-run', '--config', server.configFile];
  return tryRun(process.execPath, args, { cwd: folder });
}

async function forEachCompiled(act: (file: string) => Promise<void>): Promise<void> {
  const cache = join(dist, 'code-cache');
  for (const name of await readdir(cache)) await act(join(cache, name));
}

/** Writes, at the end of each thread, the files that were not compiled by the build. */
async function watchCompiling(): Promise<string> {
  const preload = join(folder, 'preload.cjs');
  await writeFile(
    preload,
    `const vm = require('node:vm');
     vm.Script = class extends vm.Script {
       constructor(source, options) {
         super(source, options);
         if (this.cachedDataRejected !== false) require('node:fs').writeSync(2, options.filename + '\\n');
       }
     };`,
  );
  return preload;
}

it('the build has compiled all files that a command and its threads load', async () => {
  const preload = await watchCompiling();
  const { code, stderr } = await collect(FLAG, '--require', preload);
  expect([code, stderr]).toEqual([0, '']);
  await removeFolder(join(dist, 'code-cache', 'survey-worker.cjs'));
  expect((await collect(FLAG, '--require', preload)).stderr).toBe(`${join(dist, 'survey-worker.cjs')}\n`);
});

it('works the same if what the build has compiled does not fit, is damaged or is gone', async () => {
  const expected = await collect(FLAG);
  expect(expected).toMatchObject({ code: 0, stdout: expect.stringContaining('would free'), stderr: '' });
  // Compiled for other flags.
  expect(await collect()).toEqual(expected);
  expect(await collect(FLAG, '--stack-size=1000')).toEqual(expected);
  await forEachCompiled(async file => truncate(file, (await stat(file)).size - 1));
  expect(await collect(FLAG)).toEqual(expected);
  await forEachCompiled(async file => writeFile(file, (await readFile(file)).fill(0x55, 40)));
  expect(await collect(FLAG)).toEqual(expected);
  await removeFolder(join(dist, 'code-cache'));
  expect(await collect(FLAG)).toEqual(expected);
  expect(await readdir(dist)).not.toContain('code-cache');
});

it('requires nothing but its own files, what Node has, and the SQLite driver', async () => {
  const files = (await readdir(dist)).filter(name => name.endsWith('.cjs'));
  const texts = await Promise.all(files.map(async name => readFile(join(dist, name), 'utf8')));
  const required = texts.flatMap(text =>
    [...text.matchAll(/\brequire\("([^"]+)"\)/g)].map(([, id = '']) => id),
  );
  const ofOthers = required.filter(
    id => !id.startsWith('node:') && !isBuiltin(id) && !files.includes(id.replace('./', '')),
  );
  expect(required.length).toBeGreaterThan(files.length);
  // PostgreSQL's driver would load the latter if somebody asked for its native variant.
  expect([...new Set(ofOthers)].toSorted()).toEqual(['better-sqlite3', 'pg-native']);
});

it('runs through a link, from any folder, as its first line says', async () => {
  const link = join(folder, 'entrepot');
  await symlink(join(dist, 'entrepot.cjs'), link);
  const preload = await watchCompiling();
  const { code, stdout, stderr } = await tryRun(link, ['--version'], {
    cwd: '/',
    env: { NODE_OPTIONS: `--require ${preload}` },
  });
  expect([code, stdout, stderr]).toEqual([0, expect.stringMatching(/^\d+\.\d+\.\d+\n$/), '']);
});

it.skipIf(!canBeAnother)('runs as a user who may only read it (root, setpriv)', async () => {
  const preload = await watchCompiling();
  const user = ['--reuid', '65534', '--regid', '65534', '--clear-groups'];
  const command = [
    process.execPath,
    '--require',
    preload,
    FLAG,
    join(dist, 'entrepot.cjs'),
    'config',
    'show',
  ];
  const { code, stdout, stderr } = await tryRun('setpriv', [...user, ...command], { cwd: '/' });
  expect([code, stdout, stderr]).toEqual([0, expect.stringContaining('opsListen'), '']);
});
