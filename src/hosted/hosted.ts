/**
 * hosted/: hosted repositories. May import blobs/, metadata/, oci/ and lib/.
 *
 * The main idea: content belongs to a repository by a Link, which only pushing or mounting it there creates. Content
 * without a Link is absent for that repository, even if it is stored. Whether a requester may do something was decided
 * by `access` before.
 *
 * This file is the pull side; `uploads.ts` receives blobs, `publication.ts` manifests and tags, `removal.ts` deletes
 * all three.
 */
import type { BlobStore } from '../blobs/blob-store.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import { readerOfBytes } from '../lib/bytes-reader.ts';
import type { Log } from '../lib/log.ts';
import { heldContent } from '../metadata/held-tree.ts';
import type { Damage, MetadataStore, Paged } from '../metadata/metadata-store.ts';
import { digestOfReference } from '../metadata/reference-digest.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { type Manifest, MAX_MANIFEST_BYTES } from '../oci/manifest.ts';
import { isNarrowed, narrowToPlatform } from '../oci/platform-choice.ts';
import type {
  BlobWant,
  ManifestWant,
  Page,
  PullSource,
  Served,
  ServedBlob,
  ServedBlobStat,
  ServedManifest,
  ServedReferrers,
  ServedTags,
} from '../oci/pull-source.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';

/** How many repositories a page of the catalog may scan before it is returned: a requester may see few of very many. */
const CATALOG_SCAN = 1000;

/** The answer to a referrers query is itself an index, which clients read up to 4 MiB; the rest is for its frame. */
const REFERRERS_BYTES = MAX_MANIFEST_BYTES - 4096;
/** Few at a time, since annotations can be as large as a manifest. */
const REFERRERS_STEP = 20;

const HOSTED: Served = { outcome: 'hosted', stored: true, upstreamMs: 0 };

export interface HostedOptions {
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly log: Log;
}

/** The pull side of hosted repositories. */
export class Hosted implements PullSource {
  readonly #blobs: BlobStore;
  readonly #metadata: MetadataStore;
  readonly #log: Log;

  constructor({ blobs, metadata, log }: HostedOptions) {
    this.#blobs = blobs;
    this.#metadata = metadata;
    this.#log = log;
  }

  async manifest(
    repository: Repository,
    reference: string,
    _right: Right,
    want: ManifestWant,
  ): Promise<ServedManifest> {
    const { manifest } = await this.#metadata.readForPull(repository, reference);
    if (manifest === undefined) throw await this.#manifestUnknown(repository, reference);
    const isSettled = isDigest(reference) || !isNarrowed(manifest, want);
    const wanted = isSettled ? manifest : await this.#narrowed(repository, manifest, want);
    const { digest, mediaType, bytes } = wanted;
    this.#metadata.noteUse(digest);
    return { ...HOSTED, descriptor: { mediaType, digest, size: bytes.length }, bytes };
  }

