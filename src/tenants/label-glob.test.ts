import { expect, test } from 'vitest';
import { isGlob, LabelGlob } from './label-glob.ts';

test.each([
  ['', '', true],
  ['abc', 'abc', true],
  ['abc', 'ABC', false],
  ['*', '', true],
  ['*', 'anything', true],
  ['a*', 'a', true],
  ['*c', 'abc', true],
  ['a*b*c', 'aXbYc', true],
  ['a*b*c', 'aXYc', false],
  ['**', 'x', true],
  ['?', 'ä', true],
  ['?', '', false],
  ['[a-c]x', 'bx', true],
  ['[a-c]x', 'dx', false],
  ['[^a-c]x', 'dx', true],
  ['[^a-c]x', 'bx', false],
  ['[ab-]', 'a', false],
  ['[a\\-b]', '-', true],
  ['\\*', '*', true],
  ['\\*', 'a', false],
  ['a\\', 'a', false],
  ['[', '[', false],
  ['[]', ']', false],
  ['[]a]', 'a', false],
  ['[a', 'a', false],
  ['[-a]', '-', false],
  ['a', 'ab', false],
  ['ab', 'a', false],
])('%j with %j: %s', (pattern, label, expected) => {
  expect(new LabelGlob(pattern).matches(label)).toBe(expected);
});

test('a pattern that is made to be slow is not', () => {
  expect(new LabelGlob('a*'.repeat(30) + 'b').matches('a'.repeat(2000))).toBe(false);
});

test('a label without special characters is not a glob', () => {
  expect(['abc', '*', '?', '[a]', '\\a'].map(isGlob)).toEqual([false, true, true, true, true]);
});
