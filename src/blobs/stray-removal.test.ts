import { expect, test, vi } from 'vitest';
import { removeStrays, type StrayIndex } from './stray-removal.ts';

test('no write of the index is spent on no digests', async () => {
  const ifStray = vi.fn<StrayIndex['ifStray']>().mockResolvedValue([]);
  expect(await removeStrays({ removal: () => expect.unreachable() }, { ifStray }, [])).toEqual([]);
  expect(ifStray).not.toHaveBeenCalled();
});
