import { expect, it } from 'vitest';
import { duplicateMember } from './unique-members.ts';

it.each([
  ['{"layers":[],"layers":[]}', 'layers'],
  ['{"a":{"digest":"x", "Digest" : "y"}}', 'digest'],
  ['{"a":[{"b":1},{"b":1,"c":{},"b":2}]}', 'b'],
  [String.raw`{"layers":[],"l\u0061yers":[]}`, 'layers'],
  ['{"annotations":{"k":"1","k":"2"}}', 'k'],
  [String.raw`{"a":"\"","b":"{\"b\":","b":1}`, 'b'],
  ['{"layers":[{"annotations":{}},{"digest":"x","Digest":"y"}]}', 'digest'],
  ['{"layers":[{"annotations":null},{"digest":"x","Digest":"y"}]}', 'digest'],
  ['{"annotations":[{"digest":"x","Digest":"y"}]}', 'digest'],
  ['{"layers":[],"layer\u017f":[]}', 'layers'],
  [String.raw`{"layers":[],"layer\u017f":[]}`, 'layers'],
  ['{"a":[{"\u212aey":1,"key":2}]}', 'key'],
])('%s has %s twice', (text, name) => {
  expect(duplicateMember(text)).toBe(name);
});

it.each([
  '{}',
  '[]',
  '{"a":"a","b":"a"}',
  '{"a":{"a":1},"b":[{"a":1},{"a":2}]}',
  '{"annotations":{"k":"1","K":"2"}}',
  String.raw`{"a":"\\","b":"\",\"a\":"}`,
])('%s has none', text => {
  expect(duplicateMember(text)).toBeUndefined();
});
