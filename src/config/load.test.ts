import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { environmentVariables, readEnvironment } from './environment.ts';
import { loadConfig } from './load.ts';
import { ConfigError } from './problems.ts';
import { fileJsonSchema } from './schema.ts';
import { showConfig } from './show.ts';

const folder = mkdtempSync(join(tmpdir(), 'entrepot-config-'));
afterAll(() => rmSync(folder, { recursive: true }));
writeFileSync(join(folder, 'empty'), '\n');

let written = 0;
function write(text: string): string {
  const file = join(folder, `${written++}.yaml`);
  writeFileSync(file, text);
  return file;
}

async function load(text: string, env: Record<string, string> = {}) {
  return loadConfig({ file: write(text), env });
}

/** A file with an endpoint of notifications that has the signing key. */
function signedWith(key: string): string {
  const file = join(folder, 'key');
  writeFileSync(file, `${key}\n`);
  return `notifications: {endpoints: [{name: ci, url: "http://ci.example", signingKeyFile: ${file}}]}`;
}

/** The problems as people read them, without the folder. */
async function problemsOf(text: string, env: Record<string, string> = {}): Promise<string[]> {
  const error = await load(text, env).catch((thrown: unknown) => thrown);
  if (!(error instanceof ConfigError)) {
    throw new Error('expected a ConfigError', { cause: error });
  }
  return error.message
    .split('\n')
    .slice(1)
    .map(line => line.trim().replace(/^\S*\/\d+\.yaml/, 'file'));
}

describe('the defaults', () => {
  it('mirror the seven presets on loopback, with the store in ./storage', async () => {
    const config = await loadConfig({ env: {} });
    expect(config.server.listen).toEqual([{ address: { host: '127.0.0.1', port: 5000 } }]);
    expect(config.server.opsListen).toEqual({ host: '127.0.0.1', port: 5001 });
    expect(config.server.shutdownTimeoutMs).toBe(30_000);
    expect(config.storage.path).toBe(resolve('storage'));
    expect([...config.upstreams.keys()]).toEqual([
      'docker.io',
      'registry.k8s.io',
      'ghcr.io',
      'quay.io',
      'gcr.io',
      'mcr.microsoft.com',
      'public.ecr.aws',
    ]);
    expect(config.upstreams.get('docker.io')).toMatchObject({
      name: 'docker.io',
      url: 'https://registry-1.docker.io',
      realms: ['auth.docker.io'],
      freshForMs: 60_000,
      openToAll: false,
    });
    expect(config.hosted).toEqual({
      prefixes: [],
      anonymous: 'none',
      anonymousBeyondLoopback: false,
      shared: [],
      delete: true,
      readOnly: false,
      maxRepositories: 10_000,
      maxTags: 100_000,
      maxUploads: 5_000,
    });
  });

  it('apply to an empty file, and to a file with empty sections', async () => {
    const { origin: _origin, ...expected } = await loadConfig({ env: {} });
    expect(await load('')).toMatchObject(expected);
    expect(await load('server:\nstorage:\nupstreams:\n')).toMatchObject(expected);
  });
});

