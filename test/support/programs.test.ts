import { fork } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { hasPrograms, until } from './programs.ts';

const TESTS = fileURLToPath(new URL('./programs.fixture.ts', import.meta.url));

describe.skipIf(!hasPrograms('setpriv'))('a daemon', () => {
  test('does not outlive the tests that started it, even where they are killed', async () => {
    const tests = fork(TESTS, { execArgv: ['--import', 'tsx'] });
    const pid = await new Promise<unknown>(resolve => tests.once('message', resolve));
    expect(existsSync(`/proc/${String(pid)}`)).toBe(true);
    tests.kill('SIGKILL');
    await until('the daemon to end', 10_000, async () => !existsSync(`/proc/${String(pid)}`));
  });
});
