// `entrepot hosts` for configurations with registries that not every kind of node can mirror.
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { runCommand } from '../support/run-command.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const PORT = 'registry.example:5000';

let folder: string;
let config: string;

beforeAll(async () => {
  folder = await makeTempFolder('hosts');
  config = join(folder, 'config.yaml');
  await writeFile(
    config,
    stringify({ server: { listen: '127.0.0.1:5000' }, upstreams: { [PORT]: { url: `https://${PORT}` } } }),
  );
});

afterAll(() => removeFolder(folder));

const hosts = (...args: string[]) => runCommand('hosts', ...args, '--config', config);

describe('entrepot hosts crio', () => {
  it('writes every registry that CRI-O can mirror, names the one whose name has a port, and ends with 1', async () => {
    const { code, stdout, stderr } = await hosts('crio');
    expect(code).toBe(1);
    expect(stdout).toContain('prefix = "docker.io"\n');
    expect(stdout).toContain('prefix = "quay.io"\n');
    expect(stdout).not.toContain(PORT);
    expect(stderr).toMatch(new RegExp(`^not written: ${PORT}: .*give it an alias without one`, 'm'));
  });

  it('ends with 0 if all registries of --upstream are written, and with 2 if none can be', async () => {
    expect((await hosts('crio', '--upstream', 'docker.io')).code).toBe(0);
    const { code, stdout, stderr } = await hosts('crio', '--upstream', PORT);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toContain(`not written: ${PORT}: `);
  });

  it('names what it leaves out even if it refuses to replace a file', async () => {
    const out = join(folder, 'refused');
    expect((await hosts('crio', '--out', out)).code).toBe(1);
    const [name = ''] = await readdir(out);
    await writeFile(join(out, name), '# not written by Entrepot\n');
    const { code, stderr } = await hosts('crio', '--out', out);
    expect(code).not.toBe(0);
    expect(stderr).toContain('--force');
    expect(stderr).toContain(`not written: ${PORT}: `);
  });
});

describe('entrepot hosts docker', () => {
  it('needs no port for Docker Hub, and writes no daemon.json, for other registries', async () => {
    const out = join(folder, 'others');
    const { code, stderr } = await hosts('docker', '--upstream', 'quay.io', PORT, '--out', out);
    expect(code).toBe(0);
    expect(await readdir(out)).toEqual(['certs.d']);
    expect(await readdir(join(out, 'certs.d'))).toEqual(['quay.io', PORT]);
    expect(stderr).toContain('Docker before 29');
  });

  it('writes hosts.toml without a port for Docker Hub, says why there is no daemon.json, and ends with 1', async () => {
    const out = join(folder, 'hub');
    const { code, stderr } = await hosts('docker', '--upstream', 'docker.io', 'quay.io', '--out', out);
    expect(code).toBe(1);
    expect(await readdir(out)).toEqual(['certs.d']);
    expect(stderr).toMatch(/^not written: daemon\.json: Docker uses Docker Hub's own paths/m);
  });
});
