// The completions of real shells, each asked in its own way.
import { spawn } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { STARTER } from '../support/entrepot.ts';
import { hasPrograms, run, until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

let folder: string;

beforeAll(async () => {
  folder = await makeTempFolder('shells');
  for (const shell of ['bash', 'zsh', 'fish']) {
    await writeFile(
      join(folder, `script.${shell}`),
      await run(process.execPath, [...STARTER, 'completion', shell]),
    );
  }
  for (const file of ['one.tar', 'other.tar']) await writeFile(join(folder, file), '');
});

afterAll(() => removeFolder(folder));

/** Command lines, up to the cursor, with what completes them. */
const LINES: readonly (readonly [line: string, offered: readonly string[]])[] = [
  ['entrepot im', ['images', 'import']],
  ['entrepot hosts ', ['containerd', 'crio', 'docker', 'k3s', 'stargz']],
  ['entrepot tenant a', ['add', 'adopt']],
  ['entrepot tenant remove --d', ['--dry-run']],
  ['entrepot help tenant r', ['remove', 'revoke', 'rotate']],
  ['entrepot import o', ['one.tar', 'other.tar']],
  ['entrepot images --config o', ['one.tar', 'other.tar']],
  ['entrepot export nginx --output=o', ['one.tar', 'other.tar']],
  ['entrepot pull --from one.tar --max', ['--max-parallel']],
];

describe.skipIf(!hasPrograms('zsh'))('zsh', () => {
  // A terminal of zsh's own, in which compadd says what it would offer.
  const RC = `
PROMPT=READY
unset zle_bracketed_paste
autoload -Uz compinit && compinit -u -D
cd "$FOLDER" && source ./script.zsh
compadd() {
  if [[ \${@[1,(i)(-|--)]} == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return; fi
  local -a hits
  builtin compadd -A hits "$@"
  (( $#hits )) && print -lr -- '<'$^hits'>'
}
finish() { print DONE; exit }
comppostfuncs=(finish)
bindkey '^I' complete-word
`;
  const ASK = `
zmodload zsh/zpty
zpty terminal zsh -i
zpty -r -m terminal shown '*READY*'
zpty -n -w terminal "$1"$'\\t'
zpty -r -m terminal shown '*DONE*'
print -r -- $shown
`;

  it.each(LINES)('%s', async (line, offered) => {
    const home = join(folder, 'home');
    await mkdir(home, { recursive: true });
    await writeFile(join(home, '.zshrc'), RC);
    const env = { ZDOTDIR: home, FOLDER: folder, TERM: 'dumb' };
    const shown = await run('zsh', ['-f', '-c', ASK, 'zsh', line], { env, timeoutMs: 60_000 });
    const words = new Set([...shown.matchAll(/<([^<>]+)>/g)].map(([, word = '']) => word));
    expect([...words].toSorted()).toEqual(offered);
  });
});

describe.skipIf(!hasPrograms('fish'))('fish', () => {
  it.each(LINES)('%s', async (line, offered) => {
    const ask = ['--no-config', '--command', 'source script.fish; complete -C $argv[1]', line];
    const env = { HOME: folder, XDG_CONFIG_HOME: folder };
    const shown = await run('fish', ask, { cwd: folder, env });
    const words = shown
      .split('\n')
      .flatMap(word => word.split('\t', 1))
      .filter(word => word !== '');
    expect(words.map(word => word.replace(/^--output=/, '')).toSorted()).toEqual(offered);
  });
});

describe.skipIf(!hasPrograms('bash', 'script'))('bash', () => {
  it.each(LINES)('%s', async (line, offered) => {
    const rc = `
PS1=READY
bind 'set enable-bracketed-paste off'
bind 'set show-all-if-ambiguous on'
cd '${folder}' && source ./script.bash
`;
    await writeFile(join(folder, 'bashrc'), rc);
    const command = `bash --noprofile --rcfile '${join(folder, 'bashrc')}' -i`;
    const shell = spawn('script', ['--quiet', '--command', command, '/dev/null'], {
      env: { ...process.env, TERM: 'dumb' },
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    let shown = '';
    shell.stdout.on('data', (chunk: Buffer) => (shown += chunk.toString()));
    try {
      await until('a prompt', 30_000, async () => shown.includes('READY'));
      shell.stdin.write(`${line}\t`);
      const [typed = ''] = line.split(/[ =]/).slice(-1);
      // The only one is written behind what was typed, several are listed.
      const wanted = offered.length === 1 ? offered.map(word => word.slice(typed.length)) : offered;
      await until(`${wanted.join()} behind ${line}`, 30_000, async () => {
        const behind = shown.slice(
          shown.lastIndexOf('READY', shown.indexOf(line)) + 'READY'.length + line.length,
        );
        return wanted.every(word => behind.includes(word));
      });
      expect(shown).not.toContain('command not found');
    } finally {
      shell.kill('SIGKILL');
    }
  });
});
