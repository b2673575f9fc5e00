import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';
import { hasPrograms } from '../../test/support/programs.ts';
import { runProgram } from './program.ts';

async function run(...argv: string[]): Promise<string> {
  let out = '';
  await runProgram(argv, { out: text => (out += text), err: () => {} });
  return out;
}

/** What bash offers behind each of these command lines, whose last word is the one that is being typed. */
async function offered(lines: readonly (readonly string[])[]): Promise<string[][]> {
  const ask = lines.map(
    words => `COMP_WORDS=(entrepot ${words.map(word => `'${word}'`).join(' ')}) COMP_CWORD=${words.length}
      COMPREPLY=() && _entrepot && echo "\${COMPREPLY[*]}"`,
  );
  const script = [await run('completion', 'bash'), 'IFS=" "', ...ask].join('\n');
  const out = execFileSync('bash', ['--norc', '--noprofile', '-s'], { input: script, encoding: 'utf8' });
  return out
    .trimEnd()
    .split('\n')
    .map(line => line.split(' '));
}

/** The first words of the lines under a heading of a help. */
function listed(help: string, heading: string, pattern: RegExp): string[] {
  const [, after = ''] = help.split(`${heading}:\n`);
  const [lines = ''] = after.split('\n\n');
  return [...lines.matchAll(pattern)].flatMap(([, ...words]) => words.filter(word => word !== undefined));
}

it.skipIf(!hasPrograms('bash'))('bash completes for every command what its help lists', async () => {
  const groups: string[][] = [[]];
  const all: string[][] = [[]];
  for (const path of groups) {
    const names = listed(await run(...path, '--help'), 'Commands', /^ {2}([a-z-]+)/gm);
    for (const name of names.filter(each => each !== 'help')) {
      all.push([...path, name]);
      if ((await run(...path, name, '--help')).includes('\nCommands:\n')) groups.push([...path, name]);
    }
    expect(await offered([[...path, '']])).toEqual([names]);
  }
  expect(all.length).toBeGreaterThan(30);
  const found = await offered(all.map(path => [...path, '-']));
  for (const [at, path] of all.entries()) {
    const help = await run(...path, '--help');
    const options = listed(help, 'Options', /^ {2}(?:(-[a-z]), )?(--[a-z-]+)/gm);
    expect({ path, options: found[at]?.toSorted() }).toEqual({ path, options: options.toSorted() });
  }
});
