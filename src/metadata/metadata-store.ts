/**
 * metadata/: the index, which is what is known about content. May import oci/ and lib/.
 *
 * Manifests with their bytes, tags, Links (content belongs to a repository), Grants (a credential may read a
 * repository), stored blobs, Leases (a process works on something) and last uses. Any number of processes use an index at
 * once. `metadata-store.suite.ts` is what every implementation passes; `memory-metadata-store.fixture.ts` is the contract
 * as plain code, and a model test compares the others with it.
 *
 * - A write is done completely, or rejects and has done nothing. When its promise resolves, every process reads what it
 *   wrote, and it is durable, but for those of Leases.
 * - A function that is passed to a write runs within it: it is synchronous and fast, and between its call and the end of
 *   the write no process changes anything that the index says of the same digest. If it throws, the write rejects with
 *   that. It is called again if the write is repeated, which must do no harm.
 * - Times are of the clocks of the processes, which differ and may be set back.
 * - Entries are in any order unless it says which.
 * - Absent is `undefined`; a throw means that something is broken.
 */
import type { Lease, Leases, Presence } from '../lib/lease.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { CredentialUsage } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import type { IssuedCredential, KnownTenant } from '../oci/issued-credential.ts';
import type { Manifest, ManifestView } from '../oci/manifest.ts';
import type { BlobPullRead, PullRead, TagRow } from '../oci/pull-read.ts';
import type { Page } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import type { SinceAsked } from './ended-rights.ts';
import type { ImageRecords } from './image-record.ts';
import type { Outbox, OutboxMessage } from './outbox.ts';

/** A remembered proof that a credential may read a repository. With `credentialId` '' it is public. */
export interface Grant {
  readonly credentialId: string;
  /** When upstream last proved it, epoch ms. */
  readonly verifiedAtMs: number;
}

/** What one step through all Grants has done. */
export interface EndedGrants {
  readonly ended: number;
  /** Where to continue; `undefined` at the end. */
  readonly next: string | undefined;
}

/** An import into a mirrored repository, whose content `grantee` may read. */
export interface Preload {
  /** '' is everybody. */
  readonly grantee: string;
  /** When it was last imported, epoch ms. */
  readonly atMs: number;
}

/** An unfinished upload to a hosted repository. Its bytes are the ingest `upload-<id>`. */
export interface Upload {
  readonly id: string;
  readonly repository: Repository;
  /** The `Requester.id` that began it. */
  readonly requester: string;
  readonly startedAtMs: number;
  readonly touchedAtMs: number;
}

/** A document that upstream returned for a repository, other than a manifest: a list of referrers. */
export interface Document {
  readonly mediaType: string;
  readonly bytes: Uint8Array;
  readonly checkedAtMs: number;
}

/** What an import stores in one repository. */
export interface ImportedContent {
  readonly manifests: readonly { readonly manifest: Manifest; readonly view: ManifestView }[];
  readonly blobs: readonly SizedDigest[];
  /** Who may read all of it from now on (see `Preload`); `undefined` gives nobody a new right. */
  readonly grantee?: string | undefined;
}

/** A digest and the size of its content. */
export interface SizedDigest {
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
}

/** Content that a manifest requires and the repository lacks. */
export interface Lack extends SizedDigest {
  /** The size of what is linked under this digest; `undefined` if nothing is. */
  readonly linkedSize: number | undefined;
}

/** A name for content that is stored and linked in its repository. */
export interface NamedContent {
  readonly repository: Repository;
  /** Pinned if there is no tag. */
  readonly digest: Digest;
  readonly tag: string | undefined;
}

/** A stored manifest or blob. */
export interface Content {
  readonly kind: 'blob' | 'manifest';
  readonly digest: Digest;
}

/** A repository in which a manifest names a blob. */
export interface Naming {
  readonly repository: Repository;
  /** Bytes. */
  readonly size: number;
}

/** How many are listed. */
export const MAX_NAMINGS = 20;

