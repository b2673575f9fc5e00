// The completion of bash, printed by the built program and asked as bash asks it.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { STARTER } from '../support/entrepot.ts';
import { hasPrograms, run, tryRun } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const ASK = `
source "$1"; shift
complete -p entrepot >/dev/null || exit 3
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
_entrepot
printf '%s\\n' "\${COMPREPLY[@]}"
`;

let folder: string;

beforeAll(async () => {
  folder = await makeTempFolder('completion');
  await writeFile(
    join(folder, 'completion.bash'),
    await run(process.execPath, [...STARTER, 'completion', 'bash']),
  );
  for (const file of ['one.tar', 'other.tar', 'a b.yaml']) await writeFile(join(folder, file), '');
});

afterAll(() => removeFolder(folder));

/** What bash offers for the last of these words. */
async function offered(...words: string[]): Promise<string[]> {
  const args = ['--norc', '--noprofile', '-c', ASK, 'bash', join(folder, 'completion.bash')];
  const out = await run('bash', [...args, 'entrepot', ...words], { cwd: folder });
  return out
    .split('\n')
    .filter(line => line !== '')
    .toSorted();
}

describe.skipIf(!hasPrograms('bash'))('bash', () => {
  it('completes commands, those of groups, and arguments of help', async () => {
    expect(await offered('im')).toEqual(['images', 'import']);
    expect(await offered('tenant', 'a')).toEqual(['add', 'adopt']);
    expect(await offered('help', 'tenant', 'r')).toEqual(['remove', 'revoke', 'rotate']);
    expect(await offered('images', '')).toEqual([]);
  });

  it('completes options of the command only, and choices of an argument', async () => {
    expect(await offered('gc', '--')).toEqual(expect.arrayContaining(['--dry-run', '--grace-period']));
    expect(await offered('gc', '--')).not.toContain('--output');
    expect(await offered('pull', '--from', 'one.tar', '--max')).toEqual(['--max-parallel']);
    expect(await offered('hosts', '--no-fallback', 'c')).toEqual(['containerd', 'crio']);
    expect(await offered('completion', '')).toEqual(['bash', 'fish', 'zsh']);
  });

  it('completes files where a file is expected, after a space or an equals sign, and nothing where another value is', async () => {
    expect(await offered('import', 'o')).toEqual(['one.tar', 'other.tar']);
    expect(await offered('export', 'nginx', '-o', 'o')).toEqual(['one.tar', 'other.tar']);
    expect(await offered('pull', '--from', 'one.tar', 'o')).toEqual(['one.tar', 'other.tar']);
    expect(await offered('images', '--config', '=', 'a')).toEqual(['a b.yaml']);
    expect(await offered('images', '--config', '=')).toEqual([
      'a b.yaml',
      'completion.bash',
      'one.tar',
      'other.tar',
    ]);
    expect(await offered('scrub', '--rate', '')).toEqual([]);
    expect(await offered('hosts', '--upstream', 'a', 'c')).toEqual([]);
    // The value of an option is no command.
    expect(await offered('explain', '--tenant', 'tenant', '-')).toContain('--tenant');
  });
});

it('refuses an unknown shell', async () => {
  const { code, stderr } = await tryRun(process.execPath, [...STARTER, 'completion', 'tcsh']);
  expect([code, stderr]).toEqual([2, expect.stringContaining('bash, zsh, fish')]);
});
