import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parseYaml, parseYamlDocuments } from '../lib/yaml.ts';
import {
  fallbackLocation,
  isReplaceable,
  NODE_KINDS,
  type NodeFile,
  type NodeKind,
  nodeFiles,
} from './node-files.ts';

const hub = { name: 'docker.io', aliases: ['index.docker.io'], url: 'https://registry-1.docker.io' };
const upstreams = [hub, { name: 'registry.k8s.io', aliases: [], url: 'https://registry.k8s.io' }];

function only(files: readonly NodeFile[]): NodeFile {
  const [file] = files;
  if (file === undefined || files.length !== 1) {
    throw new Error(`expected one file, got ${files.length}`);
  }
  return file;
}

describe('files for containerd', () => {
  it('are one hosts.toml per registry, with the registry itself as a fallback without a path', () => {
    const files = nodeFiles('containerd', { serverUrl: 'http://10.0.0.5:5000', upstreams });
    expect(files.map(({ path }) => path)).toEqual(['docker.io/hosts.toml', 'registry.k8s.io/hosts.toml']);
    expect(files[0]?.text).toContain('server = "https://registry-1.docker.io"\n');
    expect(files[0]?.text).toContain('[host."http://10.0.0.5:5000"]\n');
  });

  it('name Entrepot as the server, too, if there is no fallback', () => {
    const [file] = nodeFiles('containerd', { serverUrl: 'http://10.0.0.5:5000', upstreams, fallback: false });
    expect(file?.text).toContain('server = "http://10.0.0.5:5000"\n');
    expect(file?.text).toContain('[host."http://10.0.0.5:5000"]\n');
  });

  it('write a port in a folder name as containerd does', () => {
    const odd = [{ name: 'registry.example:5000', aliases: [], url: 'https://registry.example:5000' }];
    expect(only(nodeFiles('containerd', { serverUrl: 'http://a:1', upstreams: odd })).path).toBe(
      'registry.example_5000_/hosts.toml',
    );
  });
});

describe('the fallback', () => {
  const internal = [{ name: 'docker.io', aliases: [], url: 'http://10.0.0.9' }];

  it('never uses plain HTTP if only Entrepot reaches the registry by it', () => {
    const [toml] = nodeFiles('containerd', { serverUrl: 'http://a:1', upstreams: internal });
    expect(toml?.text).toContain('server = "https://registry-1.docker.io"\n');
    const named = at('http://10.0.0.9', 'up.example');
    const [other] = nodeFiles('containerd', { serverUrl: 'http://a:1', upstreams: named });
    expect(other?.text).toContain('server = "https://up.example"\n');
    const conf = only(nodeFiles('crio', { serverUrl: 'https://a', upstreams: internal })).text;
    expect(conf).toContain('location = "docker.io"\n\n[[registry.mirror]]');
    expect(conf).not.toContain('insecure');
  });
});

const at = (url: string, name = 'docker.io') => [{ name, aliases: [], url }];

describe('a registry behind a path', () => {
  const serverUrl = 'https://a.example';
  const project = at('https://harbor.example/v2/proxy-hub');

  it.each(['https://harbor.example/v2/proxy-hub', 'https://j.example/artifactory/api/docker/hub/v2'])(
    'is the fallback of containerd, which appends no /v2 of its own: %s',
    url => {
      const [toml] = nodeFiles('containerd', { serverUrl, upstreams: at(url) });
      expect(toml?.text).toContain(`server = "${url}"\noverride_path = true\n\n[host.`);
    },
  );

  it('is not a mirror, and not a fallback if there is none', () => {
    const [toml] = nodeFiles('containerd', { serverUrl, upstreams: project, fallback: false });
    expect(toml?.text).toContain(`server = "${serverUrl}"\n\n[host.`);
    expect(toml?.text).not.toContain('override_path');
  });

  it('is part of the name for CRI-O, which has no other way to express it', () => {
    const conf = only(nodeFiles('crio', { serverUrl, upstreams: project })).text;
    expect(conf).toContain(
      'prefix = "docker.io"\nlocation = "harbor.example/proxy-hub"\n\n[[registry.mirror]]',
    );
    expect(conf).toContain('location = "a.example/docker.io"\n');
    const locations = ['https://j.example/artifactory/v2', 'https://e.example/v2/registry.example:5000'].map(
      url => at(url).map(fallbackLocation)[0],
    );
    expect(locations).toEqual([undefined, undefined]);
  });

  it('is passed to k3s after Entrepot', () => {
    const { text } = only(nodeFiles('k3s', { serverUrl, upstreams: project }));
    expect(parseYaml(text).value).toEqual({
      mirrors: { 'docker.io': { endpoint: [serverUrl, 'https://harbor.example/v2/proxy-hub'] } },
    });
  });

  it('keeps its path if its own name is reached by plain HTTP, and is omitted otherwise', () => {
    const plain = 'http://harbor.example:8080/v2/proxy-hub';
    const [own] = nodeFiles('containerd', { serverUrl, upstreams: at(plain, 'harbor.example:8080') });
    expect(own?.text).toContain(`server = "${plain}"\noverride_path = true\n`);
    const [other] = nodeFiles('containerd', { serverUrl, upstreams: at(plain) });
    expect(other?.text).toContain('server = "https://registry-1.docker.io"\n\n');
  });
});

