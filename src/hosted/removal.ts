import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { refusingWhenFull } from './full-storage.ts';

export interface RemovalOptions {
  readonly metadata: MetadataStore;
  /** Read each time. */
  readonly isEnabled: boolean;
}

/**
 * Deleting (distribution-spec, "Content Management"). It takes what belongs to a repository out of it, at once; the
 * bytes go with the next garbage collection, if no other repository has them.
 */
export class Removal {
  readonly #options: RemovalOptions;

  constructor(options: RemovalOptions) {
    this.#options = options;
  }

  /** Throws UNSUPPORTED while deleting is switched off; every way to delete asks this. */
  permit(): void {
    if (this.#options.isEnabled) return;
    throw new OciError('UNSUPPORTED', { message: 'deleting is disabled (hosted.delete)' });
  }

  /** A tag alone, or by digest a manifest with every tag that means it. */
  async removeManifest(repository: Repository, reference: string): Promise<void> {
    this.permit();
    // The index notes a removal before it has room by it.
    const { metadata } = this.#options;
    const wasThere = await refusingWhenFull(() =>
      isDigest(reference)
        ? metadata.unlinkManifest(repository, reference)
        : metadata.removeTag(repository, reference),
    );
    if (!wasThere) {
      throw new OciError('MANIFEST_UNKNOWN', { detail: { name: repositoryText(repository), reference } });
    }
  }

  async removeBlob(repository: Repository, digest: Digest): Promise<void> {
    this.permit();
    if (!(await refusingWhenFull(() => this.#options.metadata.unlinkBlob(repository, digest)))) {
      throw new OciError('BLOB_UNKNOWN', { detail: { name: repositoryText(repository), digest } });
    }
  }
}
