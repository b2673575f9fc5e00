import { createHash } from 'node:crypto';
import { parseJsonObject } from '../lib/json.ts';
import { type Digest, digestAlgorithm } from '../oci/digest.ts';
import { ArchiveError } from './archive-error.ts';
import type { ArchiveEntry } from './open-archive.ts';

/** All bytes of a small file. */
export async function readEntry(entry: ArchiveEntry): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of checked(entry)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The digest of a file, by the algorithm of `like`. */
export async function hashOf(entry: ArchiveEntry, like: Digest, signal: AbortSignal): Promise<string> {
  const algorithm = digestAlgorithm(like);
  const hash = createHash(algorithm);
  for await (const chunk of checked(entry)) {
    signal.throwIfAborted();
    hash.update(chunk);
  }
  return `${algorithm}:${hash.digest('hex')}`;
}

/** The body, which must have the declared size: a file may change, and a tar may be truncated. */
export async function* checked({ name, size, body }: ArchiveEntry): AsyncGenerator<Uint8Array, void> {
  let length = 0;
  for await (const chunk of body) {
    length += chunk.byteLength;
    if (length > size) break;
    yield chunk;
  }
  if (length !== size) throw new ArchiveError(`${name} does not have the ${size} bytes that it declares`);
}

/** Configs are JSON, too, but only manifests have this member (image-spec, manifest.md). */
export function looksLikeManifest(bytes: Uint8Array): boolean {
  return bytes[0] === 0x7b && parseJsonObject(bytes)?.['schemaVersion'] === 2;
}

/** Throws ArchiveError if the digests differ. */
export function requireDigest(expected: Digest, found: string): void {
  if (found !== expected)
    throw new ArchiveError(`the content of ${expected} has a different digest: ${found}`);
}