describe("a CA of Entrepot's own", () => {
  const options = { serverUrl: 'https://a.example:5000', upstreams: [hub], ca: 'PEM\n' };
  const files = (kind: NodeKind) => new Map(nodeFiles(kind, options).map(({ path, text }) => [path, text]));

  it('is named by hosts.toml, beside it', () => {
    expect(files('containerd').get('docker.io/hosts.toml')).toContain('  ca = "entrepot-ca.pem"\n');
    expect(files('containerd').get('docker.io/entrepot-ca.pem')).toBe('PEM\n');
  });

  it('is not trusted for the registry itself, as containerd and Docker do with .crt in its folder', () => {
    for (const kind of ['containerd', 'docker'] as const) {
      const inItsFolder = [...files(kind).keys()].filter(path => /(?:^|\/)docker\.io\//.test(path));
      expect(inItsFolder.length).toBe(2);
      expect(inItsFolder.filter(path => /\.(?:crt|cert|key)$/.test(path))).toEqual([]);
    }
  });

  it("is placed where CRI-O, podman and Docker look for a server's CA", () => {
    expect(files('crio').get('certs.d/a.example:5000/ca.crt')).toMatch(/^# The CA of Entrepot\b.*\nPEM\n$/);
    expect(files('docker').get('certs.d/a.example:5000/ca.crt')).toMatch(/^# The CA of Entrepot\b.*\nPEM\n$/);
  });

  it('is named in the registries.yaml of k3s', () => {
    const { value } = parseYaml(files('k3s').get('registries.yaml') ?? '');
    expect(value).toMatchObject({
      configs: { 'a.example:5000': { tls: { ca_file: '/etc/rancher/k3s/entrepot-ca.pem' } } },
    });
    expect(files('k3s').get('entrepot-ca.pem')).toBe('PEM\n');
  });
});

describe('files with settings of others', () => {
  const options = { serverUrl: 'http://10.0.0.5:5002', upstreams };
  const merge = (kind: NodeKind, existing: string) => nodeFiles(kind, options)[0]?.mergeInto?.(existing);

  it('keep the other settings of daemon.json, in their order and indentation', () => {
    const existing =
      '{\n    "log-driver": "local",\n    "registry-mirrors": ["https://other.example"],\n    "mtu": 1400\n}\n';
    expect(merge('docker', existing)).toBe(`{
    "log-driver": "local",
    "registry-mirrors": [
        "http://10.0.0.5:5002",
        "https://other.example"
    ],
    "mtu": 1400,
    "insecure-registries": [
        "10.0.0.5:5002"
    ]
}
`);
  });

  it('keep comments, logins and other mirrors of registries.yaml', () => {
    const existing = `# ours
mirrors:
  docker.io:
    endpoint:
      - https://other.example # slow
  "*":
configs:
  ghcr.io:
    auth: {username: u, password: p}
`;
    const merged = merge('k3s', existing) ?? '';
    expect(merged).toContain('# ours\n');
    expect(parseYaml(merged).value).toEqual({
      mirrors: {
        'docker.io': { endpoint: ['http://10.0.0.5:5002', 'https://other.example'] },
        '*': null,
        'registry.k8s.io': { endpoint: ['http://10.0.0.5:5002'] },
      },
      configs: { 'ghcr.io': { auth: { username: 'u', password: 'p' } } },
    });
  });

  it.each(['docker', 'k3s', 'stargz'] as const)('stay unchanged if there is nothing to add: %s', kind => {
    const once = merge(kind, '') ?? '';
    expect(merge(kind, once)).toBe(once);
  });

  it.each([
    ['docker', '[]'],
    ['docker', '{"registry-mirrors": "https://a"}'],
    ['docker', '{'],
    ['k3s', 'mirrors: [a]'],
    ['k3s', 'mirrors: {docker.io: {endpoint: a}}'],
    ['k3s', 'a: b: c'],
  ] as const)('are refused where they cannot be added to: %s %s', (kind, existing) => {
    expect(() => merge(kind, existing)).toThrow(Error);
  });

  it('are distinguished from files that Entrepot wrote as a whole', () => {
    for (const kind of ['containerd', 'crio'] as const) {
      const [file] = nodeFiles(kind, options);
      const [moved] = nodeFiles(kind, { ...options, serverUrl: 'https://elsewhere', fallback: false });
      if (file === undefined || moved === undefined) throw new Error('expected a file');
      expect(isReplaceable(moved.text, file)).toBe(true);
      expect(isReplaceable(`# by hand\n${moved.text}`, file)).toBe(false);
    }
  });
});

describe('files for the other runtimes', () => {
  it('have the registry in the path of the mirror for CRI-O, which sends no ns', () => {
    const { text } = only(nodeFiles('crio', { serverUrl: 'http://10.0.0.5:5000', upstreams }));
    expect(text).toContain('prefix = "docker.io"\n');
    expect(text).toContain('location = "10.0.0.5:5000/docker.io"\ninsecure = true\n');
    expect(only(nodeFiles('crio', { serverUrl: 'https://r.example', upstreams })).text).not.toContain(
      'insecure',
    );
  });

  it('put Entrepot in place of the registry for CRI-O if there is no fallback', () => {
    const { text } = only(
      nodeFiles('crio', { serverUrl: 'http://10.0.0.5:5000', upstreams: [hub], fallback: false }),
    );
    expect(text).toContain('prefix = "docker.io"\nlocation = "10.0.0.5:5000/docker.io"\ninsecure = true\n');
    expect(text).not.toContain('mirror');
  });

  it('allow CRI-O plain HTTP to a registry that needs it, and use its alias without a port', () => {
    const plain = [
      { name: 'registry.example:5000', aliases: ['registry.example'], url: 'http://registry.example:5000' },
    ];
    const { text } = only(nodeFiles('crio', { serverUrl: 'https://a', upstreams: plain }));
    expect(text).toContain('location = "registry.example:5000"\ninsecure = true\n');
    expect(text).toContain('location = "a/registry.example"\n');
  });

  it.each([
    [
      'http://10.0.0.5:5002',
      { 'registry-mirrors': ['http://10.0.0.5:5002'], 'insecure-registries': ['10.0.0.5:5002'] },
    ],
    ['http://127.0.0.1:5002', { 'registry-mirrors': ['http://127.0.0.1:5002'] }],
    ['https://r.example', { 'registry-mirrors': ['https://r.example'] }],
  ])('allow Docker plain HTTP only where it is used beyond loopback: %s', (serverUrl, daemon) => {
    expect(JSON.parse(nodeFiles('docker', { serverUrl, upstreams })[0]?.text ?? '')).toEqual(daemon);
  });

  it('give Docker with the containerd image store a hosts.toml per registry, with the colon of its port', () => {
    const odd = [hub, { name: 'registry.example:5000', aliases: [], url: 'https://registry.example:5000' }];
    const files = nodeFiles('docker', { serverUrl: 'http://10.0.0.5:5002', upstreams: odd });
    expect(files.map(({ path }) => path)).toEqual([
      'daemon.json',
      'certs.d/docker.io/hosts.toml',
      'certs.d/registry.example:5000/hosts.toml',
    ]);
  });

  it('give k3s an endpoint for each registry', () => {
    const { text } = only(nodeFiles('k3s', { serverUrl: 'http://10.0.0.5:5000', upstreams }));
    expect(parseYaml(text).value).toEqual({
      mirrors: {
        'docker.io': { endpoint: ['http://10.0.0.5:5000'] },
        'registry.k8s.io': { endpoint: ['http://10.0.0.5:5000'] },
      },
    });
  });
});

describe('the file for stargz-snapshotter', () => {
  const ported = upstreams.map((upstream, index) => ({
    ...upstream,
    ownUrl: `http://a.example:${5002 + index}`,
  }));
  const options = { serverUrl: 'http://a.example:5000', upstreams: ported };
  const fileOf = (changes: object = {}) => only(nodeFiles('stargz', { ...options, ...changes }));
  const settings = '[cri_keychain] # a resolver\nenable_keychain = true\n';

  it('has a mirror for each registry, at the URL that means it', () => {
    const { text } = fileOf();
    expect(text).toContain(
      '[[resolver.host."docker.io".mirrors]]\nhost = "a.example:5002"\ninsecure = true\n',
    );
    expect(text).toContain(
      '[[resolver.host."registry.k8s.io".mirrors]]\nhost = "a.example:5003"\ninsecure = true\n',
    );
    const [encrypted] = nodeFiles('stargz', { serverUrl: 'https://hub.example', upstreams: [hub] });
    expect(encrypted?.text).toContain('host = "hub.example"\n\n#');
  });

  it('is added to other settings, and replaces what was added before, wherever it is', () => {
    const once = fileOf().mergeInto?.(settings) ?? '';
    expect(once).toBe(`${settings}\n${fileOf().text}`);
    const between = `${once}\n[snapshotter]\nallow_invalid_mounts_on_restart = true\n`;
    expect(fileOf({ upstreams: [hub], serverUrl: 'https://b.example' }).mergeInto?.(between)).toBe(
      between.replace(fileOf().text, fileOf({ upstreams: [hub], serverUrl: 'https://b.example' }).text),
    );
  });

  it.each([
    '[resolver.host."ghcr.io"]\nmirrors = []\n',
    '[resolver]\nrequest_timeout_sec = 5\n',
    'resolver = {}\n',
    '  [[ "resolver".host."docker.io".mirrors ]]\n',
  ])('is not added to other mirrors: %j', own => {
    const { mergeInto, text } = fileOf();
    expect(() => mergeInto?.(own)).toThrow(/resolver/);
    expect(() => mergeInto?.(`${text}${own}`)).toThrow(/resolver/);
  });
});

describe('config/examples', () => {
  const examples = fileURLToPath(new URL('../../config/examples/', import.meta.url));

  it.each(NODE_KINDS)('are the output of entrepot hosts %s (npm run examples)', kind => {
    for (const { path, text } of nodeFiles(kind, exampleOptions(kind))) {
      expect(readFileSync(join(examples, kind, path), 'utf8')).toBe(text);
    }
  });

  it('have no other files, and every file parses', () => {
    const files = readdirSync(examples, { recursive: true, withFileTypes: true }).filter(entry =>
      entry.isFile(),
    );
    // Those for the kubelet's credential provider are written by hand.
    const written = files.filter(({ parentPath }) => basename(parentPath) !== 'credential-provider');
    expect(written).toHaveLength(2 * upstreams.length + 4);
    for (const { name, parentPath } of files) {
      const text = readFileSync(join(parentPath, name), 'utf8');
      expect(() => PARSERS[name.split('.').at(-1) ?? '']?.(text) ?? fail(name)).not.toThrow();
    }
  });
});

/** Docker's mirrors need a port that belongs to docker.io, and those of stargz-snapshotter one each. */
function exampleOptions(kind: NodeKind) {
  const serverUrl = `http://entrepot.example:${kind === 'docker' ? 5002 : 5000}`;
  const ported = upstreams.map((upstream, index) => ({
    ...upstream,
    ownUrl: `http://entrepot.example:${5002 + index}`,
  }));
  return { serverUrl, upstreams: kind === 'stargz' ? ported : upstreams };
}

/** The few lines of TOML that we write: comments, tables, and keys with JSON's strings, lists and booleans. */
function parseToml(text: string): unknown {
  for (const line of text.split('\n')) {
    const value = /^\s*[a-z_]+ = (.+)$/.exec(line)?.[1];
    const isTable = /^\[{1,2}[a-z]+(?:\.(?:[a-z]+|"[^"]+"))*\]{1,2}$/.test(line);
    if (value !== undefined) {
      JSON.parse(value);
    } else if (!isTable && line !== '' && !line.startsWith('#')) {
      throw new SyntaxError(line);
    }
  }
  return text;
}

const PARSERS: Readonly<Record<string, (text: string) => unknown>> = {
  toml: parseToml,
  conf: parseToml,
  json: text => JSON.parse(text),
  yaml: text => parseYamlDocuments(text),
};

function fail(name: string): never {
  throw new Error(`no parser for ${name}`);
}