describe('a configuration file', () => {
  it('is merged over a preset key by key', async () => {
    const { upstreams } = await load(
      'upstreams:\n  docker.io:\n    freshFor: forever\n    mirrors: http://cache:5000/\n',
    );
    expect(upstreams.get('docker.io')).toMatchObject({
      url: 'https://registry-1.docker.io',
      aliases: ['index.docker.io', 'registry-1.docker.io'],
      freshForMs: Number.POSITIVE_INFINITY,
      mirrors: [{ url: 'http://cache:5000', credentials: undefined }],
    });
  });

  it.each([
    ['never', 'never'],
    ['now', 'now'],
    ['5m', 300_000],
  ])('takes %s for when ranges are completed, and shows it again', async (text, value) => {
    const config = await load(`pulls: {completeRanged: ${text}}`);
    expect(config.pulls.completeRanged).toBe(value);
    expect(showConfig(config)).toContain(`completeRanged: ${text}`);
  });

  it('disables a preset with false, and adds an upstream by its name alone', async () => {
    const { upstreams } = await load('upstreams:\n  ghcr.io: false\n  registry.gitlab.com:\n');
    expect(upstreams.has('ghcr.io')).toBe(false);
    expect(upstreams.get('registry.gitlab.com')?.url).toBe('https://registry.gitlab.com');
  });

  it('accepts a single value for a list of one', async () => {
    const { server } = await load(
      'server: {listen: [127.0.0.1:1, {address: "[::1]:2", upstream: quay.io}], serverNames: r.example:5000}',
    );
    expect(server.listen).toEqual([
      { address: { host: '127.0.0.1', port: 1 } },
      { address: { host: '::1', port: 2 }, upstream: 'quay.io' },
    ]);
    expect(server.serverNames).toEqual(['r.example:5000']);
  });

  it('has paths relative to its own folder', async () => {
    mkdirSync(join(folder, 'certs'), { recursive: true });
    const ca = readFileSync(new URL('../../test/support/tls/ca.pem', import.meta.url), 'utf8');
    writeFileSync(join(folder, 'certs/ca.pem'), ca);
    writeFileSync(join(folder, 'password'), 'hunter2\n');
    const config = await load(
      'storage: {path: data}\nupstreams: {quay.io: {caFile: certs/ca.pem, credentials: {username: u, passwordFile: password}}}',
    );
    expect(config.storage.path).toBe(join(folder, 'data'));
    expect(config.upstreams.get('quay.io')).toMatchObject({
      caFile: join(folder, 'certs/ca.pem'),
      ca,
      credentials: { username: 'u', password: 'hunter2' },
    });
  });

  it('takes a password from the environment, whatever the variable is called', async () => {
    const text = 'upstreams: {quay.io: {credentials: {username: u, passwordEnv: ENTREPOT_QUAY}}}';
    const { upstreams } = await load(text, { ENTREPOT_QUAY: 'hunter2' });
    expect(upstreams.get('quay.io')?.credentials?.password).toBe('hunter2');
  });
});

