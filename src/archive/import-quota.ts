import { countedBytes } from '../oci/counted-bytes.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { ContentTree } from '../oci/content-tree.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ArchiveError } from './archive-error.ts';

/**
 * Limits what hosted repositories may store. Throws an OciError if that would be exceeded; what it allowed counts until
 * `release`.
 */
export interface ImportQuota {
  reserve(key: string, repository: Repository, bytes: number): Promise<void>;
  release(key: string): void;
}

/** Content, and the repository that is to have it. */
interface Arrival {
  readonly repository: Repository;
  readonly tree: ContentTree;
}

/**
 * Reserves space for everything that `arrivals` add to hosted repositories. Returns a function that releases it, to be
 * called when the content is in the index or was discarded. Throws ArchiveError if there is not enough space for all.
 */
export async function reserveQuota(
  arrivals: readonly Arrival[],
  metadata: Pick<MetadataStore, 'isLinked'>,
  quota: ImportQuota,
): Promise<() => void> {
  const reserved: string[] = [];
  const release = (): void => reserved.forEach(key => quota.release(key));
  try {
    for (const [name, { repository, sizes }] of sizesByRepository(arrivals)) {
      const bytes = await newBytes(repository, sizes, metadata);
      if (bytes === 0) continue;
      const key = `import ${name}`;
      reserved.push(key);
      await quota.reserve(key, repository, bytes);
    }
    return release;
  } catch (error) {
    release();
    throw error instanceof OciError ? new ArchiveError(error.message) : error;
  }
}

interface Wanted {
  readonly repository: Repository;
  readonly sizes: Map<Digest, number>;
}

/** Each content once per repository, however many images share it. */
function sizesByRepository(arrivals: readonly Arrival[]): ReadonlyMap<string, Wanted> {
  const wanted = new Map<string, Wanted>();
  for (const { repository, tree } of arrivals) {
    if (repository.upstream !== '') continue;
    const name = repositoryText(repository);
    const { sizes } = wanted.get(name) ?? { sizes: new Map<Digest, number>() };
    for (const { manifest } of tree.manifests) sizes.set(manifest.digest, manifest.bytes.byteLength);
    for (const { digest, size } of tree.blobs) sizes.set(digest, size);
    wanted.set(name, { repository, sizes });
  }
  return wanted;
}

async function newBytes(
  repository: Repository,
  sizes: ReadonlyMap<Digest, number>,
  metadata: Pick<MetadataStore, 'isLinked'>,
): Promise<number> {
  let bytes = 0;
  for (const [digest, size] of sizes) {
    if (!(await metadata.isLinked(repository, digest))) bytes += countedBytes(size);
  }
  return bytes;
}
