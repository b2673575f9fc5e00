import { expect, test } from 'vitest';
import { parseImageLocation } from './image-pattern.ts';

test.each([
  ['reg.example', { host: 'reg.example', path: '' }],
  ['reg.example:5000/team/app', { host: 'reg.example:5000', path: '/team/app' }],
  ['user:pass@reg.example/x', { host: 'reg.example', path: '/x' }],
  ['a@b@reg.example', { host: 'reg.example', path: '' }],
  ['reg.example/a%20b?query#fragment', { host: 'reg.example', path: '/a b' }],
  ['[::1]:5000/x', { host: '[::1]:5000', path: '/x' }],
  ['reg.example:', { host: 'reg.example:', path: '' }],
  ['bücher.example', { host: 'bücher.example', path: '' }],
  ['b%C3%BCcher.example', { host: 'bücher.example', path: '' }],
  ['', { host: '', path: '' }],
])('%j points at a host and a path', (text, expected) => {
  expect(parseImageLocation(text)).toEqual(expected);
});

test.each([
  ['an escape that is none', 'reg.example/%zz'],
  ['an escape at the end', 'reg.example/%4'],
  ['an escaped letter in the host', 'r%65g.example'],
  ['a space in the host', 'reg example'],
  ['a backslash in the host', 'reg\\.example'],
  ['a port that is no number', 'reg.example:port/x'],
  ['a bracket that stays open', '[::1/x'],
  ['something behind the bracket', '[::1]x'],
  ['a control character', 'reg.example/\n'],
  ['a delete character', 'reg.example/\u007f'],
  ['user info that Go refuses', 'a b@reg.example'],
  ['a bad escape in the fragment', 'reg.example#%'],
])('%s cannot be parsed', (_what, text) => {
  expect(parseImageLocation(text)).toBeUndefined();
});
