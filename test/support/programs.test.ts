import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { freePort, hasPrograms, until } from './programs.ts';

const TESTS = fileURLToPath(new URL('./programs.fixture.ts', import.meta.url));

describe.skipIf(!hasPrograms('setpriv'))('a daemon', () => {
  test('does not outlive the tests that started it, even if they are killed', async () => {
    const { tests, message: pid } = await told('daemon');
    expect(existsSync(`/proc/${String(pid)}`)).toBe(true);
    tests.kill('SIGKILL');
    await until('the daemon to end', 10_000, async () => !existsSync(`/proc/${String(pid)}`));
  });
});

/** What the fixture tells first when it is run with these arguments, and the process, which stays. */
async function told(...args: string[]): Promise<{ readonly tests: ChildProcess; readonly message: unknown }> {
  const tests = fork(TESTS, args, { execArgv: ['--import', 'tsx'] });
  const [message] = await once(tests, 'message');
  return { tests, message };
}

test('a free port is given to one alone, of those that ask at the same moment and in other processes', async () => {
  const here = Promise.all(Array.from({ length: 300 }, () => freePort()));
  const { tests, message } = await told('300');
  const ports = [...(await here), ...(message as number[])];
  tests.kill('SIGKILL');
  expect(new Set(ports).size).toBe(600);
});

test('a free port is never one that the kernel uses for outgoing connections', async () => {
  const range = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8');
  expect(await freePort()).toBeLessThan(Number.parseInt(range, 10));
});
