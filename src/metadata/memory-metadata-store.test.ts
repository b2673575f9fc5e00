import { MemoryIndex } from './memory-metadata-store.fixture.ts';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { metadataStoreSuite } from './metadata-store.suite.ts';

metadataStoreSuite(async () => {
  const index = new MemoryIndex();
  return { open: async () => index.open(), passSecond: () => nextTurn(), remove: async () => {} };
});
