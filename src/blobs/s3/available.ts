import { OciError } from '../../oci/errors.ts';
import { S3Failure } from './s3-failure.ts';

/** When clients may try again if S3 cannot be reached, in seconds. */
export const RETRY_AFTER_S = '5';

/** The result of `work`; an S3Failure of it as UNAVAILABLE. */
export async function available<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw error instanceof S3Failure ? unavailable(error) : error;
  }
}

export function unavailable(cause: S3Failure): OciError {
  return new OciError('UNAVAILABLE', {
    message: 'the storage of blobs cannot be reached',
    headers: { 'Retry-After': RETRY_AFTER_S },
    cause,
  });
}
