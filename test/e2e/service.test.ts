// What somebody expects who runs the program as a service: what it says when it cannot start, and of clients it cannot serve.
import { copyFile, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { get } from '../support/client.ts';
import { distrust } from '../support/distrustful-client.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import {
  answers,
  Daemon,
  freePort,
  hasPrograms,
  type RunResult,
  tryRun,
  until,
} from '../support/programs.ts';
import { canPreload } from '../support/preload-library.ts';
import { type Fault, SyscallShim } from '../support/syscall-shim.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const tlsFile = (name: string) => fileURLToPath(new URL(`../support/tls/${name}`, import.meta.url));
const ONE_SENTENCE = /^entrepot: [^\n]+\n$/;

let folder: string;

beforeEach(async () => void (folder = await makeTempFolder('service')));
afterEach(() => removeFolder(folder));

describe('a port with TLS', () => {
  it('answers 400 to plain HTTP, and logs why handshakes fail', async () => {
    const port = await freePort();
    const tls = { certFile: tlsFile('server.pem'), keyFile: tlsFile('server.key') };
    const entrepot = await Entrepot.start({ server: { listen: `127.0.0.1:${port}`, tls } }, { folder });
    try {
      for (const method of ['GET', 'POST']) {
        const got = await get(`http://127.0.0.1:${port}/v2/`, { method, body: method === 'GET' ? '' : 'x' });
        expect(got).toMatchObject({ status: 400, text: expect.stringContaining('https://') });
      }
      await distrust(port);
    } finally {
      await entrepot.stop();
    }
    const failures = entrepot
      .logs()
      .split('\n')
      .filter(line => line.includes('TLS handshakes failed'))
      .map(line => JSON.parse(line));
    expect(failures).toContainEqual(
      expect.objectContaining({
        level: 'warn',
        reason: 'the client spoke plain HTTP',
        remotes: ['127.0.0.1'],
      }),
    );
    expect(failures).toContainEqual(
      expect.objectContaining({ reason: expect.stringContaining('does not trust the certificate') }),
    );
  });

  it.skipIf(!hasPrograms('openssl'))(
    'is ready though its certificate expires soon, and says so',
    async () => {
      const [certFile, keyFile] = [join(folder, 'soon.pem'), join(folder, 'soon.key')];
      const kind = ['-x509', '-newkey', 'ed25519', '-nodes', '-days', '2', '-subj', '/CN=soon'];
      await tryRun('openssl', ['req', ...kind, '-keyout', keyFile, '-out', certFile]);
      const port = await freePort();
      const listen = `127.0.0.1:${port}`;
      const entrepot = await Entrepot.start({ server: { listen, tls: { certFile, keyFile } } }, { folder });
      try {
        const ready = () => get(`${entrepot.ops}/readyz`);
        const soon = /^ok\nthe certificate of server\.tls expires soon \(.* GMT\)\n$/;
        expect(await ready()).toMatchObject({ status: 200, text: expect.stringMatching(soon) });
        await copyFile(tlsFile('server.pem'), certFile);
        await copyFile(tlsFile('server.key'), keyFile);
        process.kill(entrepot.pid, 'SIGHUP');
        await until('the other certificate', 30_000, async () => (await ready()).text === 'ok\n');
      } finally {
        await entrepot.stop();
      }
    },
  );
});

const upstreams = { 'up.example': {} };

async function withConfig(config: object, ...command: string[]): Promise<RunResult> {
  const configFile = join(folder, 'config.yaml');
  await writeFile(configFile, stringify(config));
  return tryRun(process.execPath, [...STARTER, ...command, '--config', configFile], { timeoutMs: 60_000 });
}

