// docker-compose.replicas.yml and config/replicas: test/clients/compose-replicas has what the Docker engine makes of them.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { loadConfig } from './load.ts';
import { isTree, type Tree, valueAt } from './tree.ts';

const project = fileURLToPath(new URL('../../', import.meta.url));
const read = (...path: string[]) => readFileSync(join(project, ...path), 'utf8');
const ADVERTISE = 'ENTREPOT_CLUSTER__ADVERTISE';
const folder = mkdtempSync(join(tmpdir(), 'entrepot-compose-'));
afterAll(() => rmSync(folder, { recursive: true }));

const file: unknown = parse(read('docker-compose.replicas.yml'), { merge: true });
const services = new Map(
  Object.entries(treeAt('services')).map(([name, service]) => [name, isTree(service) ? service : {}]),
);
const replicas = [...services].filter(([name]) => name.startsWith('replica'));
const proxy = read('config', 'replicas', 'haproxy.cfg');

function treeAt(...path: string[]): Tree {
  const found = valueAt(file, path);
  if (!isTree(found)) throw new Error(`no ${path.join('.')}`);
  return found;
}

/** The secrets whose files are named. */
function secretsIn(text: string): Set<string> {
  return new Set([...text.matchAll(/\/run\/secrets\/([a-z0-9-]+)/g)].map(([, name = '']) => name));
}

/** The lines of a backend of the proxy, without comments. */
function backend(name: string): string {
  const [, lines] = new RegExp(`^backend ${name}\n((?: {2}.*\n)*)`, 'm').exec(proxy) ?? [];
  return (lines ?? '').replaceAll(/^ *#.*\n/gm, '');
}

function serversOf(name: string): readonly (readonly [string | undefined, string | undefined])[] {
  return [...backend(name).matchAll(/^ {2}server (\S+) (\S+)$/gm)].map(([, server, at]) => [server, at]);
}

describe('docker-compose.replicas.yml', () => {
  it('has three replicas that differ in their address and folder alone', () => {
    expect(replicas.map(([name]) => name)).toEqual(['replica1', 'replica2', 'replica3']);
    const unnamed = replicas.map(([name, service]) => JSON.stringify(service).replaceAll(name, 'NAME'));
    expect(new Set(unnamed).size).toBe(1);
  });

  it('publishes no port but the one of the proxy', () => {
    const published = [...services].filter(([, service]) => 'ports' in service).map(([name]) => name);
    expect(published).toEqual(['proxy']);
    expect(valueAt(file, ['networks', 'stores', 'internal'])).toBe(true);
  });

  it('limits every service, and checks the health of each whose image does not', () => {
    for (const [name, service] of services) {
      expect([name, service]).toMatchObject([
        name,
        {
          read_only: true,
          cap_drop: ['ALL'],
          security_opt: ['no-new-privileges:true'],
          mem_limit: expect.any(String),
          pids_limit: expect.any(Number),
        },
      ]);
      expect([name, 'healthcheck' in service]).toEqual([name, !name.startsWith('replica')]);
    }
  });

  it('has a secret for each file that is read, and no password in it', () => {
    const secrets = [...secretsIn(read('config', 'replicas', 'entrepot.yaml'))].toSorted();
    const files = secrets.map(name => [name, { file: `./secrets/${name}` }] as const);
    expect(treeAt('secrets')).toEqual(Object.fromEntries(files));
    for (const [, service] of replicas) expect(service['secrets']).toEqual(secrets);
    for (const name of ['postgres', 's3']) {
      const { secrets: given, ...service } = services.get(name) ?? {};
      expect([name, secretsIn(JSON.stringify(service))]).toEqual([name, new Set(Object(given))]);
    }
    const postgres = treeAt('services', 'postgres', 'environment');
    expect(postgres['POSTGRES_PASSWORD_FILE']).toBe('/run/secrets/postgres-password');
    expect(read('docker-compose.replicas.yml')).not.toMatch(/PASSWORD:/);
  });

  it('keeps what is stored on volumes, and mounts the files of config/replicas', () => {
    const mounted = Object.fromEntries([...services].map(([name, { volumes }]) => [name, volumes]));
    const configured = './config/replicas/entrepot.yaml:/etc/entrepot/entrepot.yaml:ro';
    expect(mounted).toEqual({
      proxy: ['./config/replicas/haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro'],
      replica1: [configured, 'replica1:/data'],
      replica2: [configured, 'replica2:/data'],
      replica3: [configured, 'replica3:/data'],
      postgres: ['postgres:/var/lib/postgresql/data'],
      s3: ['s3:/data/registry'],
    });
    expect(Object.keys(treeAt('volumes'))).toEqual(['replica1', 'replica2', 'replica3', 'postgres', 's3']);
    for (const [, { environment }] of replicas)
      expect(environment).toMatchObject({ ENTREPOT_CONFIG: '/etc/entrepot/entrepot.yaml' });
  });
});

describe('config/replicas/entrepot.yaml', () => {
  it.each(replicas.map(([name]) => name))('is valid for %s', async name => {
    const secret = join(folder, 'secret');
    writeFileSync(
      secret,
      '[default]\naws_access_key_id = registry\naws_secret_access_key = 0123456789abcdef0123\n',
    );
    const text = read('config', 'replicas', 'entrepot.yaml');
    const copy = join(folder, 'entrepot.yaml');
    writeFileSync(copy, text.replaceAll(/\/run\/secrets\/[a-z0-9-]+/g, secret));
    const advertise = String(valueAt(file, ['services', name, 'environment', ADVERTISE]));
    const config = await loadConfig({ file: copy, env: { [ADVERTISE]: advertise } });
    expect(config.cluster?.advertise).toEqual({ host: name, port: 5003 });
    expect(services.has(config.index.postgres?.host ?? '')).toBe(true);
    expect(services.has(new URL(config.storage.s3?.endpoint ?? '').hostname)).toBe(true);
    expect(config.storage.path).toBe('/data');
    // The folder of the volume of s3.
    expect(config.storage.s3?.bucket).toBe('registry');
  });
});

describe('config/replicas/haproxy.cfg', () => {
  it('sends requests to all replicas, in turn, that are ready', () => {
    expect(serversOf('replicas')).toEqual(replicas.map(([name]) => [name, `${name}:5000`]));
    expect(backend('replicas')).toMatch(/^ {2}balance roundrobin$[^]*^ {2}option httpchk GET \/readyz$/m);
  });

  it('sends them to all that run if none is ready, as without the database', () => {
    expect(proxy).toMatch(/^ {2}use_backend running if \{ nbsrv\(replicas\) eq 0 \}$/m);
    expect(serversOf('running')).toEqual(serversOf('replicas'));
    expect(backend('running').replace('/livez', '/readyz')).toBe(backend('replicas'));
  });
});
