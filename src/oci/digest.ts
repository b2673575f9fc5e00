import { createHash } from 'node:crypto';
import { OciError } from './errors.ts';

/** Digest algorithms that the store can verify (OCI image-spec, descriptor.md "Registered algorithms"). */
export type DigestAlgorithm = 'sha256' | 'sha512';

/** `<algorithm>:<lower-case hex>`, validated, and therefore safe in a URL, in SQL and in a path. */
export type Digest = string & { readonly __brand: 'Digest' };

const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;

/** Whether `text` is a digest of a supported algorithm, with the right number of hex digits. */
export function isDigest(text: string): text is Digest {
  return DIGEST.test(text);
}

/** The reason that is given for content that does not match its digest. */
export const DIGEST_MISMATCH = 'its content does not match the digest';

/** `text` as a digest; throws DIGEST_INVALID if it is none. */
export function parseDigest(text: string): Digest {
  if (!isDigest(text)) {
    throw new OciError('DIGEST_INVALID', { detail: { digest: text.slice(0, 200) } });
  }
  return text;
}

/** The algorithm of a digest. */
export function digestAlgorithm(digest: Digest): DigestAlgorithm {
  return digest.startsWith('sha512') ? 'sha512' : 'sha256';
}

/** The hex part, without the algorithm. */
export function digestHex(digest: Digest): string {
  return digest.slice(7);
}

/** The digest of `bytes`. For what is small, such as manifests; the store's worker hashes blobs that are not. */
export function digestOf(bytes: Uint8Array, algorithm: DigestAlgorithm = 'sha256'): Digest {
  return parseDigest(`${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`);
}