/** The Link of a blob to a repository. */
export interface BlobLink {
  readonly repository: Repository;
  readonly digest: Digest;
}

/** Stored content whose bytes do not match its digest, or are gone. */
export interface Damage {
  readonly foundAtMs: number;
  readonly reason: string;
}

/** What a row says of a stored blob. */
export interface BlobRecord {
  /** Bytes. */
  readonly size: number;
  /** The key of its object; absent if it is a file. */
  readonly key?: string;
}

/** An object in which a blob is stored. */
export interface BlobObject {
  readonly digest: Digest;
  /** Its own: it is never given to another object. */
  readonly key: string;
}

/** An object that is about to be made. */
export interface ComingObject extends BlobObject {
  /** The multipart upload of which it is made. */
  readonly uploadId?: string | undefined;
}

/** An object that has to be removed, with what there may be of its multipart upload. */
export interface GivenUpObject {
  readonly key: string;
  readonly uploadId: string | undefined;
}

/** Checked when a blob's row is written, so that it is true. */
export interface BlobProof extends During {
  /** The Lease under which its bytes were written; absent if they were found. */
  readonly lease?: Lease | undefined;
  /**
   * Whether the bytes are in the BlobStore. Called within the write, so that no removal can come in between. If absent, they
   * are known to be there.
   */
  readonly isThere?: () => boolean;
  /** The key of its object, which was announced; absent for a file. */
  readonly key?: string | undefined;
}

/**
 * Called within the write in which the index gives the bytes up. If it is repeated, bytes that were taken away are the
 * same as long as no others are there.
 */
export interface DamagedBytes {
  /** The key of the object with them; absent for a file or a manifest. */
  readonly key?: string | undefined;
  /** Whether they are still the bytes that were found damaged. `stored`: of a manifest, those that the index has by now. */
  readonly isSame: (stored?: Uint8Array) => boolean;
  /** Called for mirrored content, which can be downloaded again. */
  readonly takeAway: () => void;
}

/** How much is stored, in all repositories. */
export interface Totals {
  /** Counts those for which `hasRepository` is true. */
  readonly repositories: number;
  readonly manifests: number;
  /** Documents included. */
  readonly manifestBytes: number;
  readonly blobs: number;
  readonly blobBytes: number;
}

/** The size of all stored content. */
export function heldBytesOf({ manifestBytes, blobBytes }: Totals): number {
  return manifestBytes + blobBytes;
}

/** What the hosted repositories of one owner store, by `countedBytes`. */
export interface OwnerBytes {
  /** What is linked in them; content that is linked in two counts twice. */
  readonly bytes: number;
  /** What was last linked there and is now linked nowhere, but is on disk until garbage is collected. */
  readonly uncollectedBytes: number;
}

/** The usage of the owner of a hosted repository, and of the repository itself. */
export interface Usage extends OwnerBytes {
  /**
   * How many the owner has. Each is known from the first thing that is recorded in it, be it a pin, until its last Link or
   * tag is removed.
   */
  readonly repositories: number;
  /** Whether the repository is one of them. */
  readonly isKnown: boolean;
  /** How many the repository has. */
  readonly tags: number;
  /** Whether the manifest in question is linked in the repository. */
  readonly hasManifest: boolean;
  /** How many of the tags in question the repository does not have. */
  readonly newTags: number;
}

/** A manifest that is about to be stored in a repository. */
export interface ComingManifest {
  readonly digest: Digest;
  readonly tags: readonly string[];
}

/** One page of a list. */
export interface Paged<T> {
  readonly entries: readonly T[];
  /** Whether there are more entries after the last one. */
  readonly more: boolean;
}

/** For a write that belongs to something longer, such as the request of a client. */
export interface During {
  /** The write rejects with PresenceEnded if this has ended. Default: it is done, however late. */
  readonly during?: Presence | undefined;
}

/** What must be true when a Grant is recorded. */
export interface GrantConditions extends During {
  /** No other process has ended the right since upstream was asked. Ends by this process are the caller's to know. */
  readonly unlessEnded?: SinceAsked | undefined;
}