describe('entrepot config check', () => {
  it('finds everything that would prevent serve from starting, and serve says the same', async () => {
    await writeFile(join(folder, 'not.pem'), 'x');
    await copyFile(tlsFile('ca.pem'), join(folder, 'other.pem'));
    const ports = { listen: `127.0.0.1:${await freePort()}`, opsListen: `127.0.0.1:${await freePort()}` };
    const tls = { certFile: 'other.pem', keyFile: tlsFile('server.key') };
    const files = {
      server: { ...ports, tls },
      kubernetes: { kubeconfig: 'absent.yaml' },
      credentialProviders: { configFile: 'none.yaml', binDir: folder },
      storage: { path: join(folder, 'store') },
    };
    for (const command of [['config', 'check'], ['serve']]) {
      const { code, stderr } = await withConfig(files, ...command);
      expect(code).toBe(2);
      expect(stderr).toMatch(
        /server\.tls: the key in .*server\.key does not match the certificate in .*other\.pem/,
      );
      expect(stderr).toMatch(/kubernetes\.kubeconfig: .*absent\.yaml/);
      expect(stderr).toMatch(/credentialProviders: .*none\.yaml/);
    }
    const authority = { upstreams: { 'up.example': { caFile: 'not.pem' } } };
    const { code, stderr } = await withConfig(authority, 'config', 'check');
    expect([code, stderr]).toEqual([2, expect.stringMatching(/caFile: .*not\.pem.* certificates \(PEM\)/)]);
    expect(await readdir(folder)).not.toContain('store');
    const right = { certFile: tlsFile('server.pem'), keyFile: tlsFile('server.key') };
    expect(await withConfig({ server: { tls: right } }, 'config', 'check')).toMatchObject({ code: 0 });
  });

  it('names the line of each key whose file cannot be used', async () => {
    await writeFile(join(folder, 'not.pem'), 'x');
    const lines = [
      'storage:',
      `  path: ${join(folder, 'store')}`,
      'server:',
      '  tls:',
      '    certFile: absent.pem',
      '    keyFile: not.pem',
      'audit:',
      '  output: file',
      `  auditFile: ${join(folder, 'absent', 'audit.log')}`,
      'credentialProviders:',
      `  binDir: ${folder}`,
      '  configFile: none.yaml',
    ];
    const configFile = join(folder, 'config.yaml');
    const check = async (text: string, ...command: string[]): Promise<RunResult> => {
      await writeFile(configFile, text);
      return tryRun(process.execPath, [...STARTER, ...command, '--config', configFile], {
        timeoutMs: 60_000,
      });
    };
    const { code, stderr } = await check(lines.join('\n'), 'config', 'check');
    expect(code).toBe(2);
    expect(stderr).toMatch(
      /config\.yaml:5: server\.tls\.certFile: ".*absent\.pem": cannot be read: it does not exist \(ENOENT\)\n/,
    );
    expect(stderr).toMatch(
      /config\.yaml:6: server\.tls\.keyFile: ".*not\.pem": is not a private key in PEM\n/,
    );
    expect(stderr).toMatch(/config\.yaml:9: audit\.auditFile: /);
    expect(stderr).toMatch(/config\.yaml:10: credentialProviders: /);
    const tls = `server:\n  tls:\n    certFile: ${tlsFile('ca.pem')}\n    keyFile: ${tlsFile('server.key')}\n`;
    for (const command of [['config', 'check'], ['serve']]) {
      const mismatch = await check(`storage: {path: ${join(folder, 'store')}}\n${tls}`, ...command);
      expect([mismatch.code, mismatch.stderr]).toEqual([
        2,
        expect.stringMatching(/config\.yaml:3: server\.tls: the key in .* does not match the certificate/),
      ]);
    }
    const secrets = await check(
      'tenants:\n  - name: a\n    secrets:\n      - absent.yaml\n',
      'config',
      'check',
    );
    expect(secrets.stderr).toMatch(/warning: .*config\.yaml:4: tenants\[0\]\.secrets\[0\]: /);
  });

  it('warns of lists for prepull that are absent, unreadable or malformed, with file and line', async () => {
    await writeFile(join(folder, 'list.txt'), '# ours\nup.example/app:v1\nup.example/app v1 linux\n');
    await writeFile(join(folder, 'pod.yaml'), 'kind: Pod\nspec: {containers: [\n');
    const prepull = { from: ['absent.txt', 'list.txt', 'pod.yaml', '.'] };
    const { code, stdout, stderr } = await withConfig({ prepull, upstreams }, 'config', 'check', '--json');
    expect(code).toBe(0);
    expect(stderr).toMatch(
      /prepull\.from\[0\]: ".*absent\.txt": cannot be read: it does not exist \(ENOENT\)\n/,
    );
    expect(stderr).toMatch(
      /prepull\.from\[1\]: ".*list\.txt": .*list\.txt:3: expected an image and optionally platforms/,
    );
    expect(stderr).toMatch(/prepull\.from\[2\]: ".*pod\.yaml": .*pod\.yaml:\d+: /);
    expect(stderr).toMatch(/prepull\.from\[3\]: ".*": cannot be read: it is a folder \(EISDIR\)\n/);
    expect(JSON.parse(stdout).warnings).toHaveLength(4);
  });

  it('warns of names of prepull that are no image references', async () => {
    const images = ['docker.io/library/nginx:1.27:2', 'up.example/a:v1', 'UP/x y z', 'up.example/a:v1 linux'];
    const { code, stdout, stderr } = await withConfig(
      { prepull: { images }, upstreams },
      'config',
      'check',
      '--json',
    );
    expect(code).toBe(0);
    expect(stderr).toContain('prepull.images[0]: "docker.io/library/nginx:1.27:2": invalid reference format');
    const { warnings } = JSON.parse(stdout);
    expect(warnings.map(({ key }: { key: string }) => key)).toEqual(
      [0, 2, 3].map(at => `prepull.images[${at}]`),
    );
  });

  it('warns of images whose registry is not configured, in prepull, its lists and the allow-list', async () => {
    const many = Array.from({ length: 12 }, (_, at) => `other.example/app-${at}:v1\n`);
    await writeFile(join(folder, 'many.txt'), ['up.example/app:v1\n', ...many].join(''));
    const { code, stdout, stderr } = await withConfig(
      {
        upstreams,
        prepull: { images: ['nosuch.example/x', 'nginx', 'team-a/app:v1'], from: ['many.txt'] },
        preloadedImagesVerificationAllowlist: ['up.example/app', 'nosuch.example/*'],
      },
      'config',
      'check',
      '--json',
    );
    expect(code).toBe(0);
    expect(stderr).toContain(
      'prepull.images[0]: "nosuch.example/x": "nosuch.example" is not a configured upstream of this registry\n',
    );
    expect(stderr).toContain('/many.txt": other.example/app-9:v1: "other.example" is not a configured');
    expect(stderr).toContain('/many.txt": 2 more images cannot be pulled\n');
    expect(stderr).toContain(
      'preloadedImagesVerificationAllowlist[1]: "nosuch.example/*": its registry is not configured\n',
    );
    expect(JSON.parse(stdout).warnings).toHaveLength(13);
  });

  it("warns of tenants' Secrets that cannot be used, and says what to do with Docker's config.json", async () => {
    const config = JSON.stringify({ auths: { 'up.example': { auth: 'YTpi' } } });
    for (const name of ['login.json', 'config.json']) await writeFile(join(folder, name), config);
    const tenants = [
      { name: 'team-a', secrets: ['login.json', 'config.json'] },
      { name: 'team-b', secrets: 'absent.yaml' },
    ];
    const { code, stdout, stderr } = await withConfig({ tenants }, 'config', 'check', '--json');
    expect(code).toBe(0);
    expect(stderr).toMatch(
      /warning: .*tenants\[0\]\.secrets\[0\]: .*login\.json.* is Docker's config\.json and not a Secret: name it config\.json/,
    );
    expect(stderr).toMatch(
      /warning: .*tenants\[1\]\.secrets\[0\]: ".*absent\.yaml": the file does not exist\n/,
    );
    expect(stderr.match(/\/login\.json/g)).toHaveLength(1);
    expect(JSON.parse(stdout)).toMatchObject({
      valid: true,
      warnings: [{ key: 'tenants[0].secrets[0]' }, { key: 'tenants[1].secrets[0]' }],
    });
  });
});

