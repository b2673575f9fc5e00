import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { BINDINGS, NOT_OURS } from './bindings.ts';

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

    test('holds vectors, each bound or listed as not ours', () => {
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

test('every schema and operation that is bound, or listed as not ours, was met', () => {
  expect([...met].toSorted()).toEqual(
    expect.arrayContaining(Object.keys({ ...BINDINGS, ...NOT_OURS }).toSorted()),
  );
});

test('what is not ours says why, and is not bound', () => {
  for (const [name, reason] of Object.entries(NOT_OURS)) {
    expect(`${name}: ${reason}`).toMatch(/^[^:]+: .{30}/);
    expect(Object.keys(BINDINGS)).not.toContain(name);
  }
});
