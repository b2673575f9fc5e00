import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { BINDINGS, DRIVEN_ALONE, NOT_OURS } from './bindings.ts';

// Facts about how Kubernetes and containerd behave, gathered from their sources. Every JSON file in this folder is run.

interface VectorFile {
  /** `name/version`. */
  readonly schema: string;
  readonly vectors: readonly { readonly id: string; readonly op?: string; readonly note?: string }[];
}

const folder = import.meta.dirname;
const files = readdirSync(folder).filter(name => name.endsWith('.json'));
const met = new Set<string>();

function nameOf(schema: string, op: string | undefined): string {
  const name = schema.replace(/\/\d+$/, '');
  return op === undefined ? name : `${name}/${op}`;
}

for (const file of files) {
  describe(`the vectors of ${file}`, () => {
    const { schema, vectors }: VectorFile = JSON.parse(readFileSync(`${folder}/${file}`, 'utf8'));

    test('contains vectors, each bound or listed as not ours', () => {
      const names = new Set(vectors.map(({ op }) => nameOf(schema, op)));
      expect(names.size).toBeGreaterThan(0);
      for (const name of names) expect(Object.keys({ ...BINDINGS, ...NOT_OURS })).toContain(name);
    });

    for (const vector of vectors) {
      const name = nameOf(schema, vector.op);
      met.add(name);
      const check = BINDINGS[name];
      if (check === undefined) continue;
      // oxlint-disable-next-line vitest/expect-expect -- what is bound asserts
      test(`${name} ${vector.id}: ${vector.note ?? ''}`, () => check(vector));
    }
  });
}

test('every bound or excluded schema and operation occurs', () => {
  expect([...met].toSorted()).toEqual(
    expect.arrayContaining(Object.keys({ ...BINDINGS, ...NOT_OURS }).toSorted()),
  );
});

test('what is not ours has a reason, and is not bound', () => {
  for (const [name, reason] of Object.entries(NOT_OURS)) {
    expect(`${name}: ${reason}`).toMatch(/^[^:]+: .{30}/);
    expect(Object.keys(BINDINGS)).not.toContain(name);
  }
});

test('the functions under test are those that the product calls', () => {
  const driven = drivenFunctions();
  expect(driven).toEqual(
    expect.arrayContaining(['mustAttemptImagePull', 'pullLimitProblems', 'freshnessOf']),
  );
  const uncalled = driven.filter(name => !production.some(text => isCalledIn(text, name)));
  expect(uncalled.toSorted()).toEqual(Object.keys(DRIVEN_ALONE).toSorted());
});

const source = join(folder, '../../src');
const production = readdirSync(source, { recursive: true, encoding: 'utf8' })
  .filter(name => /(?<!\.(?:test|suite))\.ts$/.test(name))
  .map(name => readFileSync(join(source, name), 'utf8'));

/** The names of our functions in the bindings: those of the modules that it takes whole, and those that it names. */
function drivenFunctions(): string[] {
  const text = readFileSync(join(folder, 'bindings.ts'), 'utf8');
  const modules = [...text.matchAll(/^import \* as (\w+) from '\.\.\/\.\.\/src/gm)].map(([, name]) => name);
  const members = [...text.matchAll(new RegExp(`\\b(?:${modules.join('|')})\\.(?!ts\\b)([a-z]\\w*)`, 'g'))];
  const named = [...text.matchAll(/^import \{ ([a-z]\w*) \} from '\.\.\/\.\.\/src/gm)];
  return [...new Set([...members, ...named].map(([, name]) => name ?? ''))];
}

/** Used anywhere but where it is made, imported or spoken of. */
function isCalledIn(text: string, name: string): boolean {
  const code = text.replaceAll(/^import [^;]*;|^ *(?:\*|\/[/*]).*$|\bfunction \w+/gm, '');
  return new RegExp(`(?<!\\w|[\\w)\\]?]\\.)${name}\\b(?!\\??:)`).test(code);
}