/** What is written along with a change, if it changes anything. */
export interface WithMessages extends During {
  /** For an index that has an outbox. */
  readonly messages?: readonly OutboxMessage[] | undefined;
}

/** What else is asked about the requester of a pull. Neither affects what is found of the content itself. */
export interface PullQuery {
  /**
   * Those whose imports the requester may read. Default: none. Not looked at if there is a Grant of `credentialIds`, which
   * usually decides: `isPreloaded` is then false.
   */
  readonly grantees?: readonly string[];
  /** The credentials whose Grants are read, too. Default: none. */
  readonly credentialIds?: readonly string[];
}

/** The answer to a `PullQuery` about credentials. */
export interface WithGrants {
  readonly grants: readonly Grant[];
}

/** One of several servers that share an index and a bucket, each with a folder of its own. */
export interface ReplicaPlace {
  readonly id: string;
  /** The `host:port` at which the others reach it. */
  readonly address: string;
}

/** A replica that disappeared without shutting down: it was killed, or cannot reach the database. */
export interface GoneReplica extends ReplicaPlace {
  /** When it was last seen alive, epoch ms. */
  readonly goneSinceMs: number;
}

/**
 * The index. It knows the meaning of some Leases: `fill-<upstream>-<algorithm>-<hex>` and `import-<algorithm>-<hex>` are
 * held while a process stores that blob, and those of `acquireImportLease` while an import runs.
 */
export interface MetadataStore extends Leases, ImageRecords {
  /** Absent if this index has none: then nothing can be announced. */
  readonly outbox?: Outbox | undefined;
  /** The last one. For a moment after others considered this process dead it is over, and no other has begun. */
  readonly presence: Presence;
  /**
   * Rejects with PresenceEnded if `presence` has ended. For work under a Lease that makes no transaction. Costs nothing if the
   * presence is this process's own and certain to last.
   */
  requirePresence(presence: Presence): Promise<void>;

  // Pulls: one question each, since a query may be a round trip.

  /** `reference`: a tag or a digest. */
  readForPull(repository: Repository, reference: string, query?: PullQuery): Promise<PullRead & WithGrants>;
  readBlobForPull(
    repository: Repository,
    digest: Digest,
    query?: PullQuery,
  ): Promise<BlobPullRead & WithGrants>;

  // Manifests. Their bytes are stored once; bytes that do not match the digest are damage, and the manifest is then
  // absent. What a manifest names, and so needs, depends on the media type under which it is read. Each repository
  // reads it with the media type that it was last given, whatever other repositories were given. What it names counts as
  // long as a repository reads it so, damaged or not; if none has it any more, until its bytes are removed.

  /** The bytes, whichever repository they belong to. They can be read under any media type. */
  readManifestBytes(digest: Digest): Promise<Uint8Array | undefined>;
  /** The manifest, if it is stored and linked in this repository, with its media type there. */
  readLinkedManifest(repository: Repository, digest: Digest): Promise<Manifest | undefined>;
  /**
   * Stores the manifest with what it names, and links it in this repository, from now on with this media type. With
   * `tag`, sets the tag in the same transaction. If some of `required` is not linked in this repository with the given
   * size, returns that and writes nothing.
   */
  putManifest(
    repository: Repository,
    manifest: Manifest,
    view: ManifestView,
    options: { tag?: string; atMs: number; required?: readonly SizedDigest[] } & WithMessages,
  ): Promise<readonly Lack[]>;
  /** Removes the Link and all tags of this repository that mean the manifest. False if there was none. */
  unlinkManifest(repository: Repository, digest: Digest, along?: WithMessages): Promise<boolean>;
  /** Removes the Link unless a tag, a pin or another manifest of this repository names the manifest: then false. */
  unlinkUnnamed(repository: Repository, digest: Digest, during?: During): Promise<boolean>;
  /**
   * Manifests linked in this repository that have `subject` as their subject, ordered by digest. With `preloadedFor`,
   * only those that were imported for one of these grantees.
   */
  listReferrers(
    repository: Repository,
    subject: Digest,
    artifactType: string | undefined,
    page: Page,
    preloadedFor?: readonly string[],
  ): Promise<Paged<Descriptor>>;

