import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { silentLog } from '../lib/log.ts';
import { blobStoreSuite } from './blob-store.suite.ts';
import { openFileStores } from './file-stores.ts';
import { Bucket, ObjectBlobStore } from './object-blob-store.fixture.ts';

blobStoreSuite(async () => {
  const folder = await makeTempFolder('objects');
  const bucket = new Bucket();
  return {
    open: async () => {
      const files = await openFileStores(folder, { log: silentLog });
      return { ...files, blobs: new ObjectBlobStore(bucket) };
    },
    remove: () => removeFolder(folder),
  };
});