describe('an unsuitable Node is reported in one sentence', () => {
  /** Runs `entrepot …`, before which `script` changes what the program sees of its Node. */
  async function under(script: string, ...command: string[]): Promise<RunResult> {
    const preload = join(folder, 'preload.cjs');
    await writeFile(preload, script);
    return tryRun(process.execPath, ['--require', preload, ...STARTER, ...command], { cwd: folder });
  }

  it('that is too old', async () => {
    for (const version of ['18.20.8', '20.18.3', '22.13.0', '21.7.3']) {
      const versions = `{ ...process.versions, node: '${version}' }`;
      const { code, stdout, stderr } = await under(
        `Object.defineProperty(process, 'versions', { value: ${versions} });
         Object.defineProperty(process, 'version', { value: 'v${version}' });`,
        '--version',
      );
      expect([code, stdout, stderr]).toEqual([1, '', expect.stringMatching(ONE_SENTENCE)]);
      expect(stderr).toContain(`is v${version}`);
      expect(stderr).toContain('it needs Node 20.19');
    }
  });

  it('without a fitting SQLite driver', async () => {
    const words =
      "The module 'x.node'\\nwas compiled against a different Node.js version using\\nNODE_MODULE_VERSION 115. This " +
      'version of Node.js requires\\nNODE_MODULE_VERSION 127.';
    await writeFile(join(folder, 'config.yaml'), 'storage: {path: store}\n');
    const { code, stderr } = await under(
      `const load = process.dlopen;
       process.dlopen = (module, file, ...more) => {
         if (!file.includes('sqlite')) return load.call(process, module, file, ...more);
         throw Object.assign(new Error("${words}"), { code: 'ERR_DLOPEN_FAILED' });
       };`,
      'pull',
      'nginx',
      '--config',
      'config.yaml',
    );
    expect([code, stderr]).toEqual([1, expect.stringMatching(ONE_SENTENCE)]);
    expect(stderr).toMatch(/NODE_MODULE_VERSION 115 instead of 127; run npm ci/);
  });
});

