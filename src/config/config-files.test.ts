import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { withOptions } from '../../test/docs/options.ts';
import { parseYaml } from '../lib/yaml.ts';
import { environmentVariables } from './environment.ts';
import { loadConfig } from './load.ts';
import { fileJsonSchema, type JsonSchema } from './schema.ts';
import { valueAt } from './tree.ts';

const config = fileURLToPath(new URL('../../config/', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'entrepot-example-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('config/entrepot.schema.json', () => {
  it('is generated from the schema (npm run schema)', () => {
    expect(JSON.parse(readFileSync(join(config, 'entrepot.schema.json'), 'utf8'))).toEqual(fileJsonSchema());
  });

  it('describes every option', () => {
    const bare = optionPaths(fileJsonSchema()).filter(({ schema }) => schema.description === undefined);
    expect(bare.map(({ path }) => path.join('.'))).toEqual([]);
  });
});

describe('docs/configuration.md', () => {
  it('has the tables that are generated from the schema (npm run schema)', () => {
    const page = readFileSync(new URL('../../docs/configuration.md', import.meta.url), 'utf8');
    expect(page).toBe(withOptions(page));
  });
});

describe('config/entrepot.yaml', () => {
  const text = readFileSync(join(config, 'entrepot.yaml'), 'utf8');

  it('is valid, except for missing example files and two examples that exclude each other', async () => {
    const password = join(folder, 'password');
    writeFileSync(password, 'x');
    copyFileSync(new URL('../../test/support/tls/ca.pem', import.meta.url), join(folder, 'ca.pem'));
    const file = join(folder, 'entrepot.yaml');
    writeFileSync(
      file,
      text
        .replace(/\/run\/secrets\/(registry-example|entrepot-ops)/g, password)
        .replace(/^defaultUpstream:.*$/m, ''),
    );
    const { upstreams } = await loadConfig({ file, env: {} });
    expect(upstreams.get('registry.example:5000')?.url).toBe('https://registry.example:5000');
  });

  it('has every option', () => {
    const { value } = parseYaml(text);
    const missing = optionPaths(fileJsonSchema())
      .map(({ path }) => path)
      .filter(path => path.length > 0 && valueAt(value, path) === undefined)
      .map(path => path.join('.'));
    // They exclude others, and are named in comments.
    expect(missing.filter(path => !path.startsWith('cluster.tls'))).toEqual([
      'index.postgres.url',
      'index.postgres.passwordEnv',
    ]);
    expect(text).toMatch(/# .*url: postgresql:/);
    expect(text).toMatch(/# .*passwordEnv/);
  });

  it('is valid with certificates of replicas in place of their key', async () => {
    const file = join(folder, 'certificates.yaml');
    const [, tls] = /^ {2}# tls: (.*)$/m.exec(text) ?? [];
    const cluster = `{listen: "0.0.0.0:5003", advertise: "10.0.7.12:5003", tls: ${tls}}`;
    const shared = 'index: {postgres: {host: h}}\nstorage: {s3: {bucket: registry}}';
    writeFileSync(file, `cluster: ${cluster}\n${shared}`);
    const { cluster: parsed } = await loadConfig({ file, env: {} });
    expect(parsed?.tls).toEqual({
      certFile: join(folder, 'replica.crt'),
      keyFile: join(folder, 'replica.key'),
      caFile: join(folder, 'replicas-ca.crt'),
    });
  });
});

describe('the other files in config/', () => {
  const others = readdirSync(config).filter(name => name.endsWith('.yaml') && name !== 'entrepot.yaml');

  it.each(others)('%s is valid', async name => {
    await expect(loadConfig({ file: join(config, name), env: {} })).resolves.toBeDefined();
  });
});

describe('environment variables', () => {
  it('have one name for each option with a fixed place', () => {
    const variables = environmentVariables(fileJsonSchema());
    expect(variables.get('ENTREPOT_SERVER__OPS_LISTEN')).toEqual(['server', 'opsListen']);
    expect(variables.get('ENTREPOT_DEFAULT_UPSTREAM')).toEqual(['defaultUpstream']);
    expect(variables.get('ENTREPOT_PULLS__MAX_PARALLEL_IMAGE_PULLS')).toEqual([
      'pulls',
      'maxParallelImagePulls',
    ]);
    expect(new Set([...variables.values()].map(path => path.join('.'))).size).toBe(variables.size);
  });
});

/** Every fixed key, and those of docker.io for an upstream's. */
function optionPaths(
  schema: JsonSchema,
  path: readonly string[] = [],
): { path: readonly string[]; schema: JsonSchema }[] {
  const own = Object.entries(schema.properties ?? {}).flatMap(([key, child]) => [
    { path: [...path, key], schema: child },
    ...optionPaths(child, [...path, key]),
  ]);
  const { additionalProperties } = schema;
  const upstream = typeof additionalProperties === 'object' ? additionalProperties.anyOf?.[0] : undefined;
  const under = upstream === undefined ? [] : optionPaths(upstream, [...path, 'docker.io']);
  // Its credentials are shown on another upstream, as few have any for Docker Hub.
  return [...own, ...under.filter(({ path: at }) => !at.includes('credentials'))];
}
