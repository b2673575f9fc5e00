import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatYaml } from '../../lib/yaml.ts';
import { inClusterAccess } from './cluster-access.ts';
import { readKubeconfig } from './kubeconfig.ts';

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-kubeconfig-'));
  await mkdir(join(folder, 'pki'));
  await writeFile(join(folder, 'pki', 'ca.crt'), 'the CA');
  await writeFile(join(folder, 'pki', 'token'), 'of the file\n');
});

afterAll(() => rm(folder, { recursive: true }));

interface Parts {
  readonly cluster?: object;
  readonly user?: object;
  readonly context?: string;
}

async function write({ cluster = {}, user = {}, context = 'mine' }: Parts = {}): Promise<string> {
  const path = join(folder, 'config');
  const config = {
    clusters: [
      { name: 'other', cluster: { server: 'https://wrong.example' } },
      { name: 'c', cluster: { server: 'https://api.example:6443', ...cluster } },
    ],
    users: [{ name: 'u', user }],
    contexts: [{ name: 'mine', context: { cluster: 'c', user: 'u' } }],
    'current-context': context,
  };
  await writeFile(path, formatYaml(config));
  return path;
}

const base64 = (text: string) => Buffer.from(text).toString('base64');

describe('a kubeconfig', () => {
  it('gives server, CA and user of its current context', async () => {
    const path = await write({
      cluster: { 'certificate-authority': 'pki/ca.crt' },
      user: { 'client-certificate-data': base64('cert'), 'client-key-data': base64('key') },
    });
    const access = await readKubeconfig(path);
    expect(access.server.host).toBe('api.example:6443');
    expect(await access.trust?.()).toEqual({
      ca: 'the CA',
      insecure: false,
      clientCertificate: { cert: 'cert', key: 'key' },
    });
    expect(await access.token()).toBeUndefined();
  });

  it('may contain a token, or name its file, which is read each time', async () => {
    expect(await (await readKubeconfig(await write({ user: { token: 'inside' } }))).token()).toBe('inside');
    const { token } = await readKubeconfig(
      await write({ user: { token: 'inside', tokenFile: 'pki/token' } }),
    );
    expect(await token()).toBe('of the file');
    await writeFile(join(folder, 'pki', 'token'), 'renewed');
    expect(await token()).toBe('renewed');
  });

  it('is read again, with the certificates that it names; the server stays', async () => {
    const files = { 'client-certificate': 'pki/cert', 'client-key': 'pki/key' };
    await writeFile(join(folder, 'pki', 'cert'), 'cert');
    await writeFile(join(folder, 'pki', 'key'), 'key');
    const cluster = { 'certificate-authority': 'pki/ca.crt' };
    const access = await readKubeconfig(await write({ cluster, user: files }));
    await writeFile(join(folder, 'pki', 'cert'), 'next cert');
    expect(await access.trust?.()).toMatchObject({ ca: 'the CA', clientCertificate: { cert: 'next cert' } });
    const other = { server: 'https://other.example', 'certificate-authority-data': base64('another CA') };
    await write({ cluster: other, user: { token: 'next' } });
    expect(await access.trust?.()).toMatchObject({ ca: 'another CA', clientCertificate: undefined });
    expect(await access.token()).toBe('next');
    expect(access.server.host).toBe('api.example:6443');
    await write({ context: 'theirs' });
    await expect(access.token()).rejects.toThrow('there is no context theirs');
  });

  it.each<[string, Parts, RegExp]>([
    [
      'runs a program',
      { user: { exec: { command: 'aws' } } },
      /exec, which runs a program, is not supported/,
    ],
    ['has a password', { user: { username: 'u', password: 'p' } }, /username, which was removed/],
    ['names a proxy', { cluster: { 'proxy-url': 'http://p' } }, /proxy-url is not supported/],
    ['has no such context', { context: 'theirs' }, /there is no context theirs/],
    [
      'names a file that is not there',
      { cluster: { 'certificate-authority': 'none' } },
      /there is no file .*none/,
    ],
    ['names no server', { cluster: { server: 'x' } }, /server is not a URL/],
  ])('that %s is refused, in words', async (_what, parts, message) => {
    await expect(readKubeconfig(await write(parts))).rejects.toThrow(message);
  });

  it('that is not YAML is refused without showing its content', async () => {
    const path = join(folder, 'broken');
    await writeFile(path, 'a: b\ntoken: "secret\n');
    await expect(readKubeconfig(path)).rejects.toThrow(/^\S+ is not YAML in line \d+$/);
  });
});

describe('a pod', () => {
  it('uses its own ServiceAccount, with a token that the kubelet renews', async () => {
    const variables = { KUBERNETES_SERVICE_HOST: 'fd00::1', KUBERNETES_SERVICE_PORT: '443' };
    const access = await inClusterAccess(variables, join(folder, 'pki'));
    expect(access.server.href).toBe('https://[fd00::1]/');
    expect(await access.trust?.()).toEqual({ ca: 'the CA' });
    expect(await access.token()).toBe('renewed');
    await writeFile(join(folder, 'pki', 'ca.crt'), 'the next CA');
    expect(await access.trust?.()).toEqual({ ca: 'the next CA' });
    await writeFile(join(folder, 'pki', 'ca.crt'), 'the CA');
  });

  it('needs the variables that Kubernetes sets', async () => {
    await expect(inClusterAccess({})).rejects.toThrow('kubernetes.kubeconfig');
  });
});