  // Tags.

  readTag(repository: Repository, tag: string): Promise<TagRow | undefined>;
  /** Sets a tag. */
  putTag(repository: Repository, tag: string, row: TagRow, along?: WithMessages): Promise<void>;
  /** False if there was none. */
  removeTag(repository: Repository, tag: string, along?: WithMessages): Promise<boolean>;
  /** In ASCII order. With `preloadedFor`, only tags of manifests that were imported for one of these grantees. */
  listTags(repository: Repository, page: Page, preloadedFor?: readonly string[]): Promise<Paged<string>>;
  /** The tags that mean the digest, in ASCII order. */
  listTagsOf(repository: Repository, digest: Digest, page: Page): Promise<Paged<string>>;

  // Repositories.

  /** Whether anything is linked or tagged in the repository. */
  hasRepository(repository: Repository): Promise<boolean>;
  /** Names of the repositories of one upstream ('' for hosted ones), in ASCII order. */
  listRepositories(upstream: string, page: Page): Promise<Paged<string>>;
  /** What the hosted repositories `owner` and `owner/…` store, of those owners that have any. One query for all. */
  readOwnerBytes(owners: readonly string[]): Promise<ReadonlyMap<string, OwnerBytes>>;
  /** The usage of `owner`, the first component of the hosted repository's name. One query, however much it owns. */
  readUsage(owner: string, repository: Repository, coming?: ComingManifest): Promise<Usage>;
  /**
   * Removes Links, tags, pins, lists of referrers, preloads and Grants of the repository: nothing of it is found when this
   * resolves, but what it had may count for its owner a moment later. Content goes with the next garbage collection.
   */
  removeRepository(repository: Repository, along?: WithMessages): Promise<void>;

  // Blobs. A row means that the bytes are in the BlobStore, verified and synced.

  statBlob(digest: Digest): Promise<BlobRecord | undefined>;
  /**
   * Writes the row and, with `repository`, the Link, after BlobStore's commit. Ends damage. With
   * `proof`: returns false and writes nothing if the bytes are gone, or their object was given up; rejects with LeaseLost
   * if the Lease belongs to another process. An object that the row named before is given up.
   */
  putBlob(digest: Digest, size: number, repository?: Repository, proof?: BlobProof): Promise<boolean>;
  /**
   * Removes the row, before the bytes are removed. Links stay: they say where the blob belongs, not that it is stored.
   */
  removeBlob(digest: Digest): Promise<boolean>;
  /**
   * Writes the row of an object that was found in the bucket, and was verified. False, without doing anything, if there
   * is a row, or the object is announced or given up.
   */
  putFoundBlob(object: BlobObject, size: number, during?: During): Promise<boolean>;

  // Objects, if blobs are stored as such. Each has a key of its own, and either a row names it, or it is announced, or it
  // is given up: an object is made only after it was announced, and removed only after it was given up. Removing a row
  // gives its object up, except for damaged content of hosted repositories, which may be recoverable.

  /** Records that the object may exist from now on. Rejects with LeaseLost if the Lease belongs to another process. */
  announceObject(object: ComingObject, lease: Lease): Promise<void>;
  /** Gives up an object that was announced. No effect on others. */
  giveUpObject(key: string): Promise<void>;
  /** Gives up those that were announced before `beforeMs` under a Lease that nobody holds any more. */
  giveUpAbandonedObjects(beforeMs: number): Promise<void>;
  /**
   * Gives up those of these objects, which were found in the bucket, that the index does not know and that nothing says
   * should be stored. Returns them.
   */
  giveUpStrayObjects(objects: readonly BlobObject[]): Promise<readonly BlobObject[]>;
  /** Given up before `beforeMs`, the oldest first. */
  listGivenUpObjects(beforeMs: number, limit: number): Promise<readonly GivenUpObject[]>;
  /** Call when they are removed. */
  forgetObjects(keys: readonly string[]): Promise<void>;

