// `entrepot hosts` for configurations with registries that not every kind of node can mirror.
import { copyFile, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { absentAsUndefined } from '../../src/lib/error-code.ts';
import { STARTER } from '../support/entrepot.ts';
import { Daemon, until } from '../support/programs.ts';
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

describe('entrepot hosts containerd', () => {
  it('names Entrepot by the address of its name with --resolve, and fails if there is none', async () => {
    const resolve = async (server: string) =>
      hosts('containerd', '--upstream', PORT, '--server', server, '--resolve');
    expect((await resolve('http://localhost:5000')).stdout).toMatch(
      /^\[host."http:\/\/(127\.0\.0\.1|\[::1\]):5000"\]$/m,
    );
    const { code, stderr } = await resolve('http://no-such-host.invalid:5000');
    expect([code, stderr]).toEqual([1, expect.stringContaining('cannot be resolved')]);
  });

  it.each([
    ['containerd', []],
    ['crio', ['--out', 'somewhere']],
    ['containerd', ['--out', 'somewhere', '--force']],
  ])('refuses --watch where it cannot keep files: %s %s', async (kind, options) => {
    const { code, stderr } = await hosts(kind, '--server', 'http://a:1', '--watch', ...options);
    expect([code, stderr]).toEqual([2, expect.stringContaining('--watch')]);
  });

  it('ends at once with --watch if the configuration or the CA is wrong', async () => {
    const watch = ['--server', 'https://localhost:5000', '--watch', '--out', join(folder, 'none')];
    const { code, stderr } = await hosts('containerd', ...watch, '--ca', join(folder, 'no.pem'));
    expect([code, stderr]).toEqual([2, expect.stringContaining('no such file')]);
    expect((await hosts('containerd', ...watch, '--upstream', 'unknown.example')).code).toBe(2);
  });

  it('follows configuration and CA with --watch, and leaves its files when it is stopped', async () => {
    const out = join(folder, 'kept');
    const own = join(folder, 'kept.yaml');
    const ca = join(folder, 'ca.pem');
    const configure = async (...names: string[]) =>
      writeFile(own, stringify({ upstreams: Object.fromEntries(names.map(name => [name, {}])) }));
    await configure('a.example');
    await copyFile(tlsFile('ca.pem'), ca);
    const watch = [
      '--watch',
      '--out',
      out,
      '--config',
      own,
      '--server',
      'https://entrepot.example:5000',
      '--ca',
      ca,
    ];
    const command = await Daemon.start({
      program: process.execPath,
      args: [...STARTER, 'hosts', 'containerd', ...watch],
      isReady: async () => (await absentAsUndefined(readdir(out)))?.includes('a.example') === true,
    });
    try {
      expect(await readFile(join(out, 'docker.io', 'hosts.toml'), 'utf8')).toContain('Kept up to date');
      await configure('b.example');
      await until('the change', SOON_MS, async () => {
        const names = await readdir(out);
        return names.includes('b.example') && !names.includes('a.example');
      });
      const [pem] =
        (await readFile(tlsFile('server.pem'), 'utf8')).match(/^-----BEGIN[^]*?-----END.*\n/m) ?? [];
      await writeFile(ca, pem ?? '');
      const written = join(out, 'b.example', 'entrepot-ca.pem');
      await until('the CA', SOON_MS, async () => (await readFile(written, 'utf8')) === pem);
    } finally {
      await command.stop();
    }
    expect(command.exitCode).toBe(0);
    expect((await readdir(out)).includes('b.example')).toBe(true);
  });
});

const tlsFile = (name: string): string => fileURLToPath(new URL(`../support/tls/${name}`, import.meta.url));

/** For a change of a file to be followed, on a busy machine. */
const SOON_MS = 60_000;
