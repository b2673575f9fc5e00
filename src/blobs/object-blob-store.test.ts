import { blobStoreSuite } from './blob-store.suite.ts';
import { MemoryIngests, MemorySpool } from './memory-spool.fixture.ts';
import { Bucket, ObjectBlobStore } from './object-blob-store.fixture.ts';
import { spoolSuite } from './spool.suite.ts';

async function makePlace() {
  const ingests = new MemoryIngests();
  const bucket = new Bucket();
  return {
    open: async () => ({
      spool: new MemorySpool(ingests),
      blobs: new ObjectBlobStore(bucket),
      close: async () => {},
    }),
    remove: async () => {},
  };
}

spoolSuite(makePlace);
blobStoreSuite(makePlace);