  /** Whether content belongs to the repository, stored or not. */
  isLinked(repository: Repository, digest: Digest): Promise<boolean>;
  /** Adds the Link, or renews it with this size. `size` is upstream's. */
  linkBlob(repository: Repository, digest: Digest, size: number, during?: During): Promise<void>;
  unlinkBlob(repository: Repository, digest: Digest, during?: During): Promise<boolean>;
  /** The size of the blob by its Link, or else by the newest manifest linked in this repository that names it. */
  namedSize(repository: Repository, digest: Digest): Promise<number | undefined>;
  /**
   * Some of the repositories in which a manifest is linked that names the blob, with the size that it names; those of the
   * newest manifests. The same repository may be there several times.
   */
  listNamings(digest: Digest): Promise<readonly Naming[]>;
  /**
   * Whether a manifest that is linked in this repository names the blob. If very many manifests name it, only the
   * newest are searched.
   */
  isNamed(repository: Repository, digest: Digest): Promise<boolean>;

  // Upstream's lists of referrers. Each is removed with the bytes or the Link of the manifest that it is about.

  readReferrersList(repository: Repository, subject: Digest): Promise<Document | undefined>;
  /** Writes nothing unless the manifest is stored, and linked in the repository, at that moment. */
  putReferrersList(repository: Repository, subject: Digest, list: Document): Promise<void>;

  // Grants.

  /** The Grants of `credentialIds`; all of the repository if absent, which may be very many. */
  readGrants(repository: Repository, credentialIds?: readonly string[]): Promise<readonly Grant[]>;
  /** False if the right has ended since; then nothing is written. */
  putGrant(repository: Repository, grant: Grant, conditions?: GrantConditions): Promise<boolean>;
  /** Also ends what others are about to record. If there are neither others nor a Grant, nothing is written. */
  endGrant(repository: Repository, credentialId: string): Promise<void>;
  /** Whether another process has ended the right since upstream was asked, or may have. */
  hasEndedGrant(repository: Repository, since: SinceAsked): Promise<boolean>;
  /** Ends all Grants of a credential that is gone. */
  endGrantsOf(credentialId: string): Promise<void>;
  /** Looks at some Grants, from the `next` of the last call on, and ends those verified before `beforeMs`. */
  endGrantsBefore(beforeMs: number, after?: string): Promise<EndedGrants>;

  // Imports. First the content of each repository, then all names at once. A preload ends with its Link.

  /** Whether the content was imported into the repository for one of these grantees. */
  isPreloaded(repository: Repository, digest: Digest, grantees: readonly string[]): Promise<boolean>;
  /** The latest preload of each grantee, for people: this counts them all. */
  listPreloads(repository: Repository): Promise<readonly Preload[]>;
  /** Ends all preloads of a grantee that is gone. */
  endPreloadsOf(grantee: string, during?: During): Promise<void>;

  /**
   * Stores and links manifests, as `putManifest` does, and blobs, and records all of it as preloads of `grantee`, in
   * one transaction. If some of the blobs are not stored, returns those and writes nothing.
   */
  putContent(
    repository: Repository,
    content: ImportedContent,
    atMs: number,
    during?: During,
  ): Promise<readonly Digest[]>;
  /** Sets the tags, and pins them or the digests, in one transaction. */
  publish(publications: readonly NamedContent[], atMs: number, during?: During): Promise<void>;

  // Pins. A pinned tag or digest, and everything below it, is never evicted. Pins are removed with their repository.

  putPin(repository: Repository, reference: string, during?: During): Promise<void>;
  /** False if there was none. */
  removePin(repository: Repository, reference: string, during?: During): Promise<boolean>;
  /** In ASCII order. */
  listPins(repository: Repository): Promise<readonly string[]>;
  /** The pins of this repository that keep the content: on it, or on a manifest above it. */
  listPinsOver(repository: Repository, digest: Digest): Promise<readonly string[]>;

