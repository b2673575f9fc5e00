import { MemoryIndex } from './memory-metadata-store.fixture.ts';
import { metadataStoreSuite } from './metadata-store.suite.ts';

metadataStoreSuite(async () => {
  const index = new MemoryIndex();
  return { open: async () => index.open(), remove: async () => {} };
});
