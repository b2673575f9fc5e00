import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { isLocked, whileLocked } from './life.ts';
import { Database } from './sqlite/driver.ts';

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-life-'));
  path = join(folder, '.lock');
});

afterEach(async () => {
  vi.restoreAllMocks();
  await rm(folder, { recursive: true });
});

const refusal = () => new Error('another one has it');

describe('a file that is locked for an action', () => {
  test('is locked as long as that takes, and removed then', async () => {
    const seen = await whileLocked(path, refusal, async () => isLocked(path));
    expect({ seen, left: await readdir(folder) }).toEqual({ seen: true, left: [] });
  });

  test('is released when the action fails', async () => {
    const failing = whileLocked(path, refusal, () => Promise.reject(new Error('it failed')));
    await expect(failing).rejects.toThrow('it failed');
    expect(await whileLocked(path, refusal, async () => 'again')).toBe('again');
  });

  test('does not count if another process had it, removed it, and a third one made the next', async () => {
    const act = vi.fn<() => Promise<void>>();
    vi.spyOn(Database.prototype, 'pragma').mockImplementationOnce(() => {
      rmSync(path);
      writeFileSync(path, '');
    });
    await expect(whileLocked(path, refusal, act)).rejects.toThrow('another one has it');
    expect(act).not.toHaveBeenCalled();
    expect(await readdir(folder)).toEqual(['.lock']);
  });
});