describe('a wrong configuration', () => {
  it('is refused with all problems: where, which value, what was expected', async () => {
    const problems = await problemsOf(`colour: blue
server:
  listen: nope
  shutdownTimout: 10s
upstreams:
  docker.io:
    pullPolicy: always
    freshFor: 10
    repositories:
      - {match: library/*, pulPolicy: Always}
  Quay.io: {}
pulls: {maxParallelImagePulls: 0}
hosted: {prefixes: [library]}
`);
    expect(problems).toEqual([
      expect.stringContaining('file:1: colour: is not an option; the options here are server, storage'),
      'file:3: server.listen: "nope": expected an address such as 127.0.0.1:5000, 0.0.0.0:5000 or [::]:5000',
      'file:4: server.shutdownTimout: is not an option; did you mean shutdownTimeout?',
      expect.stringContaining(
        'file:7: upstreams.docker.io.pullPolicy: "always": expected Always, IfNotPresent or Never',
      ),
      'file:8: upstreams.docker.io.freshFor: 10: expected a duration such as 500ms, 90s, 1m, 24h or 7d, or forever',
      'file:10: upstreams.docker.io.repositories[0].pulPolicy: is not an option; did you mean pullPolicy?',
      expect.stringContaining('file:11: upstreams.Quay.io: expected a registry host'),
      'file:12: pulls.maxParallelImagePulls: 0: expected a whole number of at least 1',
    ]);
  });

  it('is told where an option in the wrong section belongs', async () => {
    const problems = await problemsOf(`connectionsPerBlob: 8
pulls: {connectionsPerBlob: 8, freshFor: 1m}
upstreams:
  docker.io: {completeRanged: never, mirrors: [{url: https://one.example, quotaBytes: 1GiB}]}
storage: {url: https://s3.example}
`);
    expect(problems).toEqual([
      'file:1: connectionsPerBlob: is not an option here; did you mean upstreams.NAME.connectionsPerBlob?',
      'file:2: pulls.connectionsPerBlob: is not an option here; did you mean upstreams.NAME.connectionsPerBlob?',
      'file:2: pulls.freshFor: is not an option here; did you mean upstreams.NAME.freshFor or upstreams.NAME.repositories[].freshFor?',
      'file:4: upstreams.docker.io.mirrors[0].quotaBytes: is not an option here; did you mean tenants[].quotaBytes?',
      'file:4: upstreams.docker.io.completeRanged: is not an option here; did you mean pulls.completeRanged?',
      // There are many of that name.
      expect.stringContaining('file:5: storage.url: is not an option; the options here are path, maxBytes'),
    ]);
  });

  it.each([
    [
      'defaultUpstream: nowhere.example',
      /defaultUpstream: "nowhere.example": expected the name of an upstream/,
    ],
    ['defaultUpstream: docker.io\nhosted: {prefixes: tools}', /defaultUpstream.*if nothing is hosted/],
    ['hosted: {prefixes: [docker.io]}', /prefixes\[0\]: "docker.io": already means the upstream docker.io/],
    ['hosted: {prefixes: [index.docker.io]}', /already means the upstream docker.io/],
    ['storage: {s3: {}}', /storage.s3.bucket: .*required|expected the name of a bucket/],
    ['storage: {s3: {bucket: A_b}}', /storage.s3.bucket: "A_b": expected the name of a bucket/],
    ['storage: {s3: {bucket: abc, prefix: /x}}', /storage.s3.prefix: "\/x": expected a prefix/],
    ['storage: {s3: {bucket: abc, prefix: a/../b}}', /storage.s3.prefix: .*expected a prefix/],
    ['storage: {s3: {bucket: abc, endpoint: "https://s3.example/x"}}', /storage.s3.endpoint: .*without path/],
    ['storage: {s3: {bucket: abc, credentials: file}}', /storage.s3.credentialsFile: is required/],
    ['storage: {s3: {bucket: abc, credentialsFile: x}}', /storage.s3.credentialsFile: .*only read for/],
    [
      'cluster: {listen: "0.0.0.0:5002", advertise: "10.0.0.1:5002", keyFile: k}',
      /cluster: .*requires index\.postgres and storage\.s3, which all replicas share/,
    ],
    [
      'cluster: {listen: "0.0.0.0:5001", advertise: "10.0.0.1:5002", keyFile: k}',
      /cluster\.listen: "0\.0\.0\.0:5001": uses the same port as 127\.0\.0\.1:5001 in server\.opsListen/,
    ],
    [
      'cluster: {listen: "0.0.0.0:5002", advertise: "0.0.0.0:5002", keyFile: k}',
      /cluster\.advertise: "0\.0\.0\.0:5002": no replica can be reached at this address/,
    ],
    [
      'cluster: {listen: "0.0.0.0:5002", advertise: "10.0.0.1:0", keyFile: k}',
      /cluster\.advertise: "10\.0\.0\.1:0": no replica can be reached at this address/,
    ],
    [
      'cluster: {listen: "0.0.0.0:5002", advertise: replica-1, keyFile: k}',
      /cluster\.advertise: "replica-1": expected an address such as 10\.0\.7\.12:5003(?!.*0\.0\.0\.0)/,
    ],
    [
      'cluster: {listen: "0.0.0.0:5002", advertise: "[::]:5002", keyFile: k}',
      /cluster\.advertise: "\[::\]:5002": no replica can be reached at this address/,
    ],
    [
      'cluster: {listen: "0.0.0.0:5002", advertise: "10.0.0.1:5002", keyFile: k}\nserver: {processes: 2}',
      /server\.processes: 2: must be 1 with cluster/,
    ],
    [
      'cluster: {listen: "0.0.0.0:5002", advertise: "10.0.0.1:5002"}',
      /cluster\.keyFile: .*either keyFile or tls is required/,
    ],
    [
      'cluster: {listen: "0.0.0.0:5002", advertise: "10.0.0.1:5002", keyFile: k, tls: {certFile: c, keyFile: k, caFile: a}}',
      /cluster\.keyFile: "\S*k": either keyFile or tls is required/,
    ],
    ['index: {postgres: {}}', /index.postgres.host: .*either url or host is required/],
    ['index: {postgres: {url: "postgresql://u:p@h/d"}}', /index.postgres.url: .*without a password/],
    [
      'index: {postgres: {url: "postgresql://h/d?password=hunter2"}}',
      /index.postgres.url: .*without a password/,
    ],
    [
      'upstreams: [{name: quay.io, credentials: {username: u, password: hunter2}}]',
      /upstreams: expected a map of names/,
    ],
    ['upstreams: {quay.io: {mirrors: [["https://u:hunter2@m"]]}}', /mirrors/],
    ['index: {postgres: {url: "postgresql://h/d", user: u}}', /index.postgres.user: .*part of url already/],
    ['index: {postgres: {host: h, schema: A-b}}', /index.postgres.schema: "A-b": expected a name/],
    ['index: {postgres: {host: h, poolSize: 1}}', /index.postgres.poolSize: 1: expected/],
    [
      'index: {postgres: {host: h, passwordFile: f, passwordEnv: E}}',
      /index.postgres.passwordEnv: .*either passwordFile or passwordEnv/,
    ],
    ['server: {processes: many}', /processes: "many": expected a whole number .* at most 64, or auto$/],
    ['upkeep: {gcInterval: 0s}', /upkeep.gcInterval: "0s": expected .*more than 0s/],
    ['upkeep: {scrubInterval: 0m}', /upkeep.scrubInterval: "0m": expected .*more than 0s/],
    ['upkeep: {scrubRate: 0B}', /upkeep.scrubRate: "0B": expected more than 0B per second/],
    ['tenants: [{name: a, quotaBytes: 4095B}]', /quotaBytes: "4095B": expected .*at least 4KiB, .*or 0B/],
    ['hosted: {prefixes: [v2]}', /is reserved/],
    ['hosted: {prefixes: [library]}', /is reserved/],
    ['tenants: [{name: library}]', /tenants\[0\].name: "library": is reserved/],
    [
      'hosted: {prefixes: [tools]}\ntenants: [{name: tools}]',
      /tenants\[0\].name: "tools": is one of hosted.prefixes/,
    ],
    ['tenants: [{name: docker.io}]', /already means the upstream docker.io/],
    ['tenants: [{name: a}, {name: a}]', /tenants\[1\].name: "a": occurs twice/],
    ['tenants: [{name: a, upstreams: nowhere.example}]', /expected names of upstreams: docker.io/],
    [
      'tenants: [{name: a, repositories: library/*}]',
      /tenants\[0\].repositories: "library\/\*": expected names of upstreams first/,
    ],
    ['tenants: [{name: a, repositories: nginx}]', /expected an image or pattern/],
    ['defaultUpstream: docker.io\ntenants: [{name: a}]', /defaultUpstream.*if nothing is hosted/],
    ['credentialProviders: {configFile: x.yaml}', /credentialProviders.binDir/],
    ['hosted: {prefixes: [a/b]}', /one component/],
    ['upstreams: {registry-1.docker.io: {}}', /aliases\[1\]: "registry-1.docker.io": already means/],
    [
      'upstreams: {a.example: {hostAlias: m}, b.example: {hostAlias: m}}',
      /b.example.hostAlias\[0\]: "m": already means a.example/,
    ],
    ['server: {serverNames: ghcr.io}', /means the upstream ghcr.io/],
    ['server: {serverNames: m}\nupstreams: {a.example: {hostAlias: m}}', /means the upstream a.example/],
    [
      'server: {listen: {address: "127.0.0.1:1", upstream: no.example}}',
      /listen\[0\].upstream: "no.example"/,
    ],
    [
      'pulls: {serializeImagePulls: true, maxParallelImagePulls: 2}',
      /larger than 1 unless serializeImagePulls is false/,
    ],
    ['server: {listen: "0.0.0.0:5000"}\nhosted: {anonymous: push}', /anonymousBeyondLoopback/],
    ['server: {listen: ["127.0.0.1:1", "[::]:2"]}\nhosted: {anonymous: push}', /anonymousBeyondLoopback/],
    ['server: {listen: "0.0.0.0:5000"}\ntenants: [{name: a}]', /tenants.*over plain HTTP.*server\.tls/],
    ['server: {listen: "0.0.0.0:5000"}\nunknownCredentials: verify', /unknownCredentials.*over plain HTTP/],
    ['audit: {output: file}', /audit\.auditFile.*is required/],
    [
      'upstreams: {quay.io: {url: "https://u:p@quay.io"}}',
      /^file:1: upstreams.quay.io.url: expected an http/,
    ],
    ['upstreams: {quay.io: {url: "ftp://quay.io"}}', /expected an http/],
    ['upstreams: {quay.io: {url: "https://quay.io/path"}}', /a path must include \/v2/],
    ['upstreams: {quay.io: {allowAddresses: [10.0.0.0/33]}}', /address range/],
    ['upstreams: {quay.io: {credentials: {username: u}}}', /either passwordFile or passwordEnv/],
    [
      'upstreams: {quay.io: {credentials: {username: u, password: hunter2}}}',
      /use passwordFile or passwordEnv/,
    ],
    ['upstreams: {quay.io: {credentials: {username: u, passwordEnv: NONE}}}', /"NONE"|passwordEnv/],
    ['upstreams: {quay.io: {credentials: {username: u, passwordFile: empty}}}', /passwordFile.*: is empty$/],
    [
      'upstreams: {quay.io: {credentials: {username: u, passwordFile: /dev/zero}}}',
      /passwordFile.*: is not a file$/,
    ],
    [
      'server: {listen: ["127.0.0.1:1", "127.0.0.1:1"]}',
      /server\.listen\[1\].*: uses the same port as 127\.0\.0\.1:1 in server\.listen$/,
    ],
    [
      'server: {listen: ["127.0.0.1:1", "0.0.0.0:1"]}',
      /server\.listen\[1\]: "0\.0\.0\.0:1": uses the same port as 127\.0\.0\.1:1/,
    ],
    ['server: {listen: ["[::]:1", "127.0.0.1:1"]}', /server\.listen\[1\].*: uses the same port as \[::\]:1/],
    [
      'server: {listen: 0.0.0.0:5001}',
      /server\.opsListen: "127\.0\.0\.1:5001": uses the same port as 0\.0\.0\.0:5001 in server\.listen$/,
    ],
    ['upstreams: {quay.io: {caFile: none.pem}}', /caFile.*: does not exist$/],
    [
      'upstreams: {quay.io: {mirrors: [{uri: "http://m"}]}}',
      /mirrors\[0\].uri: is not an option; did you mean url/,
    ],
    ['upstreams: [quay.io]', /expected a map of names/],
    ['- a list', /expected a map of keys/],
    ['a: [', /file:\d+: is not a configuration/],
  ])('names the fault in %j', async (text, message) => {
    const problems = await problemsOf(text);
    expect(problems.join('\n')).toMatch(message);
    expect(problems.join('\n')).not.toContain('hunter2');
  });

  it.each([
    'pulls: {serializeImagePulls: true, maxParallelImagePulls: 1}',
    'pulls: {maxParallelImagePulls: 8}',
    'server: {listen: [127.0.0.1:0, 127.0.0.1:0], opsListen: 127.0.0.1:0}',
    'hosted: {anonymous: push}\nserver: {listen: ["[::1]:5000", "localhost:5002"]}',
    'hosted: {anonymous: push, anonymousBeyondLoopback: true}\nserver: {listen: "0.0.0.0:5000"}',
    'defaultUpstream: docker.io\nhosted: {prefixes: tools}\nserver: {listen: {address: "127.0.0.1:1", upstream: docker.io}}',
  ])('is not what the same rules allow: %j', async text => {
    await expect(load(text)).resolves.toBeDefined();
  });

  it.each(['', 'not base64!', 'YQ=', 'c2VjcmV0IQ===', 'c2Vjcm-_'])(
    'is refused if a signing key says that it is base64, and is not: whsec_%s',
    async encoded => {
      expect(await problemsOf(signedWith(`whsec_${encoded}`))).toEqual([
        expect.stringMatching(/signingKeyFile.*: begins with whsec_/),
      ]);
    },
  );

  it.each(['whsec_bm90', 'whsec_c2VjcmV0IQ', 'whsec_c2VjcmV0IQ==', 'not base64!'])(
    'has the signing key %s',
    async signingKey => {
      const { notifications } = await load(signedWith(signingKey));
      expect(notifications.endpoints).toMatchObject([{ signingKey }]);
    },
  );

  it('is refused if a password is in a named pipe, which may never end', async () => {
    execFileSync('mkfifo', [join(folder, 'pipe')]);
    expect(
      await problemsOf('upstreams: {quay.io: {credentials: {username: u, passwordFile: pipe}}}'),
    ).toEqual([expect.stringMatching(/passwordFile.*: is not a file$/)]);
  });

  it('is refused if the file does not exist', async () => {
    await expect(loadConfig({ file: join(folder, 'none.yaml'), env: {} })).rejects.toThrow(
      /none.yaml: cannot be read: it does not exist \(ENOENT\)$/,
    );
  });
});

