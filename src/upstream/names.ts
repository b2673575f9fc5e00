import { type Digest, isDigest } from '../oci/digest.ts';
import { isRepositoryName, isTag } from '../oci/reference.ts';

/**
 * The path below `/v2/<repository>/` that names a thing. Every part is of a grammar without `/`, `?`, `#`, `%` or a
 * lone dot, so the URL means what it says. Callers have parsed their input; anything else here is a bug.
 */
export function manifestPath(repository: string, reference: string): string {
  requireRepository(repository);
  if (!isTag(reference) && !isDigest(reference)) throw new TypeError(`neither tag nor digest: ${reference}`);
  return `manifests/${reference}`;
}

export function blobPath(repository: string, digest: Digest): string {
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
