import type { Presence } from '../lib/lease.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Announce } from '../metadata/outbox.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type { EventActor } from '../oci/event.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { refusingWhenFull } from './full-storage.ts';

export interface RemovalOptions {
  readonly metadata: MetadataStore;
  /** Default: nobody is told. */
  readonly announce?: Announce;
}

/** A request to delete something. */
export interface Deletion {
  /** In which the request arrived: later, what it names may have been pushed again. */
  readonly during: Presence;
  /** Who deletes, for receivers of notifications. */
  readonly actor?: EventActor | undefined;
}

/**
 * Deleting (distribution-spec, "Content Management"). Removes content from its repository at once; the bytes are freed
 * by the next garbage collection, if no other repository has them. Whether deleting is enabled is part of the client's right.
 */
export class Removal {
  readonly #options: RemovalOptions;

  constructor(options: RemovalOptions) {
    this.#options = options;
  }

  /** Removes a tag alone, or by digest a manifest with all its tags. */
  async removeManifest(
    repository: Repository,
    reference: string,
    { during, actor }: Deletion,
  ): Promise<void> {
    // A removal is a write to the index, which may fail on a full disk.
    const { metadata, announce = () => [] } = this.#options;
    const what = isDigest(reference) ? { digest: reference } : { tag: reference };
    const along = {
      during,
      messages: announce({ kind: 'delete', repository, ...what, actor }),
    };
    const wasThere = await refusingWhenFull(() =>
      isDigest(reference)
        ? metadata.unlinkManifest(repository, reference, along)
        : metadata.removeTag(repository, reference, along),
    );
    if (!wasThere) {
      throw new OciError('MANIFEST_UNKNOWN', { detail: { name: repositoryText(repository), reference } });
    }
  }

  async removeBlob(
    repository: Repository,
    digest: Digest,
    { during }: Pick<Deletion, 'during'>,
  ): Promise<void> {
    const { metadata } = this.#options;
    if (!(await refusingWhenFull(() => metadata.unlinkBlob(repository, digest, { during })))) {
      throw new OciError('BLOB_UNKNOWN', { detail: { name: repositoryText(repository), digest } });
    }
  }
}