  async statBlob(repository: Repository, digest: Digest): Promise<ServedBlobStat> {
    const size = await this.#sizeOf(repository, digest);
    if (size !== undefined) {
      if ((await this.#blobs.stat(digest))?.size === size) {
        // Clients that push ask first, and then rely on the blob until their manifest is here.
        await this.#metadata.putUse(digest);
        return { ...HOSTED, digest, size };
      }
      this.#reportLoss(digest);
    }
    const manifest = await this.#metadata.readLinkedManifest(repository, digest);
    if (manifest === undefined) throw await this.#blobUnknown(repository, digest);
    return { ...HOSTED, digest, size: manifest.bytes.length };
  }

  async openBlob(
    repository: Repository,
    digest: Digest,
    _right?: Right,
    want?: BlobWant,
  ): Promise<ServedBlob> {
    const reader =
      (await this.#openHeld(repository, digest, want)) ?? (await this.#openManifest(repository, digest));
    if (reader === undefined) throw await this.#blobUnknown(repository, digest);
    this.#metadata.noteUse(digest);
    return { ...HOSTED, digest, reader };
  }

  async tags(repository: Repository, page: Page): Promise<ServedTags> {
    if (!(await this.#metadata.hasRepository(repository))) {
      throw new OciError('NAME_UNKNOWN', { detail: { name: repositoryText(repository) } });
    }
    const { entries, more } = await this.#metadata.listTags(repository, page);
    return { ...HOSTED, tags: entries, next: more ? entries.at(-1) : undefined };
  }

  /**
   * Referrers of a manifest. Empty rather than an error for an unknown repository: after a 404 a client would consider
   * the referrers API missing (distribution-spec, "Listing Referrers"). Indexes under the tags of the referrers tag
   * schema are not read, since whatever they list was pushed here and is known by its own `subject`.
   */
  async referrers(
    repository: Repository,
    subject: Digest,
    { artifactType, page }: { artifactType: string | undefined; page: Page },
  ): Promise<ServedReferrers> {
    const manifests: Descriptor[] = [];
    let after = page.after;
    let bytes = 0;
    for (let isMore = true; isMore; ) {
      const limit = Math.min(page.limit - manifests.length, REFERRERS_STEP);
      const part = await this.#metadata.listReferrers(repository, subject, artifactType, { limit, after });
      for (const referrer of part.entries) {
        bytes += JSON.stringify(referrer).length;
        const isFull = manifests.length > 0 && bytes > REFERRERS_BYTES;
        if (isFull) return referrersPage(manifests, artifactType, after);
        manifests.push(referrer);
        after = referrer.digest;
      }
      isMore = part.more;
      if (isMore && manifests.length >= page.limit) return referrersPage(manifests, artifactType, after);
    }
    return referrersPage(manifests, artifactType, undefined);
  }

  /** Names of the hosted repositories that `mayPull` allows. A page may be short or empty and still have a next one. */
  async catalog(
    page: Page,
    mayPull: (repository: Repository) => Promise<boolean>,
  ): Promise<{ readonly repositories: readonly string[]; readonly next: string | undefined }> {
    const repositories: string[] = [];
    let after = page.after;
    for (let looked = 0; looked < CATALOG_SCAN; ) {
      const limit = Math.min(page.limit - repositories.length, CATALOG_SCAN - looked);
      if (limit <= 0) break;
      const { entries, more }: Paged<string> = await this.#metadata.listRepositories('', { limit, after });
      for (const name of entries) {
        if (await mayPull({ upstream: '', name })) repositories.push(name);
      }
      if (!more) return { repositories, next: undefined };
      looked += entries.length;
      after = entries.at(-1);
    }
    return { repositories, next: page.limit === 0 ? undefined : after };
  }

  #narrowed(repository: Repository, manifest: Manifest, want: ManifestWant): Promise<Manifest> {
    const lookup = heldContent(repository, this.#metadata, digest => this.#blobs.open(digest));
    return narrowToPlatform(manifest, want, lookup);
  }

  /** The size of a stored blob that belongs to the repository. */
  async #sizeOf(repository: Repository, digest: Digest): Promise<number | undefined> {
    const { linkedSize, storedSize } = await this.#metadata.readBlobForPull(repository, digest);
    return linkedSize === undefined ? undefined : storedSize;
  }

  async #openHeld(
    repository: Repository,
    digest: Digest,
    want: BlobWant | undefined,
  ): Promise<BlobReader | undefined> {
    const size = await this.#sizeOf(repository, digest);
    if (size === undefined) return undefined;
    const reader = await this.#blobs.open(digest, want?.(size));
    if (reader?.size === size) return reader;
    await reader?.close();
    this.#reportLoss(digest);
    return undefined;
  }

  /** Manifests can be read as blobs, too, if they belong to the repository. */
  async #openManifest(repository: Repository, digest: Digest): Promise<BlobReader | undefined> {
    const manifest = await this.#metadata.readLinkedManifest(repository, digest);
    return manifest && readerOfBytes(manifest.bytes);
  }

  async #manifestUnknown(repository: Repository, reference: string): Promise<OciError> {
    const digest = await digestOfReference(this.#metadata, repository, reference);
    const damage = digest && (await this.#damageOf(repository, digest));
    return new OciError('MANIFEST_UNKNOWN', {
      ...(damage && { message: `the manifest was damaged (${damage.reason}): push it again` }),
      detail: { name: repositoryText(repository), reference },
    });
  }

  async #blobUnknown(repository: Repository, digest: Digest): Promise<OciError> {
    const damage = await this.#damageOf(repository, digest);
    return new OciError('BLOB_UNKNOWN', {
      ...(damage && { message: `the blob was damaged (${damage.reason}): push it again` }),
      detail: { name: repositoryText(repository), digest },
    });
  }

  /** Damaged content counts as absent; only its owners are told the reason. */
  async #damageOf(repository: Repository, digest: Digest): Promise<Damage | undefined> {
    return (await this.#metadata.isLinked(repository, digest))
      ? this.#metadata.readDamage(digest)
      : undefined;
  }

  /** Answered as absent, so that the next push of the image uploads the blob again. */
  #reportLoss(digest: Digest): void {
    this.#log.error({ digest }, 'the file or object of a pushed blob is missing or truncated: push it again');
  }
}

function referrersPage(
  manifests: readonly Descriptor[],
  artifactType: string | undefined,
  next: string | undefined,
): ServedReferrers {
  return { ...HOSTED, manifests, filtered: artifactType !== undefined, next };
}
