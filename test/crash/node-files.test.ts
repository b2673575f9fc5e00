// `entrepot hosts --watch`, killed at each of the calls by which it changes a node's folder. A node pulls at any of these
// moments, so that each hosts.toml that is there is complete, and so is the CA that it names; and what was left half done
// is gone when the next one has run.
import { cp, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { absentAsUndefined } from '../../src/lib/error-code.ts';
import { STARTER } from '../support/entrepot.ts';
import { canPreload } from '../support/preload-library.ts';
import { Daemon, until } from '../support/programs.ts';
import { type CallKind, SyscallShim } from '../support/syscall-shim.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

/** No criterion, only an end for what hangs. */
const END_MS = 120_000;
/** Of the presets, none: fewer registries, and as many kinds of steps. */
const NO_PRESETS = Object.fromEntries(
  ['docker.io', 'registry.k8s.io', 'ghcr.io', 'quay.io', 'gcr.io', 'mcr.microsoft.com', 'public.ecr.aws'].map(
    name => [name, false],
  ),
);

/** Everything that changes a folder. */
const CHANGES: readonly CallKind[] = ['write', 'sync', 'rename', 'unlink'];

type Tree = Readonly<Record<string, string>>;

interface State {
  readonly config: string;
  readonly server: string;
  /** `undefined` for a server without TLS. */
  readonly ca: string | undefined;
}

let folder: string;
let runs = 0;
let states: Readonly<Record<'old' | 'other' | 'plain', State>>;

const tls = async (name: string): Promise<string> => {
  const file = fileURLToPath(new URL(`../support/tls/${name}`, import.meta.url));
  return /^-----BEGIN CERT[^]*?-----END.*\n/m.exec(await readFile(file, 'utf8'))?.[0] ?? '';
};

beforeAll(async () => {
  folder = await makeTempFolder('node-files');
  const make = async (name: string, upstreams: readonly string[], server: string, pem?: string) => {
    const ca = pem === undefined ? undefined : join(folder, `${name}.pem`);
    const state = { config: join(folder, `${name}.yaml`), server, ca };
    const own = Object.fromEntries(upstreams.map(each => [each, {}]));
    await writeFile(state.config, stringify({ upstreams: { ...NO_PRESETS, ...own } }));
    if (ca !== undefined) await writeFile(ca, pem!);
    return state;
  };
  const [oldCa, newCa] = [await tls('ca.pem'), await tls('server.pem')];
  const both = ['stays.example', 'goes.example'];
  states = {
    old: await make('old', both, 'https://10.0.0.5:5000', oldCa),
    other: await make('other', ['stays.example', 'comes.example'], 'https://10.0.0.6:5000', newCa),
    plain: await make('plain', both, 'http://10.0.0.5:5000'),
  };
});
afterAll(() => removeFolder(folder));

async function treeOf(certs: string): Promise<Tree> {
  const entries = (await absentAsUndefined(readdir(certs, { recursive: true, withFileTypes: true }))) ?? [];
  const read = entries.map(async entry => {
    const path = join(entry.parentPath, entry.name);
    // What is removed meanwhile was there when it was listed.
    const text = entry.isDirectory() ? 'a folder' : ((await absentAsUndefined(readFile(path, 'utf8'))) ?? '');
    return [path.slice(certs.length + 1), text] as const;
  });
  return Object.fromEntries((await Promise.all(read)).toSorted(([one], [other]) => one.localeCompare(other)));
}

async function begin(certs: string, { config, server, ca }: State, env = {}): Promise<Daemon> {
  const trust = ca === undefined ? [] : ['--ca', ca];
  const options = ['--watch', '--out', certs, '--config', config, '--server', server, ...trust];
  return Daemon.start({
    program: process.execPath,
    args: [...STARTER, 'hosts', 'containerd', ...options],
    env,
    isReady: async () => true,
  });
}

/** Runs until the folder is `wanted`, or a fault has killed it; whether it was killed. */
async function keep(certs: string, state: State, wanted: Tree, env = {}): Promise<boolean> {
  const command = await begin(certs, state, env);
  try {
    const text = JSON.stringify(wanted);
    await until('the files', END_MS, async () => {
      return !command.isRunning || JSON.stringify(await treeOf(certs)) === text;
    });
    return !command.isRunning;
  } finally {
    await command.stop();
  }
}

/** The folder as `state` has it, from nothing. */
async function made(state: State): Promise<readonly [certs: string, tree: Tree]> {
  const certs = join(folder, `run-${(runs += 1)}`);
  const command = await begin(certs, state);
  try {
    await until('the files', END_MS, async () => {
      const names = Object.keys(await treeOf(certs));
      const { length } = names.filter(name => name.endsWith('/hosts.toml'));
      return length === (await upstreamsOf(state)).length && !names.some(name => name.startsWith('.'));
    });
  } finally {
    await command.stop();
  }
  return [certs, await treeOf(certs)];
}

async function upstreamsOf({ config }: State): Promise<readonly string[]> {
  return (await readFile(config, 'utf8')).match(/^ {2}\S+: \{\}$/gm) ?? [];
}

describe.skipIf(!canPreload)('killed at any step, the files of a node', () => {
  it.each([
    ['old', 'other'],
    ['old', 'plain'],
    ['plain', 'old'],
  ] as const)('are %s or %s, and are the latter when it has run again', async (from, to) => {
    const [start, before] = await made(states[from]);
    const [, after] = await made(states[to]);
    const complete = new Set([...Object.values(before), ...Object.values(after)]);
    let kills = 0;
    for (const call of CHANGES) {
      for (let nth = 1; ; nth += 1) {
        const certs = join(folder, `run-${(runs += 1)}`);
        await cp(start, certs, { recursive: true });
        const shim = await SyscallShim.open(join(folder, `shim-${runs}`));
        await shim.set({ id: 'kill', call, path: certs, nth, action: 'kill' });
        if (!(await keep(certs, states[to], after, shim.env))) break;
        kills += 1;
        expectUsable(await treeOf(certs), complete);
        expect(await keep(certs, states[to], after)).toBe(false);
        expect(await treeOf(certs)).toEqual(after);
      }
    }
    expect(kills).toBeGreaterThan(8);
  });
});

/** What containerd needs of what it would read. */
function expectUsable(tree: Tree, complete: ReadonlySet<string>): void {
  const registries = Object.entries(tree).filter(
    ([path]) => !path.startsWith('.') && path.endsWith('/hosts.toml'),
  );
  const named = registries
    .filter(([, text]) => text.includes('ca = "entrepot-ca.pem"'))
    .map(([path]) => tree[path.replace('hosts.toml', 'entrepot-ca.pem')] ?? `no CA for ${path}`);
  const read = [...registries.map(([, text]) => text), ...named];
  expect(read.filter(text => !complete.has(text))).toEqual([]);
}
