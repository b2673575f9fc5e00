import { isStorageClosed } from '../blobs/storage-full.ts';
import type { Log } from '../lib/log.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Digest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { Answer, BlobHead } from '../upstream/upstream.ts';
import { type Asking, blobReference } from './asking.ts';

export interface Confirmed {
  /** Bytes; `undefined` when upstream does not say. */
  readonly size: number | undefined;
  readonly joined: boolean;
}

/**
 * Which blobs belong to which mirrored repository. A Link is made by an upstream answer for that repository, never
 * by a manifest that names the blob, nor by equal content elsewhere: those save the transfer, not the proof.
 */
export class Links {
  readonly #metadata: MetadataStore;
  readonly #asking: Asking;
  readonly #flights = new SingleFlight<BlobHead>();
  readonly #log: Log;

  constructor(metadata: MetadataStore, asking: Asking, log: Log) {
    this.#metadata = metadata;
    this.#asking = asking;
    this.#log = log;
  }

  /** Whether the blob may be served from here to this requester without asking upstream. */
  async isSettled(repository: Repository, digest: Digest, right: Right): Promise<boolean> {
    return right.proved && (await this.#metadata.isLinked(repository, digest));
  }

  /** Asks upstream once, by HEAD, whether the repository has the blob for this requester, and makes the Link. */
  async confirm(repository: Repository, digest: Digest, right: Right): Promise<Confirmed> {
    const known = await this.#metadata.isLinked(repository, digest);
    const { answer, joined } = await this.#asking.ask(
      { repository, reference: blobReference(digest), shared: this.#flights, proves: true, known },
      right,
      (upstream, ask) => upstream.headBlob(repository.name, digest, ask),
    );
    if (!admits(answer, right)) throw unproved();
    const size = answer.size ?? (await this.#metadata.statBlob(digest))?.size;
    if (size !== undefined && !known) await this.#keep(repository, digest, size);
    return { size, joined };
  }

  /** A full disk costs the Link, so that the next one asks again; this one has its answer. */
  async #keep(repository: Repository, digest: Digest, size: number): Promise<void> {
    try {
      await this.#metadata.linkBlob(repository, digest, size);
    } catch (error) {
      if (!isStorageClosed(error)) throw error;
      this.#log.warn({ err: error, digest }, 'a Link could not be kept');
    }
  }

  /** Makes the Link in the background, for who comes later: whoever is served now has the proof itself. */
  add(repository: Repository, digest: Digest, size: number): void {
    this.#metadata.linkBlob(repository, digest, size).catch((error: unknown) => {
      this.#log.error({ err: error, digest }, 'a Link could not be kept');
    });
  }
}

/**
 * Whether a good answer lets this requester have the content. An answer of `url` to his credential does; one of a
 * mirror, which may have a credential of its own, only if his right is known without it.
 */
export function admits(answer: Answer, right: Right): boolean {
  return answer.proof || right.proved || right.provedIfUnreachable;
}

/** What a requester hears whose right only `url` could have proved. */
export function unproved(): UpstreamFailure {
  return new UpstreamFailure(
    'unavailable',
    'only a mirror answered, and only upstream itself can say who may read this',
  );
}