describe.skipIf(!canPreload)('storage.path on a file system that cannot hold a store (gcc)', () => {
  const cases: readonly (readonly [Omit<Fault, 'id' | 'path'>, RegExp])[] = [
    [{ call: 'write', action: { fail: 'EROFS' } }, /files cannot be written there \(EROFS/],
    [{ call: 'sync', action: { fail: 'EINVAL' } }, /files cannot be written there \(EINVAL/],
    [{ call: 'rename', action: { fail: 'EPERM' } }, /files cannot be renamed there \(EPERM/],
    [
      { call: 'file-lock', action: { fail: 'ENOLCK' } },
      /does not support the locks that SQLite needs: put storage\.path on/,
    ],
    [
      { call: 'map', action: { fail: 'ENODEV' } },
      /does not support shared memory for SQLite: put storage\.path on/,
    ],
  ];

  it.each(cases)('is reported at once, if %o', async (fault, reason) => {
    const store = join(folder, 'store');
    const shim = await SyscallShim.open(join(folder, 'shim'));
    await shim.set({ id: 'fault', path: store, ...fault });
    const configFile = join(folder, 'config.yaml');
    await writeFile(configFile, stringify({ storage: { path: store }, server: { opsListen: false } }));
    const run = async (...command: string[]) => {
      const args = [...STARTER, ...command, '--config', configFile];
      const { code, stderr } = await tryRun(process.execPath, args, { env: shim.env });
      expect([code, stderr]).toEqual([1, expect.stringMatching(ONE_SENTENCE)]);
      expect(stderr).toContain(`${store} (storage.path) cannot hold a store: `);
      expect(stderr).toMatch(reason);
    };
    // A lock would be waited for, for ten seconds, and be asked for hundreds of times.
    await run('serve');
    const served = (await shim.met()).length;
    expect(served).toBeLessThan(10);
    await run('pull', 'nginx');
    expect((await shim.met()).length - served).toBeLessThan(15);
  });
});

it('a folder that can hold a store contains nothing of the check afterwards', async () => {
  const opsListen = `127.0.0.1:${await freePort()}`;
  const configFile = join(folder, 'config.yaml');
  const store = join(folder, 'store');
  await mkdir(store);
  const server = { listen: `127.0.0.1:${await freePort()}`, opsListen };
  await writeFile(configFile, stringify({ storage: { path: store }, server }));
  const daemon = await Daemon.start({
    program: process.execPath,
    args: [...STARTER, 'serve', '--config', configFile],
    cwd: folder,
    isReady: () => answers(`http://${opsListen}/readyz`, 200),
    readyTimeoutMs: 60_000,
  });
  try {
    expect((await readdir(store)).filter(name => name.includes('probe'))).toEqual([]);
  } finally {
    await daemon.stop();
  }
});
