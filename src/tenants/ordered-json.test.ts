import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { SEED } from '../../test/support/chance.ts';
import { InvalidJson, JsonMembers, MAX_DEPTH, type OrderedJson, parseOrderedJson } from './ordered-json.ts';

function toPlain(value: OrderedJson): unknown {
  if (value instanceof JsonMembers) {
    return Object.fromEntries(value.entries.map(([name, member]) => [name, toPlain(member)]));
  }
  return Array.isArray(value) ? value.map(toPlain) : value;
}

test('JSON that JSON.parse accepts gives the same values', () => {
  const letters = fc.string({ maxLength: 8 });
  const documents = fc.letrec(tie => ({
    value: fc.oneof(
      { maxDepth: 3 },
      fc.constantFrom(null, true, false, 0, -1, 1.5e300, 2e-7),
      letters,
      fc.array(tie('value'), { maxLength: 4 }),
      fc.dictionary(letters, tie('value'), { maxKeys: 4, noNullPrototype: true }),
    ),
  })).value;
  const blanks = fc.constantFrom(undefined, 1, '\t');
  fc.assert(
    fc.property(documents, blanks, (document, blank) => {
      const text = JSON.stringify(document, undefined, blank);
      return JSON.stringify(toPlain(parseOrderedJson(text))) === JSON.stringify(JSON.parse(text));
    }),
    { seed: SEED },
  );
  expect(toPlain(parseOrderedJson(' {"a" : [ 1 , "\\u00e4" ] } '))).toEqual({ a: [1, 'ä'] });
});

test('duplicates are kept, in order', () => {
  const value = parseOrderedJson(' {"b":1,"a":2,"b":null} ');
  expect(value instanceof JsonMembers && value.entries).toEqual([
    ['b', 1],
    ['a', 2],
    ['b', null],
  ]);
});

test('a lone surrogate becomes the replacement character', () => {
  expect(parseOrderedJson('"a\\ud800b"')).toBe('a\ufffdb');
  expect(parseOrderedJson('"\\ud83d\\ude00"')).toBe('😀');
});

test.each([
  '',
  ' ',
  '\ufeff{}',
  '{} x',
  '{"a":1,}',
  '[1,]',
  '{a:1}',
  "{'a':1}",
  '{"a" 1}',
  '"a',
  '"\\',
  '"\\x"',
  '"\\u12"',
  '"a\nb"',
  '01',
  '+1',
  '.5',
  '1.',
  'nul',
  'NaN',
  '[',
  '{"a"',
])('%j is not JSON', text => {
  expect(() => parseOrderedJson(text)).toThrow(InvalidJson);
});

test('depth is limited, and length needs no stack', () => {
  expect(() => parseOrderedJson('['.repeat(MAX_DEPTH + 2))).toThrow(InvalidJson);
  expect(() => parseOrderedJson('['.repeat(1_000_000))).toThrow(InvalidJson);
  expect(parseOrderedJson(JSON.stringify('\n'.repeat(1_000_000)))).toHaveLength(1_000_000);
});

test('an error gives the position, and nothing of the text', () => {
  expect(() => parseOrderedJson('{"password":"hunter2"')).toThrow('invalid JSON at character 21');
});
