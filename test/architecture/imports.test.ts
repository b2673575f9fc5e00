import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const src = resolve(dirname(fileURLToPath(import.meta.url)), '../../src');

/** The house: what a folder of `src/` may import besides itself. `*` is everything. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  lib: [],
  oci: ['lib'],
  config: ['oci', 'lib'],
  ops: ['lib'],
  blobs: ['oci', 'lib'],
  metadata: ['oci', 'lib'],
  tenants: ['oci', 'lib'],
  upstream: ['oci', 'lib'],
  grants: ['tenants', 'metadata', 'oci', 'lib'],
  access: ['grants', 'tenants', 'metadata', 'oci', 'lib'],
  mirror: ['grants', 'upstream', 'blobs', 'metadata', 'oci', 'lib'],
  hosted: ['blobs', 'metadata', 'oci', 'lib'],
  upkeep: ['blobs', 'metadata', 'oci', 'lib'],
  archive: ['blobs', 'metadata', 'oci', 'lib'],
  prepull: ['metadata', 'oci', 'lib'],
  events: ['upstream', 'metadata', 'oci', 'lib'],
  http: [
    'access',
    'mirror',
    'hosted',
    'upkeep',
    'archive',
    'upstream',
    'blobs',
    'metadata',
    'tenants',
    'oci',
    'lib',
    'ops',
  ],
  admin: [
    'http',
    'config',
    'access',
    'mirror',
    'hosted',
    'upkeep',
    'prepull',
    'events',
    'tenants',
    'upstream',
    'blobs',
    'metadata',
    'oci',
    'lib',
    'ops',
  ],
  replicas: ['http', 'mirror', 'hosted', 'metadata', 'oci', 'lib'],
  // A leaf, which runs in a browser: types only, see below.
  ui: ['admin'],
  compose: ['*'],
  cli: ['*'],
  '': ['*'],
};

/** Packages that more than one file may import, because they are the folder's subject. */
const SHARED_PACKAGES: Readonly<Record<string, string>> = {
  koa: 'http',
  '@koa/router': 'http',
  preact: 'ui',
  '@preact/signals': 'ui',
};

/** What implements a contract, and who may name it besides its own folder. */
const IMPLEMENTATIONS: readonly { readonly of: RegExp; readonly namedBy: readonly string[] }[] = [
  // A backup is a copy of files.
  {
    of: /^(?:blobs\/(?:file-|s3\/)|metadata\/(?:sqlite|postgres))/,
    namedBy: [
      'compose/indexes.ts',
      'compose/postgres.ts',
      'compose/storage.ts',
      'compose/s3.ts',
      'compose/survey-worker.ts',
      'cli/backup.ts',
      'cli/restore.ts',
      'archive/backup.ts',
    ],
  },
];

/** Contracts that an object store, or a database elsewhere, must be able to keep. */
const CONTRACTS = [
  'blobs/blob-store.ts',
  'blobs/spool.ts',
  'lib/lease.ts',
  'metadata/metadata-store.ts',
  'metadata/survey.ts',
  'upkeep/stores.ts',
];

/** What a file exports under a name of its own. */
const EXPORTED =
  /^export (?:async )?(?:abstract )?(?:interface|type|class|function\*?|const|let|enum) (\w+)/gm;

interface Import {
  readonly file: string;
  readonly target: string;
}

const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter(name => /\.tsx?$/.test(name));
const production = files.filter(name => !/\.(test|suite|fixture)\.ts$/.test(name));
const imports = production.flatMap(importsOf);

