import { readFileSync } from 'node:fs';
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { nodeFiles } from './node-files.ts';
import { writeNodeFiles } from './node-folder.ts';

const options = {
  serverUrl: 'http://10.0.0.5:5002',
  upstreams: [{ name: 'docker.io', aliases: [], url: 'https://registry-1.docker.io' }],
};

let folder: string;
beforeEach(async () => void (folder = await makeTempFolder('node')));
afterEach(async () => removeFolder(folder));

const write = (kind: 'containerd' | 'docker', force = false) =>
  writeNodeFiles(nodeFiles(kind, options), folder, { force, nowMs: Date.UTC(2026, 10, 28, 15) });

describe('writing the files of a node', () => {
  it('merges a shared file, keeps its mode, and leaves a copy of it as it was', async () => {
    const path = join(folder, 'daemon.json');
    await writeFile(path, '{"mtu": 1400}');
    await chmod(path, 0o600);
    const [daemon] = await write('docker');
    expect(daemon).toEqual({ path, isChanged: true, backup: `${path}.20261128T150000Z.bak` });
    expect(JSON.parse(await readFile(path, 'utf8'))).toMatchObject({
      mtu: 1400,
      'registry-mirrors': [options.serverUrl],
    });
    expect(await readFile(`${path}.20261128T150000Z.bak`, 'utf8')).toBe('{"mtu": 1400}');
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  });

  it('shows readers of a file the old text or the new one, and nothing in between', async () => {
    const path = join(folder, 'daemon.json');
    const old = '{"mtu": 1400}';
    await writeFile(path, old);
    const seen = new Set<string>();
    const written = new AbortController();
    const read = async () => {
      while (!written.signal.aborted) {
        seen.add(readFileSync(path, 'utf8'));
        await nextTurn();
      }
    };
    await Promise.all([read(), write('docker').finally(() => written.abort())]);
    seen.add(readFileSync(path, 'utf8'));
    expect([...seen]).toEqual([old, expect.stringContaining(options.serverUrl)]);
    expect(await readdir(folder)).toEqual(['certs.d', 'daemon.json', 'daemon.json.20261128T150000Z.bak']);
  });

  it('changes nothing the second time', async () => {
    await write('docker');
    expect((await write('docker')).map(({ isChanged }) => isChanged)).toEqual([false, false]);
    expect(await readdir(folder)).toEqual(['certs.d', 'daemon.json']);
  });

  it("changes nothing at all if one file is somebody else's, unless forced", async () => {
    const path = join(folder, 'docker.io', 'hosts.toml');
    await mkdir(join(folder, 'docker.io'));
    await writeFile(path, 'server = "https://mine"\n');
    await expect(write('containerd')).rejects.toThrow(/hosts\.toml was not written by Entrepot.*--force/);
    expect(await readFile(path, 'utf8')).toBe('server = "https://mine"\n');
    const [hosts] = await write('containerd', true);
    expect(await readFile(hosts?.backup ?? '', 'utf8')).toBe('server = "https://mine"\n');
    expect(await readFile(path, 'utf8')).toContain(options.serverUrl);
  });

  it.each(['crio', 'docker'] as const)('replaces a CA of its own that has rotated: %s', async kind => {
    const writeCa = (ca: string, force = false) =>
      writeNodeFiles(nodeFiles(kind, { ...options, serverUrl: 'https://a.example', ca }), folder, { force });
    const path = join(folder, 'certs.d', 'a.example', 'ca.crt');
    await writeCa('OLD\n');
    const written = await writeCa('NEW\n');
    expect(written.find(file => file.path === path)).toEqual({ path, isChanged: true, backup: undefined });
    expect(await readFile(path, 'utf8')).toContain('NEW\n');
    // Earlier versions wrote no heading.
    await writeFile(path, 'NEW\n');
    await writeCa('NEW\n');
    await writeFile(path, 'written by others\n');
    await expect(writeCa('NEW\n')).rejects.toThrow(/ca\.crt was not written by Entrepot/);
  });

  it('makes the files readable by runtimes of other users', async () => {
    await write('containerd');
    expect((await stat(join(folder, 'docker.io', 'hosts.toml'))).mode & 0o777).toBe(0o644);
  });

  it('refuses to read a file larger than any that a node has', async () => {
    await writeFile(join(folder, 'daemon.json'), `{${' '.repeat(5 * 1024 * 1024)}}`);
    await expect(write('docker', true)).rejects.toThrow(/daemon\.json is larger than.*nothing was changed/);
    expect(await readdir(folder)).toEqual(['daemon.json']);
  });

  it('says which file cannot be merged, and changes nothing', async () => {
    await writeFile(join(folder, 'daemon.json'), '{');
    await expect(write('docker')).rejects.toThrow(/daemon\.json: not a JSON object: nothing was changed/);
    expect(await readdir(folder)).toEqual(['daemon.json']);
  });
});