  // Tenants, and the credentials that were issued to them. There are few, so they are read as a whole.

  listKnownTenants(): Promise<readonly KnownTenant[]>;
  /** Adds the tenants, or updates their binding: all or none. */
  putKnownTenants(tenants: readonly KnownTenant[], during?: During): Promise<void>;
  /** Removes only the entry: what the tenant owns, and its issued credentials, stay. */
  removeKnownTenant(name: string, during?: During): Promise<void>;
  /** Those of `tenants`, of all by default; including those that have ended. */
  listIssuedCredentials(tenants?: readonly string[]): Promise<readonly IssuedCredential[]>;
  /** All or none, each added or replaced by its id. One that is there ends no later than it did. */
  putIssuedCredentials(credentials: readonly IssuedCredential[], during?: During): Promise<void>;
  /** By credential; kept until removed. */
  listCredentialUsage(): Promise<readonly CredentialUsage[]>;
  /** All or none. Of each time the later one is kept, whichever process writes it. */
  putCredentialUsage(usage: readonly CredentialUsage[]): Promise<void>;
  removeCredentialUsage(credentialIds: readonly string[]): Promise<void>;

  // Upkeep. Each call is one write, so callers pass few items at a time. Whether content is still unneeded is checked in
  // the same write that removes it. `unusedSinceMs`: content that was created or used then or later stays, too.

  /** Removes Links of blobs that no manifest of the repository and no pin names. Returns how many. */
  expireLinks(links: readonly BlobLink[], unusedSinceMs: number): Promise<number>;
  // Rows are removed before bytes: pass the returned content to `ifStray` to remove its bytes.

  /**
   * Removes rows of manifests that no repository reads, and of blobs that no stored manifest names and no Link keeps:
   * neither one of a hosted repository, nor one of a mirrored repository that is pinned or not older. While an import
   * runs, what was created or used since it began stays, too. Returns the removed content.
   */
  removeUnneeded(contents: readonly Content[], unusedSinceMs: number): Promise<readonly Content[]>;
  /**
   * Removes rows of manifests that no repository reads, and of blobs that have no Link and that no stored manifest
   * names. While an import runs, which links its blobs at its end, what was created or used since it began stays.
   * Returns the removed content.
   */
  removeUnlinked(contents: readonly Content[], unusedSinceMs: number): Promise<readonly Content[]>;
  /** When the oldest of the imports that are running, in any process, began; later than any time if none is. */
  importingSinceMs(): Promise<number>;
  /**
   * Removes rows of content that is linked in mirrored repositories only and not pinned; Links stay. While an import
   * runs, what was imported since it began stays, too: its pins follow. Returns the removed content.
   */
  evict(contents: readonly Content[], unusedSinceMs: number): Promise<readonly Content[]>;
  /**
   * Calls `act` within the write for those digests of which nothing says that bytes should be stored: no row of a blob, no
   * damage, no process that stores it, and no Link of a hosted repository, whose blob could not be downloaded again. For
   * none while the index may be incomplete: a rebuild may need files that it does not know. Bytes may be removed only in
   * `act`. Returns those for which it was called.
   */
  ifStray(digests: readonly Digest[], act: (digest: Digest) => void): Promise<readonly Digest[]>;
  /**
   * Removes the row of damaged content, so that it is absent until it is stored again, and remembers the damage until
   * then, by its digest alone. What a damaged manifest names is still needed. Returns whether a hosted repository has
   * lost it; `undefined` if the row was gone, or `bytes` are others by now, or another object.
   */
  quarantine(
    content: Content,
    reason: string,
    bytes?: DamagedBytes,
  ): Promise<'hosted' | 'mirrored' | undefined>;
  readDamage(digest: Digest): Promise<Damage | undefined>;
  countDamaged(): Promise<number>;
  /** Forgets the damage of content that nothing needs any more. */
  endDamage(digest: Digest): Promise<void>;

  // Uploads.

  // With `lease`, writes reject with LeaseLost if it belongs to another process.