function importsOf(file: string): Import[] {
  const text = readFileSync(join(src, file), 'utf8');
  const found = text.matchAll(
    /^\s*(?:import|export)\b[^'"`;]*?from\s*'([^']+)'|^\s*import\s*'([^']+)'|\bimport\(\s*'([^']+)'\s*\)/gm,
  );
  return [...found].map(match => ({ file, target: match[1] ?? match[2] ?? match[3] ?? '' }));
}

function folderOf(file: string): string {
  return file.includes(sep) ? (file.split(sep)[0] ?? '') : '';
}

describe('the source tree', () => {
  it('is read completely: every source file but the leaves imports something', () => {
    expect(production.length).toBeGreaterThan(50);
    expect(new Set(imports.map(({ file }) => file)).size).toBeGreaterThan(production.length * 0.7);
  });

  it('has only the known folders', () => {
    expect([...new Set(files.map(folderOf))].filter(folder => !(folder in MAY_IMPORT))).toEqual([]);
  });

  it('imports in one direction', () => {
    const wrong = imports
      .filter(({ target }) => target.startsWith('.'))
      .map(({ file, target }) => ({ file, to: relative(src, resolve(src, dirname(file), target)) }))
      .filter(({ file, to }) => {
        const from = folderOf(file);
        const allowed = MAY_IMPORT[from] ?? [];
        return folderOf(to) !== from && !allowed.includes('*') && !allowed.includes(folderOf(to));
      });
    expect(wrong.map(({ file, to }) => `${file} -> ${to}`)).toEqual([]);
  });

  it('shares only types with the page, which runs in a browser and has a look of its own', () => {
    const page = production.filter(file => folderOf(file) === 'ui');
    expect(page.length).toBeGreaterThan(15);
    const statements = page.flatMap(file =>
      [...readFileSync(join(src, file), 'utf8').matchAll(/^import\b[^;]*?from '(\.[^']+)'/gm)].map(
        ([text, target = '']) => ({ text, to: relative(src, resolve(src, dirname(file), target)) }),
      ),
    );
    const ofOthers = statements.filter(({ to }) => folderOf(to) !== 'ui');
    expect(ofOthers.length).toBeGreaterThan(10);
    expect(ofOthers.filter(({ text }) => !text.startsWith('import type '))).toEqual([]);
    const users = imports.filter(
      ({ file, target }) =>
        folderOf(file) !== 'ui' && relative(src, resolve(src, dirname(file), target)).startsWith('ui/'),
    );
    expect(users).toEqual([]);
  });

  it('has no circle of files, not even of types', () => {
    const targets = new Map<string, string[]>(production.map(file => [file, []]));
    for (const { file, target } of imports.filter(({ target: to }) => to.startsWith('.'))) {
      targets.get(file)?.push(relative(src, resolve(src, dirname(file), target)));
    }
    const done = new Set<string>();
    const circleFrom = (file: string, way: readonly string[]): readonly string[] | undefined => {
      if (way.includes(file)) return [...way.slice(way.indexOf(file)), file];
      if (done.has(file)) return undefined;
      for (const to of targets.get(file) ?? []) {
        const circle = circleFrom(to, [...way, file]);
        if (circle !== undefined) return circle;
      }
      done.add(file);
      return undefined;
    };
    expect(production.map(file => circleFrom(file, [])?.join(' -> ')).filter(Boolean)).toEqual([]);
  });

  it('names the implementations of a store only in the composition root', () => {
    const named = imports
      .filter(({ target }) => target.startsWith('.'))
      .map(({ file, target }) => ({ file, to: relative(src, resolve(src, dirname(file), target)) }));
    for (const { of, namedBy } of IMPLEMENTATIONS) {
      const users = named.filter(({ file, to }) => of.test(to) && folderOf(file) !== folderOf(to));
      expect([...new Set(users.map(({ file }) => file))].sort()).toEqual([...namedBy].sort());
    }
  });

  it('has no path in a contract', () => {
    for (const contract of CONTRACTS) {
      const code = readFileSync(join(src, contract), 'utf8').replaceAll(/\/\*[\s\S]*?\*\/|\/\/.*/g, '');
      expect(code).toContain('export interface');
      const names = [...code.replaceAll(/^import .*$/gm, '').matchAll(/\w*(?:path|folder|inode)\w*/gi)];
      expect(names.map(([name]) => `${contract}: ${name}`)).toEqual([]);
    }
  });

  it('has no two exported things of one name', () => {
    const places = new Map<string, string[]>();
    for (const file of production) {
      const text = readFileSync(join(src, file), 'utf8');
      for (const [, name = ''] of text.matchAll(EXPORTED)) {
        places.set(name, [...new Set([...(places.get(name) ?? []), file])]);
      }
    }
    expect(places.size).toBeGreaterThan(500);
    // Two implementations of one contract consist of the same nouns.
    const isTwin = ([one, other, ...rest]: readonly string[]) =>
      rest.length === 0 &&
      one?.startsWith('metadata/postgres/') === true &&
      other?.startsWith('metadata/sqlite/') === true;
    expect([...places].filter(([, named]) => named.length > 1 && !isTwin(named.toSorted()))).toEqual([]);
  });

  it('imports each third-party package in one file', () => {
    const users = new Map<string, Set<string>>();
    for (const { file, target } of imports) {
      if (!target.startsWith('.') && !target.startsWith('node:')) {
        const name = target
          .split('/')
          .slice(0, target.startsWith('@') ? 2 : 1)
          .join('/');
        users.set(name, (users.get(name) ?? new Set()).add(file));
      }
    }
    const spread = [...users]
      .filter(([name, by]) => {
        const folder = SHARED_PACKAGES[name];
        return folder === undefined ? by.size > 1 : [...by].some(file => folderOf(file) !== folder);
      })
      .map(([name, by]) => `${name}: ${[...by].sort().join(', ')}`);
    expect(spread).toEqual([]);
    expect(users.size).toBeGreaterThan(3);
  });

  it('reads the environment only in config/ and the starter', () => {
    const readers = production.filter(
      file => folderOf(file) !== 'config' && /process\.env\b/.test(readFileSync(join(src, file), 'utf8')),
    );
    expect(readers).toEqual(['entrepot.ts']);
  });

  it('has no barrels', () => {
    expect(files.filter(file => basename(file) === 'index.ts')).toEqual([]);
  });
});
