import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { ContentTree } from '../oci/content-tree.ts';
import { ANONYMOUS_ID } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import { ArchiveError } from './archive-error.ts';
import { type ImportQuota, reserveQuota } from './import-quota.ts';

/** A complete, stored image, and the name that it is to have. */
export interface Arrival {
  readonly repository: Repository;
  readonly tag: string | undefined;
  readonly digest: Digest;
  readonly tree: ContentTree;
}

export interface PublishOptions {
  readonly metadata: MetadataStore;
  /** The grantee for whom mirrored images are imported; by default everybody. */
  readonly grantee?: string | undefined;
  /** Default: no limit. */
  readonly quota?: ImportQuota | undefined;
}

/**
 * Stores first all content, which has no names yet, then sets all names in one step. Throws ArchiveError if there is no
 * space, or if a blob was removed meanwhile.
 */
export async function publish(arrivals: readonly Arrival[], options: PublishOptions): Promise<void> {
  const { metadata, quota } = options;
  const release = quota && (await reserveQuota(arrivals, metadata, quota));
  try {
    await putAll(arrivals, options);
  } finally {
    release?.();
  }
}

async function putAll(
  arrivals: readonly Arrival[],
  { metadata, grantee = ANONYMOUS_ID }: PublishOptions,
): Promise<void> {
  const atMs = Date.now();
  for (const { repository, tree } of arrivals) {
    // Hosted repositories have their own rules about who may read them.
    const isMirrored = repository.upstream !== '';
    const blobs = tree.blobs.map(({ digest, size }) => ({ digest, size }));
    const missing = await metadata.putContent(
      repository,
      { manifests: tree.manifests, blobs, ...(isMirrored && { grantee }) },
      atMs,
    );
    if (missing.length > 0) {
      throw new ArchiveError(`${missing[0]} was removed during the import: run it again`);
    }
  }
  await metadata.publish(
    arrivals.map(({ repository, digest, tag }) => ({ repository, digest, tag })),
    atMs,
  );
  await metadata.notify('content');
}
