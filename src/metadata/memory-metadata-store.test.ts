import { MemoryIndex } from './memory-metadata-store.fixture.ts';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type MetadataPlace, metadataStoreSuite } from './metadata-store.suite.ts';
import { outboxSuite } from './outbox.suite.ts';

async function makePlace(): Promise<MetadataPlace> {
  const index = new MemoryIndex();
  return { open: async () => index.open(), passSecond: () => nextTurn(), remove: async () => {} };
}

metadataStoreSuite(makePlace);
outboxSuite(makePlace);