describe('the environment', () => {
  it('overrides the file, with YAML for values and maps merged', async () => {
    const config = await load(
      'server: {listen: 127.0.0.1:1, serverNames: a.example}\nstorage: {path: data}',
      {
        ENTREPOT_SERVER__LISTEN: '[127.0.0.1:2, 127.0.0.1:3]',
        ENTREPOT_SERVER__OPS_LISTEN: 'false',
        ENTREPOT_STORAGE__PATH: 'elsewhere',
        ENTREPOT_UPSTREAMS: '{docker.io: {openToAll: true}, ghcr.io: false}',
      },
    );
    expect(config.server.listen.map(({ address }) => address.port)).toEqual([2, 3]);
    expect(config.server.opsListen).toBe(false);
    expect(config.server.serverNames).toEqual(['a.example']);
    expect(config.storage.path).toBe(resolve('elsewhere'));
    expect(config.upstreams.get('docker.io')).toMatchObject({ openToAll: true, realms: ['auth.docker.io'] });
    expect(config.upstreams.has('ghcr.io')).toBe(false);
  });

  it('can name the file', async () => {
    const config = await loadConfig({ env: { ENTREPOT_CONFIG: write('storage: {path: /data}') } });
    expect(config.storage.path).toBe('/data');
  });

  it('can name variables of passwords, which may be called like options', async () => {
    const { upstreams, index } = await load('', {
      ENTREPOT_QUAY: 'hunter2',
      ENTREPOT_UPSTREAMS: '{quay.io: {credentials: {username: u, passwordEnv: ENTREPOT_QUAY}}}',
      ENTREPOT_INDEX: '{postgres: {host: db.example}}',
      ENTREPOT_INDEX__POSTGRES__PASSWORD_ENV: 'ENTREPOT_DB',
      ENTREPOT_DB: 'hunter3',
    });
    expect(upstreams.get('quay.io')?.credentials?.password).toBe('hunter2');
    expect(index.postgres?.passwordEnv).toBe('ENTREPOT_DB');
  });

  it('is refused if a variable is not an option, or its value is invalid', async () => {
    expect(
      await problemsOf('', { ENTREPOT_SERVER__LISTN: 'x', ENTREPOT_LOG__LEVEL: 'loud', ENTREPOT_PULLS: '[' }),
    ).toEqual([
      'ENTREPOT_LOG__LEVEL: log.level: "loud": expected debug, info, warn or error',
      expect.stringMatching(/^ENTREPOT_PULLS: pulls: is not YAML/),
      'ENTREPOT_SERVER__LISTN: is not an option; did you mean ENTREPOT_SERVER__LISTEN?',
    ]);
  });

  it('may contain what Kubernetes sets for a Service named entrepot', async () => {
    const links = {
      ENTREPOT_SERVICE_HOST: '10.0.0.1',
      ENTREPOT_SERVICE_PORT: '5000',
      ENTREPOT_SERVICE_PORT_HTTP: '5000',
      ENTREPOT_PORT: 'tcp://10.0.0.1:5000',
      ENTREPOT_PORT_5000_TCP: 'tcp://10.0.0.1:5000',
      ENTREPOT_PORT_5000_TCP_ADDR: '10.0.0.1',
      ENTREPOT_OPS_SERVICE_HOST: '10.0.0.2',
    };
    await expect(load('', links)).resolves.toBeDefined();
  });

  it('reads the variable of every option, also of one that is called port', async () => {
    const { index } = await load('index: {postgres: {host: db, port: 5432}}', {
      ENTREPOT_INDEX__POSTGRES__PORT: '6432',
    });
    expect(index.postgres?.port).toBe(6432);
    const variables = [...environmentVariables(fileJsonSchema()).keys()];
    const { overrides, problems } = readEnvironment(
      Object.fromEntries(variables.map(variable => [variable, ''])),
      fileJsonSchema,
      () => new Set(),
    );
    expect(problems).toEqual([]);
    expect(overrides.map(({ variable }) => variable).sort()).toEqual(variables.sort());
  });

  it('gives the proxies to use', async () => {
    const { proxy } = await load('', { HTTPS_PROXY: 'http://p:1', no_proxy: 'localhost' });
    expect(proxy).toEqual({ httpProxy: undefined, httpsProxy: 'http://p:1', noProxy: 'localhost' });
  });
});

