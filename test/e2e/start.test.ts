// Starts that cannot succeed: what a person reads who has to put it right. And one that is stopped.
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { STARTER } from '../support/entrepot.ts';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import { openFiles } from '../support/open-files.ts';
import { Daemon, freePort, type RunResult, tryRun, until } from '../support/programs.ts';
import { runCommand } from '../support/run-command.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

let folder: string;
let taken: Server | undefined;

beforeEach(async () => {
  folder = await makeTempFolder('start');
});

afterEach(async () => {
  taken?.close();
  taken = undefined;
  await removeFolder(folder);
});

async function serve(server: object = {}): Promise<RunResult> {
  return withConfig({ server }, 'serve');
}

async function withConfig(
  { server, ...rest }: { readonly server?: object } & Readonly<Record<string, object>>,
  ...command: string[]
): Promise<RunResult> {
  const ports = { listen: `127.0.0.1:${await freePort()}`, opsListen: `127.0.0.1:${await freePort()}` };
  const config = { ...rest, server: { ...ports, ...server }, storage: { path: join(folder, 'store') } };
  const configFile = join(folder, 'config.yaml');
  await writeFile(configFile, stringify(config));
  return tryRun(process.execPath, [...STARTER, ...command, '--config', configFile]);
}

it('a damaged index is reported, with what to do about it', async () => {
  const index = join(folder, 'store', 'index.db');
  await mkdir(join(folder, 'store'));
  await writeFile(index, 'not a database at all, but long enough to be read as a header'.repeat(20));
  const { code, stderr } = await serve();
  expect([code, stderr]).toEqual([
    1,
    `entrepot: ${index}: the index is damaged (file is not a database). Restore a backup (entrepot restore), or create a ` +
      'new index from the blobs (entrepot rebuild): mirrored content is fetched again, hosted repositories are lost\n',
  ]);
});

it('a port that is in use is reported', async () => {
  taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const address = taken.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  for (const key of ['listen', 'opsListen']) {
    const { code, stderr } = await serve({ [key]: `127.0.0.1:${address.port}` });
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^entrepot: [^\n]*\n$/)]);
    expect(stderr).toContain(`server.${key}: `);
    expect(stderr).toContain(`address already in use 127.0.0.1:${address.port}`);
  }
});

it('an audit log that cannot be opened is reported with its setting, also by config check', async () => {
  const auditFile = join(folder, 'absent', 'audit.log');
  for (const command of [['serve'], ['config', 'check']]) {
    const { code, stderr } = await withConfig({ audit: { output: 'file', auditFile } }, ...command);
    expect([code, stderr]).toEqual([2, expect.stringContaining(`audit.auditFile: "${auditFile}": `)]);
  }
});

it('a store that is not a folder is reported', async () => {
  await writeFile(join(folder, 'store'), '');
  const { code, stderr } = await serve();
  expect([code, stderr]).toEqual([
    1,
    expect.stringMatching(/^entrepot: \/[^\n]*\/store \(storage\.path\) cannot hold a store: [^\n]*\n$/),
  ]);
});

it('a stop during the start is not lost: the server ends when it has started', async () => {
  const configFile = join(folder, 'config.yaml');
  const auditFile = join(folder, 'audit.log');
  const config = {
    server: { listen: '127.0.0.1:0', opsListen: '127.0.0.1:0' },
    storage: { path: join(folder, 'store') },
    audit: { output: 'file', auditFile },
  };
  await writeFile(configFile, stringify(config));
  expect((await runCommand('tenant', 'add', 'team-a', '--config', configFile)).code).toBe(0);
  const index = join(folder, 'store', 'index.db');
  const other = new Database(index);
  other.exec('BEGIN IMMEDIATE');
  try {
    const server = await Daemon.start({
      program: process.execPath,
      args: [...STARTER, 'serve', '--config', configFile],
      isReady: async () => existsSync(auditFile),
    });
    // It opens the audit log before it handles signals, and the index after that.
    await until('the index to be opened', 20_000, async () => (await openFiles(server.pid)).includes(index));
    process.kill(server.pid, 'SIGTERM');
    await until(
      'the stop to begin',
      20_000,
      async () => !server.isRunning || server.logs().includes('stopping'),
    );
    other.exec('ROLLBACK');
    await server.closed;
    expect([server.exitCode, server.logs()]).toEqual([0, expect.stringContaining('"msg":"stopped"')]);
  } finally {
    other.close();
  }
});
