import { lstat, mkdir, readdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { CertsFolder } from './certs-folder.ts';
import { type NodeFile, type NodeFilesOptions, nodeFiles } from './node-files.ts';

const hub = { name: 'docker.io', aliases: [], url: 'https://registry-1.docker.io' };
const quay = { name: 'quay.io', aliases: [], url: 'https://quay.io' };

/** What `entrepot hosts --watch` wants; not `kept`: what `entrepot hosts` writes. */
function wanted(changes: Partial<NodeFilesOptions> = {}): NodeFile[] {
  const serverUrl = 'https://10.0.0.5:5000';
  return nodeFiles('containerd', { serverUrl, upstreams: [hub, quay], ca: 'CA\n', kept: true, ...changes });
}

let path: string;
let clock: ManualClock;
let folder: CertsFolder;
beforeEach(async () => {
  path = join(await makeTempFolder('certs'), 'certs.d');
  clock = new ManualClock().skipWaits(2_000);
  folder = new CertsFolder(path, clock);
});
afterEach(async () => removeFolder(join(path, '..')));

/** Every file with its text. */
async function tree(): Promise<Readonly<Record<string, string>>> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true });
  const files = entries
    .filter(entry => !entry.isDirectory())
    .map(entry => join(entry.parentPath, entry.name));
  const texts = files
    .sort()
    .map(async file => [file.slice(path.length + 1), await readFile(file, 'utf8')] as const);
  return Object.fromEntries(await Promise.all(texts));
}

const texts = (files: readonly NodeFile[]) => Object.fromEntries(files.map(file => [file.path, file.text]));

describe('files that are wanted', () => {
  it('are written, readable by everybody, and not again while they are the same', async () => {
    const { written, removed, problems } = await folder.keep(wanted());
    expect([written.length, removed, problems]).toEqual([4, [], []]);
    expect(await tree()).toEqual(texts(wanted()));
    expect((await stat(join(path, 'quay.io', 'hosts.toml'))).mode & 0o777).toBe(0o644);
    expect((await folder.keep(wanted())).written).toEqual([]);
  });

  it('replace what was changed or removed', async () => {
    await folder.keep(wanted());
    const hosts = join(path, 'docker.io', 'hosts.toml');
    await writeFile(hosts, (await readFile(hosts, 'utf8')).replace('500ms', '30s'));
    await removeFolder(join(path, 'quay.io'));
    await folder.keep(wanted({ serverUrl: 'https://10.0.0.6:5000' }));
    expect(await tree()).toEqual(texts(wanted({ serverUrl: 'https://10.0.0.6:5000' })));
  });

  it('replace those that entrepot hosts has written for the same registry', async () => {
    await folder.keep(wanted({ kept: false }));
    await folder.keep(wanted());
    expect(await tree()).toEqual(texts(wanted()));
  });

  it('have a CA before the hosts.toml that names it', async () => {
    await folder.keep(wanted({ upstreams: [quay], ca: undefined }));
    const { written } = await folder.keep(wanted({ upstreams: [quay] }));
    expect(written).toEqual(['entrepot-ca.pem', 'hosts.toml'].map(name => join(path, 'quay.io', name)));
  });

  it('no longer have a CA that no hosts.toml names, but had it until containerd has read it', async () => {
    await folder.keep(wanted());
    clock = new ManualClock();
    const plain = wanted({ serverUrl: 'http://10.0.0.5:5000', ca: undefined });
    const keeping = new CertsFolder(path, clock).keep(plain);
    await clock.timer(2_000);
    expect(Object.keys(await tree())).toEqual(Object.keys(texts(wanted())).sort());
    await clock.advance(2_000);
    await keeping;
    expect(await tree()).toEqual(texts(plain));
  });
});

describe('files of registries that are not wanted any more', () => {
  it('are removed with their folders', async () => {
    await folder.keep(wanted());
    const { removed } = await folder.keep(wanted({ upstreams: [quay] }));
    expect(removed).toEqual(['hosts.toml', 'entrepot-ca.pem'].map(name => join(path, 'docker.io', name)));
    expect(await readdir(path)).toEqual(['quay.io']);
    await folder.keep([]);
    expect(await readdir(path)).toEqual([]);
  });

  it('are removed without a wait if there is no CA', async () => {
    await folder.keep(wanted({ ca: undefined }));
    clock = new ManualClock();
    await new CertsFolder(path, clock).keep([]);
    expect(await readdir(path)).toEqual([]);
  });

  it('have the CA until containerd has read it', async () => {
    await folder.keep(wanted({ upstreams: [quay] }));
    clock = new ManualClock();
    const keeping = new CertsFolder(path, clock).keep([]);
    await clock.timer(2_000);
    expect(Object.keys(await tree())).toEqual(['quay.io/entrepot-ca.pem']);
    await clock.advance(2_000);
    await keeping;
    expect(await readdir(path)).toEqual([]);
  });
});