describe('config show', () => {
  it('prints an equivalent file, without passwords', async () => {
    writeFileSync(join(folder, 'secret'), 'hunter2');
    const env = { QUAY: 'hunter3' };
    const config = await load(
      `server: {listen: [127.0.0.1:1, {address: "[::1]:2", upstream: quay.io}], shutdownTimeout: 90s}
upstreams:
  gcr.io: false
  quay.io:
    credentials: {username: u, passwordEnv: QUAY}
    mirrors: [http://m, {url: http://n, credentials: {username: v, passwordFile: secret}}]
    freshFor: forever
    hostAlias: q.example
    repositories: [{match: a/**, staleWhileRevalidate: 10m}]
nodeConfig: config.json
tenants:
  - {name: team-a, secrets: team-a.yaml, quotaBytes: 50GiB, repositories: [docker.io/library/*, quay.io/a/**]}
`,
      env,
    );
    const shown = showConfig(config);
    expect(shown).toContain('freshFor: forever');
    expect(config.nodeConfig).toEqual([join(folder, 'config.json')]);
    expect(config.tenants[0]?.secrets).toEqual([join(folder, 'team-a.yaml')]);
    expect(shown).not.toMatch(/hunter/);
    const { origin: _origin, ...meant } = config;
    expect(await load(shown, env)).toMatchObject(meant);
  });

  it('does not show query values in the URLs of endpoints', async () => {
    const endpoints = [
      'https://ci.example/hook?token=s3cret&v=1',
      'https://ci.example/h?s3cret',
      'http://a/b',
    ];
    const urls = endpoints.map((url, at) => `{name: e${at}, url: '${url}'}`);
    const config = await load(`notifications: {endpoints: [${urls.join(', ')}]}`);
    const shown = showConfig(config);
    expect(shown).toContain('url: https://ci.example/hook?token=***&v=***\n');
    expect(shown).toContain('url: https://ci.example/h?***\n');
    expect(shown).toContain('url: http://a/b\n');
    expect(config.notifications.endpoints.map(({ url }) => url)).toEqual(endpoints);
  });
});
