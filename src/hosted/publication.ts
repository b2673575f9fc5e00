import type { Readable } from 'node:stream';
import { MemoryBudget, type MemoryHolder, type MemoryLease } from '../lib/memory-budget.ts';
import type { Presence } from '../lib/lease.ts';
import type { Lack, MetadataStore } from '../metadata/metadata-store.ts';
import type { Announce, OutboxMessage } from '../metadata/outbox.ts';
import { type Digest, digestAlgorithm, digestOf, isDigest } from '../oci/digest.ts';
import { refusingWhenBusy } from '../oci/busy.ts';
import { documents } from '../oci/documents.ts';
import { OciError } from '../oci/errors.ts';
import type { EventActor } from '../oci/event.ts';
import {
  isNonDistributable,
  type Manifest,
  type ManifestView,
  MAX_INDEX_ENTRIES,
  MAX_MANIFEST_BYTES,
} from '../oci/manifest.ts';
import { isIndexType, isSchema1Type } from '../oci/media-types.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { refusingWhenFull } from './full-storage.ts';
import { readBody } from './request-body.ts';
import { noQuota, type Quota } from './quota.ts';

/**
 * The spec requires at least ten ("Pushing Manifests"). Each is a row of its own, and a URL has no room for many more.
 */
export const MAX_TAGS_PER_PUSH = 50;
/** Indexes of indexes are rare, and code that follows them, such as garbage collection, needs a limit. */
const MAX_INDEX_DEPTH = 4;
/** How many manifests one push may refer to: an index full of full indexes would name a million. */
const MAX_DESCENDANTS = 4 * MAX_INDEX_ENTRIES;
/**
 * A manifest is in memory while it is received, and others may wait for that memory. It is aborted if nothing arrives
 * for `idleMs`, or if after that it is slower than any network over which images are pushed.
 */
const READING = { idleMs: 10_000, minBytesPerS: 16 * 1024, maxBytes: MAX_MANIFEST_BYTES };
/** How much memory a manifest of unknown length gets at first; nearly all are smaller. */
const FIRST_LEASE_BYTES = 64 * 1024;

/** A manifest that a client pushes. */
export interface ManifestPush {
  /** A tag or a digest. */
  readonly reference: string;
  /** Further tags to set (`?tag=`), already validated. */
  readonly tags: readonly string[];
  readonly contentType: string;
  /** Content-Length, if present. */
  readonly contentLength: number | undefined;
  readonly body: Readable;
  /** Whose share of memory it takes while it is received and stored. */
  readonly holder: MemoryHolder;
  /** Who pushes, for receivers of notifications. */
  readonly actor?: EventActor | undefined;
  /** In which the request arrived: later, the client may have pushed elsewhere, and others may have replaced that since. */
  readonly during: Presence;
}

/** The result of pushing a manifest. */
export interface Published {
  readonly digest: Digest;
  readonly subject: Digest | undefined;
}

/** What a push stores. */
interface Pushed extends Pick<ManifestPush, 'tags' | 'actor' | 'during'> {
  readonly manifest: Manifest;
  readonly view: ManifestView;
}

export interface PublicationParts {
  readonly metadata: MetadataStore;
  /** Rejects as on a full disk if this many more bytes may not be stored. */
  readonly admit: (bytes: number) => Promise<void>;
  readonly quota?: Quota;
  readonly memory?: MemoryBudget;
  /** Default: nobody is told. */
  readonly announce?: Announce;
}

/**
 * Pushing manifests (distribution-spec, "Pushing Manifests"): stored byte for byte, once everything that they name is
 * here.
 */
export class Publication {
  readonly #metadata: MetadataStore;
  readonly #admit: PublicationParts['admit'];
  readonly #quota: Quota;
  readonly #memory: MemoryBudget;
  readonly #announce: Announce;

  constructor({
    metadata,
    admit,
    quota = noQuota,
    memory = new MemoryBudget(),
    announce = () => [],
  }: PublicationParts) {
    this.#announce = announce;
    this.#metadata = metadata;
    this.#admit = admit;
    this.#quota = quota;
    this.#memory = memory;
  }

  /**
   * Stores the manifest, links it and moves the tags to it. MANIFEST_INVALID if it names content with a wrong size.
   * MANIFEST_BLOB_UNKNOWN lists (the first of) the content that must be pushed or mounted into this repository first; a
   * `subject` may follow later, and a non-distributable layer need not come at all. Waits for memory; TOOMANYREQUESTS
   * or UNAVAILABLE if there is none for too long.
   */
  async publish(repository: Repository, push: ManifestPush): Promise<Published> {
    const { contentLength, holder } = push;
    // Refused by its header before a byte is read; the limit also applies to what is actually sent.
    if (contentLength !== undefined && contentLength > MAX_MANIFEST_BYTES) throw tooLarge();
    return refusingWhenBusy(async () => {
      const lease = await this.#memory.lease(holder, contentLength ?? FIRST_LEASE_BYTES);
      try {
        return await this.#publish(repository, push, await readBytes(push.body, lease));
      } finally {
        lease.release();
      }
    });
  }