  /** Adds the upload, or records that it was touched: nothing else of it changes. */
  putUpload(upload: Upload, lease?: Lease): Promise<void>;
  readUpload(id: string): Promise<Upload | undefined>;
  removeUpload(id: string, lease?: Lease): Promise<boolean>;
  countUploads(repository: Repository): Promise<number>;
  /** How many uploads this requester has, in all repositories. */
  countUploadsOf(requester: string): Promise<number>;
  /** Least recently touched first. */
  listUploads(touchedBeforeMs: number, limit: number): Promise<readonly Upload[]>;

  // Between processes, besides Leases.

  /** Tells the other processes on this store that something under `topic` has changed. */
  notify(topic: Topic): Promise<void>;
  /** Calls `listener` within about a second of another process's `notify`. Returns a function that stops this. */
  onNotification(topic: Topic, listener: () => void): () => void;
  /** Calls listeners for everything that was announced until now, without waiting for that second. */
  pollNotifications(): Promise<void>;

  // Settings, and uses of content.

  /** A value that all processes share, such as the key of keyed hashes. */
  readSetting(name: string): Promise<string | undefined>;
  putSetting(name: string, value: string, during?: During): Promise<void>;
  /** Sets it unless it is set; returns the value that is then set. */
  initSetting(name: string, value: string): Promise<string>;
  /**
   * Records that content was served, to within a minute. Batched in memory, so a crash may lose the last seconds. When
   * it is written, it counts for what is then stored under the digest; until then, no removal by this process takes the
   * content.
   */
  noteUse(digest: Digest): void;
  /**
   * The same, to within a second, for a caller that relies on it: upkeep, in any process, knows of it when this resolves.
   */
  putUse(digest: Digest): Promise<void>;
  /** Writes what this process has noted until now: upkeep, in any process, knows of it when this resolves. */
  writeUses(): Promise<void>;
  // A clock that was wrong leaves uses in the future, which would keep content until the clock catches up.

  /** Whether any content was last used, or any upload touched, after this time. */
  hasLaterUses(thanMs: number): Promise<boolean>;
  /** Sets a few of these back to `toMs`; returns how many. */
  lowerUses(laterThanMs: number, toMs: number): Promise<number>;
  /** Sets the creation time of these Links of blobs to `toMs`, unless it is earlier. */
  lowerLinks(links: readonly BlobLink[], toMs: number): Promise<void>;
  /** Takes the same time for any size of store. */
  readTotals(): Promise<Totals>;
  /** How many live processes use the index, including this one, as far as is known. */
  countProcesses(): Promise<number>;
  /** The replicas of which a process lives, this one included, as far as is known; none where there can be only one. */
  listReplicas(): Promise<readonly ReplicaPlace[]>;
  /**
   * Replicas that disappeared without shutting down, for an hour, or until one begins to serve at the same address or with
   * the same folder.
   */
  listGoneReplicas(): Promise<readonly GoneReplica[]>;
  /**
   * Ends the Lease of another replica at whose address nobody listens any more, unless its process had a heartbeat within 2 s:
   * both together are no pause. True if it did. Only for work of which each step that others see checks the epoch in the
   * index: `Lease.confirm` of a process that lives after all may not tell it for some seconds.
   */
  endLeaseOfGone(lease: Pick<Lease, 'key' | 'epoch'>): Promise<boolean>;
  /** For how long other processes have kept all writes of this one waiting; 0 if none waits. */
  lockedOutForMs(): number;
  /**
   * The error with which all writes are rejected if what this process has open is known to be the index no longer, such
   * as a file that was replaced. Reads may still return what it contains.
   */
  loss(): Error | undefined;
  /**
   * Does the writes that have begun, and records the uses that were noted. From now on everything else is rejected. Ends
   * the Leases of this process as if they were set aside.
   */
  close(): Promise<void>;
}

/**
 * `content`: a tag, manifest or Grant was written. `failures`: remembered failures are to be forgotten. `secrets`:
 * credentials have changed.
 */
export type Topic = 'content' | 'failures' | 'secrets';
