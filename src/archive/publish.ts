import type { Presence } from '../lib/lease.ts';
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
  /** In which the import began: later, others may have set the same names. */
  readonly during: Presence;
  /** Default: no limit. */
  readonly quota?: ImportQuota | undefined;
}

/**
 * Stores first all content, which has no names yet, then sets all names in one step. Throws ArchiveError if there is no
 * space, or if content was removed meanwhile: upkeep leaves it while the import runs, but not while its process is
 * suspended. Rejects with PresenceEnded if that happened since the import began.
 */
export async function publish(arrivals: readonly Arrival[], options: PublishOptions): Promise<void> {
  const { metadata, quota } = options;
  const release = quota && (await reserveQuota(arrivals, metadata, quota));
  try {
    // Before anything is linked, since a repository keeps what is linked in it.
    await requireBlobs(arrivals, metadata);
    await putAll(arrivals, options);
    await requireBlobs(arrivals, metadata);
    await requireManifests(arrivals, metadata);
  } finally {
    release?.();
  }
}

async function putAll(
  arrivals: readonly Arrival[],
  { metadata, grantee = ANONYMOUS_ID, during }: PublishOptions,
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
      { during },
    );
    if (missing[0] !== undefined) throw removed(missing[0]);
  }
  await metadata.publish(
    arrivals.map(({ repository, digest, tag }) => ({ repository, digest, tag })),
    atMs,
    { during },
  );
  await metadata.notify('content');
}

async function requireBlobs(
  arrivals: readonly Arrival[],
  metadata: Pick<MetadataStore, 'statBlob'>,
): Promise<void> {
  for (const digest of new Set(arrivals.flatMap(({ tree }) => tree.blobs.map(blob => blob.digest)))) {
    if ((await metadata.statBlob(digest)) === undefined) throw removed(digest);
  }
}

async function requireManifests(
  arrivals: readonly Arrival[],
  metadata: Pick<MetadataStore, 'readLinkedManifest'>,
): Promise<void> {
  for (const { repository, tree } of arrivals) {
    for (const { manifest } of tree.manifests) {
      const stored = await metadata.readLinkedManifest(repository, manifest.digest);
      if (stored === undefined) throw removed(manifest.digest);
    }
  }
}

function removed(digest: Digest): ArchiveError {
  return new ArchiveError(`${digest} was removed during the import: run it again`);
}