describe('files of others', () => {
  it('are left alone, whatever is wanted, and named if they are in the way', async () => {
    const others = {
      '_default/hosts.toml': 'server = "https://a"\n',
      'docker.io/ca.crt': 'theirs',
      'quay.io/hosts.toml': '# by hand\nserver = "https://b"\n',
      'registry.example/hosts.toml': 'server = "https://c"\n',
    };
    for (const [name, text] of Object.entries(others)) {
      await mkdir(join(path, name, '..'), { recursive: true });
      await writeFile(join(path, name), text);
    }
    await mkdir(join(path, 'empty.example'));
    const { problems } = await folder.keep(wanted());
    expect(problems).toEqual([expect.stringMatching(/quay\.io\/hosts\.toml was not written by Entrepot/)]);
    expect(await tree()).toEqual({ ...texts(wanted({ upstreams: [hub] })), ...others });
    await folder.keep([]);
    expect(await tree()).toEqual(others);
    expect(await readdir(path)).toContain('empty.example');
  });

  it('are not reached through links', async () => {
    await mkdir(join(path, 'theirs'), { recursive: true });
    // As Entrepot would have written it.
    const text = wanted({ serverUrl: 'https://10.0.0.6:5000' }).find(
      file => file.path === 'quay.io/hosts.toml',
    )?.text;
    await writeFile(join(path, 'theirs', 'mine'), String(text));
    await symlink('theirs', join(path, 'docker.io'));
    await mkdir(join(path, 'quay.io'));
    await symlink('../theirs/mine', join(path, 'quay.io', 'hosts.toml'));
    const { written, problems } = await folder.keep(wanted());
    expect(written).toEqual([]);
    expect(problems.length).toBe(2);
    await folder.keep([]);
    expect(await readFile(join(path, 'theirs', 'mine'), 'utf8')).toBe(text);
    for (const name of ['docker.io', join('quay.io', 'hosts.toml')])
      expect((await lstat(join(path, name))).isSymbolicLink()).toBe(true);
  });

  it('that entrepot hosts wrote once are left alone if their registry is not wanted', async () => {
    await folder.keep(wanted({ kept: false }));
    await folder.keep(wanted({ upstreams: [quay] }));
    expect(await tree()).toEqual({
      ...texts(wanted({ kept: false })),
      ...texts(wanted({ upstreams: [quay] })),
    });
  });
});

describe('what a dead process has left', () => {
  it('is removed: files and folders that were half done, of registries that are wanted or not', async () => {
    await folder.keep(wanted());
    await writeFile(join(path, 'docker.io', partial('hosts.toml')), 'ha');
    await writeFile(join(path, 'docker.io', partial('entrepot-ca.pem')), 'ha');
    await mkdir(join(path, '.entrepot-gcr.io'));
    await writeFile(join(path, '.entrepot-gcr.io', partial('hosts.toml')), 'ha');
    await folder.keep(wanted());
    expect(await tree()).toEqual(texts(wanted()));
    expect(await readdir(path)).toEqual(['docker.io', 'quay.io']);
  });

  it('stays for a minute if it may be of a container that runs', async () => {
    await folder.keep(wanted());
    const other = join(path, 'docker.io', partial('hosts.toml', 'other-container'));
    await writeFile(other, 'ha');
    await folder.keep(wanted());
    expect((await lstat(other)).isFile()).toBe(true);
  });

  it('is removed if it is a CA without a hosts.toml', async () => {
    await folder.keep(wanted());
    await removeFolder(join(path, 'docker.io', 'hosts.toml'));
    await folder.keep(wanted({ upstreams: [quay] }));
    expect(await readdir(path)).toEqual(['quay.io']);
  });
});

it('writes the files of all registries but one whose folder cannot be made', async () => {
  await mkdir(path);
  await writeFile(join(path, '.entrepot-docker.io'), 'a file');
  const { problems } = await folder.keep(wanted());
  expect(problems).toEqual([expect.stringContaining('.entrepot-docker.io')]);
  expect(Object.keys(await tree())).toEqual([
    '.entrepot-docker.io',
    'quay.io/entrepot-ca.pem',
    'quay.io/hosts.toml',
  ]);
});

/** As files are called that are being written; by default by a process of this machine that has ended. */
function partial(name: string, host = hostname()): string {
  return `${name}.${host}.4194304.0123abcd.partial`;
}
