import { expect, test } from 'vitest';
import { storageFault } from './storage-probe.ts';

test('a file system without a size, in which no file can be created, cannot hold a store', async () => {
  expect((await storageFault('/proc/self'))?.message).toMatch(
    /^\/proc\/self \(storage\.path\) cannot hold a store: files cannot be written there /,
  );
});
