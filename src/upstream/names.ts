import { type Digest, isDigest } from '../oci/digest.ts';
import { isRepositoryName, isTag } from '../oci/reference.ts';

/**
 * The path of a manifest, below `/v2/`. No part can contain `/`, `?`, `#`, `%` or be a dot, so the URL is unambiguous.
 * Callers have parsed their input; an invalid part is a bug and throws a TypeError.
 */
export function manifestPath(repository: string, reference: string): string {
  requireRepository(repository);
  if (!isTag(reference) && !isDigest(reference)) throw new TypeError(`neither tag nor digest: ${reference}`);
  return `manifests/${reference}`;
}

export function blobEndpoint(repository: string, digest: Digest): string {
  return `blobs/${validDigest(repository, digest)}`;
}

export function referrersPath(repository: string, subject: Digest): string {
  return `referrers/${validDigest(repository, subject)}`;
}

export function tagsPath(repository: string, query: URLSearchParams): string {
  requireRepository(repository);
  return `tags/list?${query.toString()}`;
}

function validDigest(repository: string, digest: Digest): Digest {
  requireRepository(repository);
  if (!isDigest(digest)) throw new TypeError('not a digest');
  return digest;
}

function requireRepository(repository: string): void {
  if (!isRepositoryName(repository)) throw new TypeError(`not a repository name: ${repository}`);
}
