// What people type before they have read anything: how the program says what it can do.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { STARTER } from '../support/entrepot.ts';
import { type RunResult, tryRun } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

function entrepot(...args: string[]): Promise<RunResult> {
  return tryRun(process.execPath, [...STARTER, ...args]);
}

it('-h, --help and help print the same, for the program, a group and a command', async () => {
  for (const words of [[], ['tenant'], ['tenant', 'add'], ['images']]) {
    const [long, short, help] = await Promise.all([
      entrepot(...words, '--help'),
      entrepot(...words, '-h'),
      entrepot('help', ...words),
    ]);
    expect(long.code).toBe(0);
    expect(long.stdout).toContain(`Usage: ${['entrepot', ...words].join(' ')}`);
    expect(short).toEqual(long);
    expect(help).toEqual(long);
  }
  expect(await entrepot('tenant', 'help', 'add')).toEqual(await entrepot('tenant', 'add', '--help'));
});

it('the help of the program lists help, version and every command', async () => {
  const { stdout } = await entrepot('--help');
  for (const name of ['help', 'version', 'serve', 'tenant', 'config']) {
    expect(stdout).toMatch(new RegExp(`^  ${name} `, 'm'));
  }
});

it('help for an unknown command suggests the intended one, and ends with 2', async () => {
  for (const words of [
    ['help', 'sevre'],
    ['help', 'config', 'shwo'],
    ['config', 'help', 'shwo'],
  ]) {
    const { code, stdout, stderr } = await entrepot(...words);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/Did you mean (?:serve|show)\?/);
  }
});

it('a file that cannot be used is named with its option, and why, in words', async () => {
  const folder = await makeTempFolder('words');
  try {
    const env = { ENTREPOT_STORAGE__PATH: join(folder, 'store') };
    await mkdir(join(folder, 'taken'));
    for (const [words, said] of [
      [['restore', 'nofile'], 'nofile cannot be read: it does not exist (ENOENT)'],
      [['pull', '--from', 'nofile'], '--from: nofile cannot be read: it does not exist (ENOENT)'],
      [
        ['export', 'app:1', '--from', 'taken', '-o', 'x'],
        '--from: taken cannot be read: it is a folder (EISDIR)',
      ],
      [['have', '-o', 'taken'], 'taken cannot be written: it is a folder'],
      [['import', 'nofile'], 'nofile: it cannot be read: it does not exist (ENOENT)'],
    ] as const) {
      const { code, stderr } = await tryRun(process.execPath, [...STARTER, ...words], { env, cwd: folder });
      expect([code, stderr]).toEqual([1, expect.stringContaining(said)]);
    }
  } finally {
    await removeFolder(folder);
  }
});

it.each(['pull', 'export'])('%s can be stopped while it waits for a list in a named pipe', async command => {
  const folder = await makeTempFolder('waits');
  const store = join(folder, 'store');
  const env = { ...process.env, ENTREPOT_STORAGE__PATH: store };
  try {
    const pipe = join(folder, 'list');
    execFileSync('mkfifo', [pipe]);
    await tryRun(process.execPath, [...STARTER, 'tenant', 'add', 'team-a'], { env });
    const output = command === 'export' ? ['-o', join(folder, 'bundle.tar')] : [];
    const args = [...STARTER, command, '--from', pipe, ...output];
    const waiting = spawn(process.execPath, args, { env, stdio: 'ignore' });
    const exited = once(waiting, 'exit');
    // Resolves when it is opened for reading.
    const writer = await open(pipe, 'w');
    try {
      waiting.kill('SIGTERM');
      expect(await exited).toEqual([143, null]);
    } finally {
      await writer.close();
      waiting.kill('SIGKILL');
    }
  } finally {
    await removeFolder(folder);
  }
});

it('a command whose messages nobody reads ends as it would otherwise', async () => {
  const folder = await makeTempFolder('unread');
  try {
    const config = join(folder, 'config.yaml');
    await writeFile(config, 'colour: blue\n');
    const args = [...STARTER, 'config', 'check', '--json', '--config', config];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    child.stderr.destroy();
    expect(await once(child, 'exit')).toEqual([2, null]);
  } finally {
    await removeFolder(folder);
  }
});

it('version prints what a bug report needs, also as JSON', async () => {
  const [plain, json, number] = await Promise.all([
    entrepot('version'),
    entrepot('version', '--json'),
    entrepot('--version'),
  ]);
  const version = number.stdout.trim();
  expect(version).toMatch(/^\d+\.\d+\.\d+$/);
  expect([plain.code, plain.stdout]).toEqual([
    0,
    `entrepot ${version}\nnode ${process.version}\n${process.platform}/${process.arch}\n`,
  ]);
  expect(JSON.parse(json.stdout)).toEqual({
    version,
    node: process.version,
    platform: `${process.platform}/${process.arch}`,
  });
});
