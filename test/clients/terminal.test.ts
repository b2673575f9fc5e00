// What a person sees: a terminal made by script(1).
import { afterAll, beforeAll, expect, test } from 'vitest';
import { get } from '../support/client.ts';
import { bytesOf, randomBlob } from '../support/content.ts';
import { type Entrepot, STARTER } from '../support/entrepot.ts';
import { startHosting } from '../support/hosted-registry.ts';
import { type RunResult, tryRun } from '../support/programs.ts';

/** What takes the line above away again (ECMA-48). */
const TAKEN_AWAY = '\u001B[1A\u001B[J';

let entrepot: Entrepot;

beforeAll(async () => {
  entrepot = await startHosting();
  for (const at of [0, 1]) {
    const blob = randomBlob(300_000, `terminal ${at}`);
    const url = `${entrepot.url}/v2/team/app/blobs/uploads/?digest=${blob.digest}`;
    await get(url, { method: 'POST', body: bytesOf(blob) });
  }
});

afterAll(() => entrepot.remove());

/** Runs a command of the product on a terminal of its own; what came out of that is its standard output. */
async function onTerminal(...args: readonly string[]): Promise<RunResult> {
  const command = [process.execPath, ...STARTER, ...args, '--config', entrepot.configFile];
  return tryRun('script', ['--quiet', '--return', '--command', command.join(' '), '/dev/null'], {
    env: { TERM: 'xterm' },
  });
}

test('a scrub moves a bar towards its end, and leaves the report alone behind', async () => {
  const { code, stdout } = await onTerminal('scrub', '--rate', '300KB');
  expect(code).toBe(0);
  const shares = [...stdout.matchAll(/blobs checked +(█*)(░*) .* of 586 KiB/g)].map(
    ([, done = '', left = '']) => [done.length, left.length],
  );
  expect(shares).toContainEqual([0, 24]);
  expect(shares).toContainEqual([12, 12]);
  for (const [done = 0, left = 0] of shares) expect(done + left).toBe(24);
  const parts = stdout.split(TAKEN_AWAY);
  const last = parts.pop() ?? '';
  const left = parts.map(part => part.slice(0, part.trimEnd().lastIndexOf('\n') + 1));
  expect([...left, last].join('')).toBe('checked 2 blobs, 586 KiB: 0 damaged\r\n');
});
