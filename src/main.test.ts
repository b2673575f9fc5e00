import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url));
const PRINTING = ['--import', 'tsx', MAIN, 'config', 'variables'];

describe('entrepot', () => {
  it('fails without a message if nobody reads its output', async () => {
    const child = spawn(process.execPath, PRINTING, { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.destroy();
    const [told, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')]);
    expect({ code, told }).toEqual({ code: 141, told: '' });
  }, 60_000);

  it('fails with a message if its output cannot be written', async () => {
    const full = await open('/dev/full', 'w');
    const child = spawn(process.execPath, PRINTING, { stdio: ['ignore', full.fd, 'pipe'] });
    await full.close();
    if (child.stderr === null) throw new Error('standard error is no pipe');
    const [told, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')]);
    expect({ code, told }).toEqual({
      code: 1,
      told: expect.stringMatching(/^entrepot: standard output: ENOSPC/),
    });
  }, 60_000);

  it('fails if what it waits for can never happen', async () => {
    const silent =
      'Object.defineProperty(process, "stdin", { value: { [Symbol.asyncIterator]: () => ({ next }) } })';
    const preload = `data:text/javascript,const next = () => new Promise(() => {}); ${silent}`;
    const args = ['--import', 'tsx', '--import', preload, MAIN, 'credential-provider'];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const [told, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')]);
    expect({ code, told }).toEqual({ code: 1, told: expect.stringContaining('without a result') });
  }, 60_000);
});
