// What a person sees: a terminal made by script(1).
import { afterAll, beforeAll, expect, test } from 'vitest';
import { get } from '../support/client.ts';
import { bytesOf, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
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
async function onTerminal(on: Entrepot, ...args: readonly string[]): Promise<RunResult> {
  const command = [process.execPath, ...STARTER, ...args, '--config', on.configFile];
  return tryRun('script', ['--quiet', '--return', '--command', command.join(' '), '/dev/null'], {
    env: { TERM: 'xterm' },
  });
}

/** `1.5 MiB` */
function bytesIn(text: string): number {
  const [amount, unit = ''] = text.split(' ');
  return Number(amount) * 1024 ** ['B', 'KiB', 'MiB'].indexOf(unit);
}

test('a scrub moves a bar towards its end, and leaves only the report', async () => {
  const { code, stdout } = await onTerminal(entrepot, 'scrub', '--rate', '300KB');
  expect(code).toBe(0);
  const shares = [...stdout.matchAll(/blobs checked +(█*)(░*) .* of 586 KiB/g)].map(
    ([, done = '', left = '']) => [done.length, left.length],
  );
  for (const [done = 0, left = 0] of shares) expect(done + left).toBe(10);
  const lengths = shares.map(([done = 0]) => done);
  expect(lengths).toEqual(lengths.toSorted((one, other) => one - other));
  // A busy machine skips some.
  expect(new Set(lengths).size).toBeGreaterThan(1);
  const parts = stdout.split(TAKEN_AWAY);
  const last = parts.pop() ?? '';
  const left = parts.map(part => part.slice(0, part.trimEnd().lastIndexOf('\n') + 1));
  expect([...left, last].join('')).toBe('checked 2 blobs, 586 KiB: 0 damaged\r\n');
});

test('a pull moves a bar for each image, with bytes, rate and the time left', async () => {
  const names = ['one', 'two'];
  const upstream = await FakeUpstream.start({ linkBytesPerS: 1_000_000 });
  const mirror = await Entrepot.start({ upstreams: { 'up.example': { url: upstream.url } } });
  try {
    for (const name of names) upstream.add(name, imageOf([randomBlob(5_000_000, name)]), '1');
    const { code, stdout } = await onTerminal(mirror, 'pull', ...names.map(name => `up.example/${name}:1`));
    expect(code).toBe(0);
    for (const name of names) {
      const bar = new RegExp(`/${name}:1 +(█*)░* (.*) of 4\\.8 MiB, .*/s, \\d+ s left`, 'g');
      const drawn = [...stdout.matchAll(bar)].map(([, done = '', came = '']) => [done.length, bytesIn(came)]);
      for (const [length = 0, bytes = 0] of drawn) {
        expect(Math.abs(length - (10 * bytes) / 5_000_000)).toBeLessThan(1);
      }
      // A busy machine skips some.
      expect(new Set(drawn.map(([length]) => length)).size).toBeGreaterThan(2);
    }
    const left = stdout.split(TAKEN_AWAY).pop() ?? '';
    expect(left).toMatch(/^(✓ .* 2 of 2 blobs fetched \(4\.8 MiB in .*\)\r\n)?2 of 2 images are stored\r\n$/);
  } finally {
    await mirror.remove();
    await upstream.stop();
  }
});
