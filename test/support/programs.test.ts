import { fork } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { freePort, hasPrograms, until } from './programs.ts';

const TESTS = fileURLToPath(new URL('./programs.fixture.ts', import.meta.url));

describe.skipIf(!hasPrograms('setpriv'))('a daemon', () => {
  test('does not outlive the tests that started it, even if they are killed', async () => {
    const tests = fork(TESTS, { execArgv: ['--import', 'tsx'] });
    const pid = await new Promise<unknown>(resolve => tests.once('message', resolve));
    expect(existsSync(`/proc/${String(pid)}`)).toBe(true);
    tests.kill('SIGKILL');
    await until('the daemon to end', 10_000, async () => !existsSync(`/proc/${String(pid)}`));
  });
});

test('a free port is never one that the kernel uses for outgoing connections', async () => {
  const range = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8');
  expect(await freePort()).toBeLessThan(Number.parseInt(range, 10));
});