  async #publish(repository: Repository, push: ManifestPush, bytes: Uint8Array): Promise<Published> {
    const { reference, contentType } = push;
    const digest = isDigest(reference) ? digestOf(bytes, digestAlgorithm(reference)) : digestOf(bytes);
    if (isDigest(reference) && digest !== reference) {
      throw new OciError('DIGEST_INVALID', { detail: { provided: reference, received: digest } });
    }
    const view = await documents.ask('pushedView', bytes, contentType);
    if (isSchema1Type(view.mediaType)) {
      throw new OciError('MANIFEST_INVALID', {
        message: 'Docker schema 1 is not supported: push schema 2 or OCI',
      });
    }
    await this.#requireChildren(repository, view);
    const tags = isDigest(reference) ? push.tags : [reference];
    const key = `manifest ${repositoryText(repository)} ${digest} ${tags.join(' ')}`;
    await this.#quota.reserve(key, repository, bytes.byteLength, { digest, tags });
    const manifest = { digest, mediaType: view.mediaType, bytes };
    const { actor, during } = push;
    const pushed = { manifest, view, tags, actor, during };
    await this.#put(repository, pushed).finally(() => this.#quota.release(key));
    return { digest, subject: view.subject?.digest };
  }

  /** The first tag is set in the manifest's own transaction, each further one in another. */
  async #put(
    repository: Repository,
    { manifest, view, tags: [tag, ...furtherTags], actor, during }: Pushed,
  ): Promise<void> {
    const atMs = Date.now();
    const messages = (name: string | undefined): readonly OutboxMessage[] => {
      const { digest, mediaType, bytes } = manifest;
      const size = bytes.byteLength;
      return this.#announce({ kind: 'push', repository, tag: name, digest, mediaType, size, actor });
    };
    const required = [...view.manifests, ...view.blobs.filter(blob => !isNonDistributable(blob))];
    await refusingWhenFull(async () => {
      await this.#admit(manifest.bytes.byteLength);
      const lacks = await this.#metadata.putManifest(repository, manifest, view, {
        ...(tag === undefined ? {} : { tag }),
        atMs,
        required,
        messages: messages(tag),
        during,
      });
      if (lacks.length > 0) throw lacking(repository, lacks);
      for (const further of furtherTags) {
        const row = { digest: manifest.digest, checkedAtMs: atMs };
        await this.#metadata.putTag(repository, further, row, { messages: messages(further), during });
      }
    });
  }

  /** All children of an index must be manifests of this repository, and indexes must not be nested too deep. */
  async #requireChildren(repository: Repository, view: ManifestView): Promise<void> {
    const missing: Digest[] = [];
    const seen = new Set<Digest>();
    let level = view.manifests;
    for (let depth = 1; level.length > 0; depth += 1) {
      const indexes: ManifestView[] = [];
      for (const { digest } of level) {
        if (seen.has(digest)) continue;
        if (seen.size === MAX_DESCENDANTS) throw tooDeep();
        seen.add(digest);
        const child = await this.#metadata.readLinkedManifest(repository, digest);
        // At greater depth, what is missing was checked when the child was pushed, or was deleted since.
        if (child === undefined && depth === 1) missing.push(digest);
        if (child === undefined || !isIndexType(child.mediaType)) continue;
        if (depth === MAX_INDEX_DEPTH) throw tooDeep();
        indexes.push(await documents.ask('view', child.bytes, child.mediaType));
      }
      level = indexes.flatMap(index => index.manifests);
    }
    if (missing.length > 0) throw blobsUnknown(repository, missing);
  }
}

async function readBytes(body: Readable, lease: MemoryLease): Promise<Uint8Array> {
  try {
    return await readBody(body, READING, lease);
  } catch (error) {
    throw error instanceof OciError && error.code === 'SIZE_INVALID' ? tooLarge() : error;
  }
}

function tooLarge(): OciError {
  return new OciError('MANIFEST_TOO_LARGE', { detail: { limitBytes: MAX_MANIFEST_BYTES } });
}

function tooDeep(): OciError {
  return new OciError('MANIFEST_INVALID', {
    message: `an index may be nested up to ${MAX_INDEX_DEPTH} deep, with ${MAX_DESCENDANTS} manifests in total`,
  });
}

function lacking(repository: Repository, lacks: readonly Lack[]): OciError {
  const missing = lacks.filter(({ linkedSize }) => linkedSize === undefined).map(({ digest }) => digest);
  const [misfit] = lacks;
  if (missing.length > 0 || misfit === undefined) return blobsUnknown(repository, missing);
  const { digest, size, linkedSize } = misfit;
  return new OciError('MANIFEST_INVALID', {
    message: `${digest} is listed with ${size} bytes but has ${linkedSize}`,
  });
}

/** A manifest may name 5,000, and the whole response is in memory until its client has read it. */
const MAX_NAMED_UNKNOWN = 500;

function blobsUnknown(repository: Repository, digests: readonly Digest[]): OciError {
  return new OciError('MANIFEST_BLOB_UNKNOWN', {
    message: `not in this repository: ${digests.slice(0, 3).join(', ')}${digests.length > 3 ? ', …' : ''}`,
    detail: { name: repositoryText(repository), digests: digests.slice(0, MAX_NAMED_UNKNOWN) },
  });
}
