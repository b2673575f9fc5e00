/** The blobs of this store are not where the configuration says, or that place cannot be used. The message is for people. */
export class BlobsUnusable extends Error {
  override readonly name = 'BlobsUnusable';
}
