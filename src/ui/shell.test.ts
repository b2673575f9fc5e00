import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';
import { shellWord } from './shell.ts';

const HOSTILE = [
  '$(id)',
  '`id`',
  "'; id; '",
  'a b',
  'a;id',
  '*',
  '~',
  '!!',
  '#',
  'a\\',
  '"',
  '',
  '\u{1F600}',
];

it('a word of a command is the text itself to a shell, whatever is in it', () => {
  for (const text of HOSTILE) {
    expect(execFileSync('sh', ['-c', `printf %s ${shellWord(text)}`], { encoding: 'utf8' })).toBe(text);
  }
});

it('a name that is nothing special to a shell stays as people write it', () => {
  for (const name of [
    'docker.io/library/nginx:1.27',
    `a/b@sha256:${'0'.repeat(64)}`,
    '[::1]:5000'.slice(1, 4),
  ])
    expect(shellWord(name)).toBe(name);
});

it('nothing is left of what a terminal would take for a key, or would not show', () => {
  expect(shellWord('a\u0003\r\nid\u001b[A\u202e')).toBe("'aid[A'");
});
