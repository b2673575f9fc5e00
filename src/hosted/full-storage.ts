import { isStorageFull } from '../blobs/storage-full.ts';
import { OciError } from '../oci/errors.ts';

/** Runs `work`, and turns an error of a full disk into INSUFFICIENT_STORAGE. Acknowledged content is not affected. */
export async function refusingWhenFull<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (isStorageFull(error)) {
      throw new OciError('INSUFFICIENT_STORAGE', {
        message: 'the registry has no space left for this; stored content is not affected',
        cause: error,
      });
    }
    throw error;
  }
}
