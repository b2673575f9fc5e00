import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { devNull, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { parseYaml } from '../lib/yaml.ts';
import { Database } from '../metadata/sqlite/driver.ts';
import { EXIT } from './command.ts';
import { runProgram } from './program.ts';

const folder = mkdtempSync(join(tmpdir(), 'entrepot-cli-'));
execFileSync('mkfifo', [join(folder, 'pipe')]);
afterAll(() => rmSync(folder, { recursive: true }));

/** Whatever server runs on this machine, its configuration is not meant. */
const NO_CONFIG = ['--config', devNull];

async function run(...argv: string[]) {
  let out = '';
  let err = '';
  const code = await runProgram(argv, {
    out: text => {
      out += text;
    },
    err: text => {
      err += text;
    },
  });
  return { code, out, err };
}

/** The words of each command that the help lists, and the help of each group. */
async function commandsIn(group: readonly string[] = []): Promise<string[][]> {
  const [, after = ''] = (await run(...group, '--help')).out.split('Commands:\n');
  const [lines = ''] = after.split('\n\n');
  const listed = [...lines.matchAll(/^ {2}(\S+)/gm)].flatMap(([, name = '']) =>
    name === 'help' ? [] : [name],
  );
  const names = listed.map(name => [...group, name]);
  const inside = await Promise.all(names.map(async name => ({ name, commands: await commandsIn(name) })));
  return inside.flatMap(({ name, commands }) => (commands.length === 0 ? [name] : commands));
}

describe('the command line', () => {
  it('suggests the intended command, and ends with 2', async () => {
    const { code, err } = await run('sevre');
    expect(code).toBe(2);
    expect(err).toBe("entrepot: unknown command 'sevre'\n(Did you mean serve?)\nsee `entrepot --help`\n");
    expect((await run('config', 'shwo')).err).toContain('Did you mean show?');
  });

  it.each([
    [['gc', '--sooner'], "unknown option '--sooner'", 'entrepot gc --help'],
    [['rm'], "missing required argument 'reference'", 'entrepot rm --help'],
    [['gc', 'now'], "too many arguments for 'gc'. Expected 0 arguments but got 1.", 'entrepot gc --help'],
    [['serve', '--config'], "option '--config <file>' argument missing", 'entrepot serve --help'],
    [['tenant', 'add'], "missing required argument 'tenant'", 'entrepot tenant add --help'],
    [['tenant', 'frob'], "unknown command 'frob'", 'entrepot tenant --help'],
    [['--json'], "unknown option '--json'", 'entrepot --help'],
  ])('says what is wrong with %j, and which help to read', async (argv, said, help) => {
    expect(await run(...argv)).toEqual({
      code: 2,
      out: '',
      err: `entrepot: ${said}\nsee \`${help}\`\n`,
    });
  });

  it.each([
    ['help rm deb.example/app:v1', 'rm'],
    ['help rm -- deb.example/app:v1', 'rm'],
    ['help images --json', 'images'],
    ['help tenant add t1', 'tenant add'],
    ['tenant help add t1', 'tenant add'],
  ])('prints help for `%s`, and never runs the command', async (typed, name) => {
    const { code, out, err } = await run(...typed.split(' '));
    expect([code, out.split('\n')[0], err]).toEqual([
      0,
      expect.stringMatching(`^Usage: entrepot ${name} `),
      '',
    ]);
  });

  it.each(['help frob x', 'help tenant frob x', 'tenant help frob', 'help -- images', 'help tenant -- list'])(
    'does not run what follows `%s` in place of help',
    async typed => {
      const { out } = await run(...typed.split(' '));
      expect(out === '' || out.startsWith('Usage: entrepot ')).toBe(true);
    },
  );

  it('escapes control characters in what it shows', async () => {
    const file = join(folder, 'images.txt');
    writeFileSync(file, 'docker.io/a:\u001B[2J\u0007\u009B2J\r1\n');
    vi.stubEnv('ENTREPOT_STORAGE__PATH', join(folder, 'controls'));
    const shown = await Promise.all([
      run('pull', '--from', file, ...NO_CONFIG),
      run('pull', 'docker.io/a:\u001B[2J', ...NO_CONFIG),
      run('\u001B[2J'),
    ]);
    vi.unstubAllEnvs();
    for (const { out, err } of shown) {
      expect(out + err).toContain(String.raw`\u001b[2J`);
      expect((out + err).replaceAll('\n', '')).not.toMatch(/\p{Cc}/u);
    }
  });

  it('names an image that cannot be pulled once in the line that says why', async () => {
    vi.stubEnv('ENTREPOT_STORAGE__PATH', join(folder, 'offline'));
    vi.stubEnv('ENTREPOT_OFFLINE', 'true');
    const { code, err } = await run('pull', 'docker.io/library/nginx:1.27', ...NO_CONFIG);
    vi.unstubAllEnvs();
    expect(code).toBe(1);
    expect(err).toContain('docker.io/library/nginx:1.27: not stored here, and upstream may not be asked');
  });

  it('lists every exit code in its help', async () => {
    const [, codes = ''] = (await run('--help')).out.split('Exit codes:');
    expect(codes.match(/\d+/g)?.map(Number)).toEqual(Object.values(EXIT));
  });

  it.each(['backup', 'restore', 'rebuild'])(
    'says in the help of %s what it does with an index in PostgreSQL',
    async name => expect((await run(name, '--help')).out).toContain('PostgreSQL'),
  );

  it('has help with examples for every command that the help lists', async () => {
    const listed = await commandsIn();
    expect(listed).toEqual(expect.arrayContaining([['serve'], ['tenant', 'add'], ['config', 'show']]));
    for (const command of listed) {
      const { code, out } = await run(...command, '--help');
      expect(code).toBe(0);
      expect(out).toContain(`Usage: entrepot ${command.join(' ')}`);
      expect(out).toContain('Examples:');
      expect({ command, all: out.includes('--all-platforms') }).toEqual({
        command,
        all: out.includes('--platform <'),
      });
    }
  });

  it('prints JSON for every command that has a result and no format of its own', async () => {
    const withoutJson: string[] = [];
    for (const command of await commandsIn()) {
      if (!(await run(...command, '--help')).out.includes('  --json ')) withoutJson.push(command.join(' '));
    }
    expect(withoutJson.toSorted()).toEqual([
      // A script for a shell.
      'completion',
      // These are JSON in any case.
      'config schema',
      'credential-provider',
      'have',
      // Its log is (log.format).
      'serve',
    ]);
  });

  it('prints its version', async () => {
    expect((await run('--version')).out).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it('says in one line that another process has locked the index', async () => {
    const store = join(folder, 'locked');
    vi.stubEnv('ENTREPOT_STORAGE__PATH', store);
    expect((await run('tenant', 'add', 'team-a', ...NO_CONFIG)).code).toBe(0);
    const other = new Database(join(store, 'index.db'));
    other.exec('BEGIN IMMEDIATE');
    vi.useFakeTimers({ toFake: ['performance'] });
    const passing = setInterval(() => vi.advanceTimersByTime(1_000), 5);
    try {
      const message = 'entrepot: cannot open the index: another process has it locked\n';
      expect(await run('gc', ...NO_CONFIG)).toEqual({ code: 1, out: '', err: message });
    } finally {
      clearInterval(passing);
      vi.useRealTimers();
      other.close();
    }
  });

  it('refuses a missing or extra argument and an unknown option with 2', async () => {
    expect((await run('rm')).code).toBe(2);
    expect((await run('config', 'show', 'extra')).code).toBe(2);
    expect((await run('hosts', 'containerd', '--serverr', 'x')).err).toContain('--server');
  });
});

describe('entrepot config', () => {
  it('reports problems as JSON, too, and still ends with 2', async () => {
    const file = join(folder, 'wrong.yaml');
    writeFileSync(file, 'log: {level: loud}\n');
    const { code, out, err } = await run('config', 'check', '--json', '--config', file);
    expect({ code, err }).toEqual({ code: 2, err: expect.stringContaining('log.level') });
    expect(JSON.parse(out)).toMatchObject({
      valid: false,
      problems: [
        {
          source: `${file}:1`,
          key: 'log.level',
          value: 'loud',
          message: expect.stringContaining('expected'),
        },
      ],
    });
  });

  it('prints the result of a file, and checks it', async () => {
    const file = join(folder, 'entrepot.yaml');
    writeFileSync(file, 'storage: {path: /data}\n');
    expect((await run('config', 'show', '--config', file)).out).toContain('path: /data');
    expect((await run('config', 'check', '--config', file)).code).toBe(0);
    expect((await run('config', 'variables')).out).toMatch(/ENTREPOT_STORAGE__PATH\s+storage.path/);
  });

  it.each([
    ['storage: {s3: {bucket: abc, caFile: none}}', /storage\.s3\.caFile: "\S*none": cannot be read/],
    ['storage: {s3: {bucket: abc, caFile: text}}', /storage\.s3\.caFile: "\S*text": expected .*certificates/],
    ['index: {postgres: {host: h, passwordFile: none}}', /index\.postgres\.passwordFile.*cannot be read/],
    ['index: {postgres: {host: h, passwordEnv: NONE_OF_OURS}}', /index\.postgres\.passwordEnv.*that is set/],
    ['index: {postgres: {host: h, tls: {caFile: text}}}', /index\.postgres\.tls\.caFile.*certificates/],
    ['audit: {output: file, auditFile: none/audit}', /auditFile.*cannot be opened: it does not exist/],
    ['storage: {s3: {bucket: abc, caFile: pipe}}', /storage\.s3\.caFile: "\S*pipe": is not a file/],
    ['storage: {s3: {bucket: abc, caFile: large}}', /storage\.s3\.caFile: "\S*large": is larger than/],
    ['index: {postgres: {host: h, passwordFile: pipe}}', /index\.postgres\.passwordFile.*is not a file/],
    ['index: {postgres: {host: h, passwordFile: large}}', /index\.postgres\.passwordFile.*is larger than/],
    ['server: {tls: {certFile: pipe, keyFile: large}}', /certFile.*is not a file[^]*keyFile.*is larger than/],
  ])('reports what would keep a server from starting: %s', async (text, problem) => {
    const file = join(folder, 'named.yaml');
    writeFileSync(file, text);
    writeFileSync(join(folder, 'text'), 'no certificate');
    writeFileSync(join(folder, 'large'), Buffer.alloc(2 * 2 ** 20));
    const { code, err } = await run('config', 'check', '--config', file);
    expect([code, err]).toEqual([2, expect.stringMatching(problem)]);
  });

  it('warns of a Docker config of the node that cannot be used', async () => {
    const file = join(folder, 'node.yaml');
    writeFileSync(file, 'nodeConfig: [none.json, text]');
    writeFileSync(join(folder, 'text'), 'no JSON');
    const { code, err } = await run('config', 'check', '--config', file);
    expect([code, err]).toEqual([
      0,
      expect.stringMatching(
        /^entrepot: warning: .*node\.yaml:1: nodeConfig: "\S*none\.json": is missing: .*\n.*"\S*text": is malformed: .*\n$/,
      ),
    ]);
  });

  it('warns of options that have no effect because of others', async () => {
    const file = join(folder, 'unused.yaml');
    const ca = join(folder, 'ca.pem');
    const subject = ['-subj', '/CN=ca', '-keyout', join(folder, 'ca.key'), '-out', ca];
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ed25519', '-nodes', ...subject], {
      stdio: 'ignore',
    });
    writeFileSync(
      file,
      'hosted: {anonymous: pull}\nupstreams:\n  reg.example: {insecure: true, caFile: ca.pem}\n  quay.io: {caFile: ca.pem}\n',
    );
    const { code, err } = await run('config', 'check', '--config', file);
    expect([code, err]).toEqual([
      0,
      expect.stringMatching(
        /^entrepot: warning: .*unused\.yaml:3: upstreams\.reg\.example\.caFile: .* remove one of them\n.*:1: hosted\.anonymous: "pull": has no effect without hosted\.prefixes.*\n$/,
      ),
    ]);
  });

  it('warns of a certificate that clients refuse, or will soon', async () => {
    const tls = fileURLToPath(new URL('../../test/support/tls', import.meta.url));
    const file = join(folder, 'expired.yaml');
    writeFileSync(file, `server: {tls: {certFile: ${tls}/server.pem, keyFile: ${tls}/server.key}}\n`);
    expect((await run('config', 'check', '--config', file)).err).toBe('');
    vi.useFakeTimers({ toFake: ['Date'], now: new Date('2200-01-01') });
    try {
      const { code, err } = await run('config', 'check', '--config', file);
      expect(code).toBe(0);
      expect(err).toMatch(
        /expired\.yaml:1: server\.tls\.certFile: .*: has expired: clients refuse it \(.*2126 GMT\)/,
      );
    } finally {
      vi.useRealTimers();
    }
  });

  it('lists the problems of an invalid one, and ends with 2', async () => {
    const file = join(folder, 'wrong.yaml');
    writeFileSync(file, 'storag: {}\n');
    const { code, err } = await run('config', 'check', '--config', file);
    expect(code).toBe(2);
    expect(err).toMatch(/wrong.yaml:1: storag.*did you mean storage/);
    expect(err).not.toMatch(/^ +at /m);
  });
});

describe('entrepot rm', () => {
  it('says so, and ends with 1, if nothing of the reference is stored', async () => {
    const file = join(folder, 'store.yaml');
    writeFileSync(file, 'storage: {path: store}\n');
    expect((await run('tenant', 'add', 'team-a', '--config', file)).code).toBe(0);
    const { code, out, err } = await run('rm', 'docker.io/library/nginx:1', '--config', file);
    expect([code, out, err]).toEqual([1, 'docker.io/library/nginx:1: nothing of it is stored\n', '']);
  });

  it('refuses a registry that is not configured', async () => {
    const file = join(folder, 'store.yaml');
    writeFileSync(file, 'storage: {path: store}\n');
    const { code, err } = await run('rm', 'nowhere.example/app', '--config', file);
    expect(code).toBe(1);
    expect(err).toMatch(/nowhere.example.*not a configured/);
  });
});

/** `entrepot hosts stargz` with this configuration. */
function stargz(yaml: string, ...args: string[]) {
  const file = join(folder, 'stargz.yaml');
  writeFileSync(file, yaml);
  return run('hosts', 'stargz', '--config', file, ...args);
}

describe('entrepot hosts', () => {
  it('prints a single file as it is, so that it can be redirected', async () => {
    const args = ['--upstream', 'docker.io', '--server', 'https://r.example', ...NO_CONFIG];
    const { out } = await run('hosts', 'k3s', ...args);
    expect(parseYaml(out).value).toEqual({ mirrors: { 'docker.io': { endpoint: ['https://r.example'] } } });
  });

  it('writes files into a folder', async () => {
    const args = ['--upstream', 'docker.io', 'quay.io', '--server', 'http://10.0.0.5:5000', '--out', folder];
    const { code, out } = await run('hosts', 'containerd', ...args, ...NO_CONFIG);
    expect([code, out]).toEqual([0, '']);
    expect(readFileSync(join(folder, 'quay.io/hosts.toml'), 'utf8')).toContain('http://10.0.0.5:5000');
  });

  it('uses the port of docker.io for Docker, and never a wildcard address', async () => {
    const file = join(folder, 'ports.yaml');
    writeFileSync(
      file,
      'server: {listen: ["0.0.0.0:5000", {address: "10.0.0.5:5002", upstream: docker.io}]}',
    );
    expect((await run('hosts', 'docker', '--config', file)).out).toContain('http://10.0.0.5:5002');
    const { code, err } = await run('hosts', 'crio', '--config', file);
    expect(code).toBe(2);
    expect(err).toContain('--server');
  });

  it.each([
    ['of no registry', 'listen: 10.0.0.5:5000', []],
    ['of no registry, named', 'listen: 10.0.0.5:5000', ['--server', 'http://10.0.0.5:5000']],
    [
      'of another registry',
      'listen: [{address: 10.0.0.5:5000, upstream: quay.io}]',
      ['--server', 'http://m:5000'],
    ],
  ])('says how Docker gets a port of its own where there is only one %s', async (_, server, args) => {
    const file = join(folder, 'no-hub.yaml');
    writeFileSync(file, `server: {${server}}`);
    const { code, err } = await run('hosts', 'docker', '--config', file, ...args);
    expect(code).toBe(1);
    expect(err).toMatch(/upstream: docker\.io.*hostAlias.*defaultUpstream/);
  });

  it.each([
    [
      'defaultUpstream',
      'server: {listen: 10.0.0.5:5000}\ndefaultUpstream: docker.io\n',
      'http://10.0.0.5:5000',
    ],
    [
      'a host name of Docker Hub',
      'server: {listen: 0.0.0.0:5000, externalUrl: "https://r.example"}\n' +
        'upstreams: {docker.io: {hostAlias: hub.example}}\n',
      'https://hub.example',
    ],
  ])('uses for Docker what %s gives', async (_, yaml, url) => {
    const file = join(folder, 'hub.yaml');
    writeFileSync(file, yaml);
    expect((await run('hosts', 'docker', '--config', file)).out).toContain(`"${url}"`);
  });

  it.each([
    ['listen: 127.0.0.1:5000, serverNames: localhost', 'containerd', 'http://localhost:5000'],
    ['listen: 0.0.0.0:80, serverNames: registry.example', 'containerd', 'http://registry.example'],
    [
      'listen: 127.0.0.1:5000, serverNames: [a.example:443, registry.example:5000]',
      'containerd',
      'http://registry.example:5000',
    ],
    [
      'listen: 127.0.0.1:5000, serverNames: registry.example:30500',
      'containerd',
      'http://registry.example:30500',
    ],
    [
      'listen: [127.0.0.1:5000, {address: 127.0.0.1:5002, upstream: docker.io}], serverNames: registry.example:5000',
      'docker',
      'http://registry.example:5002',
    ],
  ])('uses the name by which clients reach it, with {%s} for %s', async (server, kind, url) => {
    const file = join(folder, 'named.yaml');
    writeFileSync(file, `server: {${server}}`);
    const { out } = await run('hosts', kind, '--upstream', 'docker.io', '--config', file);
    expect(out).toContain(`"${url}"`);
  });

  describe('stargz, which does not say which registry it means', () => {
    const ports =
      'server: {listen: [0.0.0.0:5000, {address: 10.0.0.5:5002, upstream: docker.io}, ' +
      '{address: 10.0.0.5:5003, upstream: ghcr.io}]}';
    const toGeneral = ['--server', 'http://entrepot.example:5000'];

    it('uses the port of each registry, leaves out one without, and ends with 1', async () => {
      const { code, out, err } = await stargz(
        ports,
        '--upstream',
        'docker.io',
        'ghcr.io',
        'quay.io',
        ...toGeneral,
      );
      expect(code).toBe(1);
      expect(out).toContain('[[resolver.host."docker.io".mirrors]]\nhost = "entrepot.example:5002"\n');
      expect(out).toContain('[[resolver.host."ghcr.io".mirrors]]\nhost = "entrepot.example:5003"\n');
      expect(out).not.toContain('quay.io');
      expect(err).toMatch(/^not written: quay\.io: stargz-snapshotter uses .*upstream: quay\.io.*hostAlias/);
    });

    it('names all registries without a port in one line', async () => {
      const { code, err } = await stargz('', ...toGeneral);
      expect(code).toBe(2);
      expect(err.trim().split('\n')).toEqual([
        expect.stringMatching(/not written: docker\.io, .*quay\.io.*: stargz-snapshotter uses .* for each/),
      ]);
    });

    it.each([
      ['the addresses of the configuration', ports, [], '10.0.0.5:5003'],
      ['an unknown port, if it is for one registry', '', ['--server', 'http://a:30503'], 'a:30503'],
      ['a host name', 'upstreams: {ghcr.io: {hostAlias: gh.example}}', toGeneral, 'gh.example:5000'],
      ['defaultUpstream', 'defaultUpstream: ghcr.io', toGeneral, 'entrepot.example:5000'],
    ])('uses %s', async (_, yaml, args, host) => {
      const { code, out } = await stargz(yaml, '--upstream', 'ghcr.io', ...args);
      expect(code).toBe(0);
      expect(out).toContain(`[[resolver.host."ghcr.io".mirrors]]\nhost = "${host}"\ninsecure = true\n`);
    });

    it.each([
      ['no port of a registry', '', ['--upstream', 'ghcr.io', ...toGeneral], 'not written: ghcr.io'],
      [
        'an unknown port for two',
        '',
        ['--upstream', 'ghcr.io', 'quay.io', '--server', 'http://a:1'],
        'quay.io',
      ],
      ['--no-fallback', ports, ['--no-fallback', ...toGeneral], '--no-fallback: .*stargz-snapshotter'],
    ])('refuses %s', async (_, yaml, args, reason) => {
      const { code, out, err } = await stargz(yaml, ...args);
      expect([code, out, err]).toEqual([2, '', expect.stringMatching(reason)]);
    });

    it('says that it cannot give it a CA', async () => {
      const ca = fileURLToPath(new URL('../../test/support/tls/ca.pem', import.meta.url));
      const args = ['--upstream', 'ghcr.io', '--server', 'https://a:30503', '--ca', ca];
      const { code, out, err } = await stargz('', ...args);
      expect([code, err]).toEqual([0, expect.stringContaining('trusts the CAs of its system only')]);
      expect(out).toContain('host = "a:30503"\n\n#');
    });

    it('keeps other settings of its file, and refuses one with other mirrors', async () => {
      const out = join(folder, 'stargz');
      mkdirSync(out);
      const file = join(out, 'config.toml');
      const args = ['--upstream', 'ghcr.io', ...toGeneral, '--out', out];
      writeFileSync(file, 'no_prefetch = true\n');
      expect((await stargz(ports, ...args)).code).toBe(0);
      expect(readFileSync(file, 'utf8')).toMatch(/^no_prefetch = true\n\n# Images through Entrepot/);
      expect((await stargz(ports, ...args)).err).toBe(`unchanged: ${file}\n`);
      writeFileSync(file, '[resolver]\n');
      expect(await stargz(ports, ...args)).toMatchObject({
        code: 2,
        err: expect.stringContaining('by hand'),
      });
      expect(readFileSync(file, 'utf8')).toBe('[resolver]\n');
    });
  });

  it('says that nodes use https where Entrepot uses plain HTTP, and how to have no fallback', async () => {
    const file = join(folder, 'plain.yaml');
    writeFileSync(file, 'upstreams: {up.example: {url: "http://10.0.0.9:5000"}}');
    const to = ['--upstream', 'up.example', '--server', 'http://10.0.0.5:5000', '--config', file];
    const told =
      'up.example: if Entrepot is out of reach, nodes ask https://up.example, not http://10.0.0.9:5000 as Entrepot does: ' +
      'plain HTTP is only set up for a registry of that very name';
    expect((await run('hosts', 'containerd', ...to)).err).toBe(
      `${told}. With --no-fallback they ask Entrepot only\n`,
    );
    expect((await run('hosts', 'k3s', ...to)).err).toBe(`${told}\n`);
    writeFileSync(file, 'upstreams: {docker.io: {url: "http://10.0.0.9:5000"}}');
    const hub = await run('hosts', 'containerd', '--upstream', 'docker.io', ...to.slice(2));
    expect(hub.err).toContain('nodes ask https://registry-1.docker.io, not http://10.0.0.9:5000');
  });

  it('uses https and the certificate of a server with a self-signed one', async () => {
    const certificate = fileURLToPath(new URL('../../test/support/tls/ca.pem', import.meta.url));
    const file = join(folder, 'tls.yaml');
    writeFileSync(file, `server: {listen: 10.0.0.5:5000, tls: {certFile: ${certificate}, keyFile: k}}`);
    const { out } = await run('hosts', 'containerd', '--upstream', 'docker.io', '--config', file);
    expect(out).toContain('[host."https://10.0.0.5:5000"]');
    expect(out).toContain('ca = "entrepot-ca.pem"');
    expect(out).toContain(readFileSync(certificate, 'utf8'));
  });

  it('gives nodes only the certificates of a file that also contains the key', async () => {
    const [certificate, key] = ['ca.pem', 'server.key'].map(name =>
      readFileSync(new URL(`../../test/support/tls/${name}`, import.meta.url), 'utf8'),
    );
    const file = join(folder, 'combined.pem');
    writeFileSync(file, `${key}${certificate}`);
    const args = ['--upstream', 'docker.io', '--server', 'https://r.example', '--ca', file, ...NO_CONFIG];
    const { out } = await run('hosts', 'containerd', ...args);
    expect(out).toContain(certificate);
    expect(out).not.toContain('PRIVATE KEY');
  });

  it('says in one line that a CA is not a file', async () => {
    const to = ['--server', 'https://r.example', '--ca', folder, ...NO_CONFIG];
    const { code, err } = await run('hosts', 'containerd', '--upstream', 'docker.io', ...to);
    expect([code, err]).toEqual([1, `entrepot: ${folder} is not a file\n`]);
  });

  it('refuses a CA where nodes use no TLS, rather than leaving it out', async () => {
    const to = ['--server', 'http://r.example', '--ca', 'ca.pem', ...NO_CONFIG];
    const { code, err } = await run('hosts', 'containerd', '--upstream', 'docker.io', ...to);
    expect([code, err]).toEqual([2, expect.stringMatching(/^entrepot: --ca: .*http:\/\/r\.example/)]);
  });

  it.each(['docker', 'stargz'])('refuses an address for %s where the name means the registry', async kind => {
    const file = join(folder, 'alias.yaml');
    writeFileSync(file, 'upstreams: {docker.io: {hostAlias: localhost}}');
    const to = ['--upstream', 'docker.io', '--server', 'http://localhost:5000', '--config', file];
    expect((await run('hosts', kind, ...to)).code).toBe(0);
    const { code, err } = await run('hosts', kind, ...to, '--resolve');
    expect([code, err]).toEqual([2, expect.stringContaining('by its host name')]);
  });

  it.each([
    ['crio', '--upstream', 'nowhere.example'],
    ['crio', '--server', 'ftp://x'],
    ['crio', '--server', 'http://x/path'],
    ['podmann'],
  ])('refuses %s %s %s', async (...args) => {
    expect((await run('hosts', ...args, ...NO_CONFIG)).code).toBe(2);
  });

  it.each([
    [['hosts', 'crio', '--force'], '--force needs --out'],
    [['pull', 'quay.io/a:1', '--serialize', '--max-parallel', '2'], 'use one of them'],
  ])('refuses options if one of them has no effect: %s', async (args, reason) => {
    const { code, err } = await run(...args, ...NO_CONFIG);
    expect([code, err]).toEqual([2, expect.stringContaining(reason)]);
  });
});
