/**
 * metadata/: what is known about content. May import oci/ and lib/.
 *
 * Manifests with their bytes, tags, Links (this content belongs to this repository), Grants (this credential may
 * read it), blobs that are held, Leases ("I am working on this") and last use. The contract is
 * asynchronous and holds no SQL; `metadata-store.suite.ts` is what every implementation passes. Every write is one
 * short transaction, durable when its promise resolves. Absent is `undefined`; a throw means broken.
 */
import type { Lease } from '../lib/lease.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { CredentialUsage } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import type { IssuedCredential, KnownTenant } from '../oci/issued-credential.ts';
import type { Manifest, ManifestView } from '../oci/manifest.ts';
import type { Page } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';

export interface TagRow {
  readonly digest: Digest;
  /** When upstream last said that the tag means this digest; for a hosted tag, when it was pushed. Epoch ms. */
  readonly checkedAtMs: number;
}

/** A remembered proof that a credential may read a repository. `credentialId` '' means anybody: it is public. */
export interface Grant {
  readonly credentialId: string;
  /** Epoch ms of the last upstream success. */
  readonly verifiedAtMs: number;
}

/** A place in the order of all Grants. */
export interface GrantPosition {
  readonly repositoryId: number;
  readonly credentialId: string;
}

export interface EndedGrants {
  readonly ended: number;
  readonly next: GrantPosition | undefined;
}

/** What an operator's import brought into a mirrored repository for `grantee`, who may read just that. */
export interface Preload {
  /** '' is everybody. */
  readonly grantee: string;
  /** Epoch ms of the last import. */
  readonly atMs: number;
}

/** An upload session of a hosted repository; its bytes are the ingest `upload-<id>`. */
export interface Upload {
  readonly id: string;
  readonly repository: Repository;
  /** Who began it: `Requester.id`. */
  readonly requester: string;
  readonly startedAtMs: number;
  readonly touchedAtMs: number;
}

/** A document that upstream gave for a repository and that is no manifest: a tag list, a referrers list. */
export interface Document {
  readonly mediaType: string;
  readonly bytes: Uint8Array;
  readonly checkedAtMs: number;
}

/** What an import brings into one repository. */
export interface ImportedContent {
  readonly manifests: readonly { readonly manifest: Manifest; readonly view: ManifestView }[];
  readonly blobs: readonly SizedDigest[];
  /** Who may read all of it from now on (`Preload`); `undefined` adds nobody to those who may already. */
  readonly grantee?: string | undefined;
}

export interface SizedDigest {
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
}

/** What a repository lacks of what is required of it. */
export interface Lack extends SizedDigest {
  /** Of what is linked under this digest; `undefined`: nothing is. */
  readonly linkedSize: number | undefined;
}

/** A name for content that is held and linked in its repository. */
export interface Publication {
  readonly repository: Repository;
  /** What is pinned when there is no tag. */
  readonly digest: Digest;
  readonly tag: string | undefined;
}

/** Content by what it is held as. */
export interface Content {
  readonly kind: 'blob' | 'manifest';
  readonly digest: Digest;
}

/** That a blob belongs to a repository. */
export interface BlobLink {
  readonly repository: Repository;
  readonly digest: Digest;
}

/** What is known of content whose bytes are not what its digest says, or are gone. */
export interface Damage {
  readonly foundAtMs: number;
  readonly reason: string;
}

/** What makes a blob's row true in the moment in which it is written. */
export interface BlobProof {
  /** Under which its bytes came. */
  readonly lease: Lease;
  /** Whether the bytes are in the BlobStore. Asked within the transaction, so that no removal can come in between. */
  readonly isThere: () => boolean;
}

/** What is done to bytes in the transaction that says that nobody needs them. Synchronous, and quick. */
export interface DamagedBytes {
  /** Whether they are still those that were found to be damaged. */
  readonly isSame: () => boolean;
  /** Called for mirrored content, which can be brought again. */
  readonly takeAway: () => void;
}

/** How much is held, in any repository. */
export interface Totals {
  /** Those that `hasRepository`. */
  readonly repositories: number;
  readonly manifests: number;
  readonly manifestBytes: number;
  readonly blobs: number;
  readonly blobBytes: number;
}

/** What the owner of a hosted repository takes, and the repository itself. */
export interface Usage {
  /** Of what is linked in the owner's repositories; linked in two, it counts in both. */
  readonly bytes: number;
  /** Of what was linked there last, is linked nowhere now, and is still on disk until garbage is collected. */
  readonly uncollectedBytes: number;
  /** Of the owner. */
  readonly repositories: number;
  /** Whether the repository is one of them. */
  readonly isKnown: boolean;
  /** In the repository. */
  readonly tags: number;
  /** Whether the manifest asked about is linked in the repository. */
  readonly hasManifest: boolean;
  /** How many of the tags asked about the repository does not have. */
  readonly newTags: number;
}

/** A manifest that is about to be stored in a repository. */
export interface ComingManifest {
  readonly digest: Digest;
  readonly tags: readonly string[];
}

export interface Paged<T> {
  readonly entries: readonly T[];
  /** Whether more entries sort after the last one given. */
  readonly more: boolean;
}

export interface MetadataStore {
  // Manifests. Bytes are held once; those that are not the digest's are damage, and absent. What they name, and so need,
  // depends on the media type under which they are read: each repository that has a Link to them reads them as it was given
  // them last, whatever others were given.

  /** Held for any repository; of how they are read, the digest says nothing. */
  readManifestBytes(digest: Digest): Promise<Uint8Array | undefined>;
  /** Held, and linked in this repository: with the media type that it has there. */
  readLinkedManifest(repository: Repository, digest: Digest): Promise<Manifest | undefined>;
  /**
   * Keeps the manifest with what it names, and links it: under this media type alone, from now on, in this repository.
   * With `tag`, moves the tag too: one transaction. Of `required`, what is not linked in this repository with that size is
   * returned, and then nothing is written.
   */
  putManifest(
    repository: Repository,
    manifest: Manifest,
    view: ManifestView,
    options: { tag?: string; atMs: number; required?: readonly SizedDigest[] },
  ): Promise<readonly Lack[]>;
  /** Removes the Link and every tag of this repository that means it. False when there was none. */
  unlinkManifest(repository: Repository, digest: Digest): Promise<boolean>;
  /** Removes the Link unless a tag, a pin or another manifest of this repository names it: false when one does. */
  unlinkUnnamed(repository: Repository, digest: Digest): Promise<boolean>;
  /**
   * Manifests linked in this repository whose `subject`, as they are read here, is `subject`; by digest. With
   * `preloadedFor`, only those that are preloaded for one of these grantees.
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
  /** The tag and, when it is held and linked, its manifest: one look-up, for the hot path. */
  readTagged(
    repository: Repository,
    tag: string,
  ): Promise<{ readonly tag: TagRow; readonly manifest: Manifest | undefined } | undefined>;
  /** Sets what the tag means. */
  putTag(repository: Repository, tag: string, row: TagRow): Promise<void>;
  /** False when there was none. */
  removeTag(repository: Repository, tag: string): Promise<boolean>;
  /** In ASCII order; with `preloadedFor`, only those that mean a manifest preloaded for one of these grantees. */
  listTags(repository: Repository, page: Page, preloadedFor?: readonly string[]): Promise<Paged<string>>;
  /** Those that mean the digest, in ASCII order. */
  listTagsOf(repository: Repository, digest: Digest, page: Page): Promise<Paged<string>>;

  // Repositories.

  /** Whether anything was ever linked or tagged in it and not all of it removed. */
  hasRepository(repository: Repository): Promise<boolean>;
  /** Names within one upstream ('' = hosted), in ASCII order. */
  listRepositories(upstream: string, page: Page): Promise<Paged<string>>;
  /** Bytes of what is linked in the hosted repositories `owner` and `owner/…`; linked in two, it counts in both. */
  usedBytes(owner: string): Promise<number>;
  /** Of `owner`, the first component of the hosted repository's name; one look-up, whatever it owns. */
  readUsage(owner: string, repository: Repository, coming?: ComingManifest): Promise<Usage>;
  /** Forgets Links, tags, documents and Grants of the repository; content goes with the next garbage collection. */
  removeRepository(repository: Repository): Promise<void>;

  // Blobs. A row says that the bytes are in the BlobStore, verified and synced.

  statBlob(digest: Digest): Promise<{ readonly size: number } | undefined>;
  /**
   * The row and, with `repository`, the Link: one transaction, after BlobStore's commit. Ends damage. With `proof`: false,
   * and nothing is written, when the bytes are not there any more; rejects with LeaseLost when the Lease is another's.
   */
  putBlob(digest: Digest, size: number, repository?: Repository, proof?: BlobProof): Promise<boolean>;
  /** Removes the row (before the bytes). Links stay: they say where it belongs, not that it is here. */
  removeBlob(digest: Digest): Promise<boolean>;
  /** Whether content belongs to the repository, held or not. */
  isLinked(repository: Repository, digest: Digest): Promise<boolean>;
  /** `size` as upstream gave it. */
  linkBlob(repository: Repository, digest: Digest, size: number): Promise<void>;
  unlinkBlob(repository: Repository, digest: Digest): Promise<boolean>;
  /** The size that a Link, or a manifest linked in this repository as it is read here, gives for the blob. */
  namedSize(repository: Repository, digest: Digest): Promise<number | undefined>;
  /** Whether a manifest that is linked in this repository names it, as it is read here. */
  isNamed(repository: Repository, digest: Digest): Promise<boolean>;

  // Documents of a mirrored repository, by a name of the caller's.

  readDocument(repository: Repository, name: string): Promise<Document | undefined>;
  putDocument(repository: Repository, name: string, document: Document): Promise<void>;

  // Grants.

  /** Those of `credentialIds`; of all if left out, which are as many as ever had a right. */
  readGrants(repository: Repository, credentialIds?: readonly string[]): Promise<readonly Grant[]>;
  putGrant(repository: Repository, grant: Grant): Promise<void>;
  endGrant(repository: Repository, credentialId: string): Promise<void>;
  /** Ends every Grant of a credential that is gone. */
  endGrantsOf(credentialId: string): Promise<void>;
  /**
   * Of some Grants behind `after`, ends those that were verified before `beforeMs`. Returns how many, and where to go on;
   * `undefined` at the end.
   */
  endGrantsBefore(beforeMs: number, after?: GrantPosition): Promise<EndedGrants>;

  // Imports. First the content, repository by repository, then all names at once. A preload goes with its Link.

  /** Whether the content was imported into the repository for one of these grantees. */
  isPreloaded(repository: Repository, digest: Digest, grantees: readonly string[]): Promise<boolean>;
  /** One for each grantee of the repository: for people to read, since it counts. */
  listPreloads(repository: Repository): Promise<readonly Preload[]>;
  /** Ends every preload of a grantee that is gone. */
  endPreloadsOf(grantee: string): Promise<void>;

  /**
   * Keeps the manifests and links them, as `putManifest` does, and the blobs, and preloads all of it for `grantee`: one
   * transaction. Blobs that are not held are returned, and then nothing is written.
   */
  putContent(repository: Repository, content: ImportedContent, atMs: number): Promise<readonly Digest[]>;
  /** Moves the tags, and pins what they or the digests name: one transaction for all. */
  publish(publications: readonly Publication[], atMs: number): Promise<void>;

  // Pins. A pinned tag or digest, and everything under it, is never evicted. They go with their repository.

  putPin(repository: Repository, reference: string): Promise<void>;
  /** False when there was none. */
  removePin(repository: Repository, reference: string): Promise<boolean>;
  /** In ASCII order. */
  listPins(repository: Repository): Promise<readonly string[]>;
  /** Those of this repository that keep the content: that mean it, or a manifest above it as it is read here. */
  listPinsOver(repository: Repository, digest: Digest): Promise<readonly string[]>;

  // Tenants and the credentials that were issued to them: few, and read as a whole.

  listKnownTenants(): Promise<readonly KnownTenant[]>;
  /** Adds the tenants, or binds them anew: all or none. */
  putKnownTenants(tenants: readonly KnownTenant[]): Promise<void>;
  /** Nothing else of it: what it owns and what was issued to it stays. */
  removeKnownTenant(name: string): Promise<void>;
  /** Those that have ended too. */
  listIssuedCredentials(): Promise<readonly IssuedCredential[]>;
  /** All of them or none, each added or replaced by its id. */
  putIssuedCredentials(credentials: readonly IssuedCredential[]): Promise<void>;
  /** By credential; of all that was ever put, until it is removed. */
  listCredentialUsage(): Promise<readonly CredentialUsage[]>;
  /** All of them or none; of each time the later one counts, whichever process put it. */
  putCredentialUsage(usage: readonly CredentialUsage[]): Promise<void>;
  removeCredentialUsage(credentialIds: readonly string[]): Promise<void>;

  // Upkeep. Each call is one transaction, so callers give few at a time. What came to be needed meanwhile stays:
  // whether it is needed and that it goes are one step. `unusedSinceMs`: what was made or used later stays too.

  /** Removes Links of blobs that no manifest linked in the repository names, and that no pin names. How many. */
  expireLinks(links: readonly BlobLink[], unusedSinceMs: number): Promise<number>;
  // Rows go before their bytes: give those that went to `ifStray`, to take the bytes away.

  /** Removes rows of manifests without a Link, and of blobs without a Link that no held manifest names. Those that went. */
  removeUnneeded(contents: readonly Content[], unusedSinceMs: number): Promise<readonly Content[]>;
  /** Removes rows of what is linked in mirrored repositories alone and is under no pin; Links stay. Those that went. */
  evict(contents: readonly Content[], unusedSinceMs: number): Promise<readonly Content[]>;
  /**
   * Calls `act` if nothing says that bytes of this digest should be here: no row, no damage, no Fill, and no Link of a
   * repository that lives here, whose blob cannot be brought again. Nothing can come to say it while `act` runs, which is
   * synchronous and quick: only so may bytes be taken away. Whether it was called.
   */
  ifStray(digest: Digest, act?: () => void): Promise<boolean>;
  /**
   * Removes the row of damaged content, so that it is absent until it is brought again, and remembers the damage until
   * then. What a damaged manifest names stays needed. Says whether a repository that lives here has lost it; `undefined`
   * when the row had gone already, or `bytes` are others by now.
   */
  quarantine(
    content: Content,
    reason: string,
    bytes?: DamagedBytes,
  ): Promise<'hosted' | 'mirrored' | undefined>;
  readDamage(digest: Digest): Promise<Damage | undefined>;
  countDamaged(): Promise<number>;
  /** Forgets the damage of content that nobody wants any more. */
  endDamage(digest: Digest): Promise<void>;

  // Uploads.

  // With `lease`, writes reject with LeaseLost when it is another's by now.

  putUpload(upload: Upload, lease?: Lease): Promise<void>;
  readUpload(id: string): Promise<Upload | undefined>;
  removeUpload(id: string, lease?: Lease): Promise<boolean>;
  countUploads(repository: Repository): Promise<number>;
  /** Those that this requester began, in any repository. */
  countUploadsOf(requester: string): Promise<number>;
  listUploads(touchedBeforeMs: number, limit: number): Promise<readonly Upload[]>;

  // Between processes.

  /**
   * Takes the Lease `key`, because it is free or its process is dead: killed, or no heartbeat was seen for 5 s. `undefined`
   * when somebody holds it, this process included: whoever shares work within a process does so by itself. Held until
   * `release`, `setAside`, `close` or the end of this process.
   */
  acquireLease(key: string): Promise<Lease | undefined>;
  /** Ends Leases whose work is done. */
  release(...leases: readonly Lease[]): Promise<void>;
  /** Ends a Lease whose work waits for the next holder: he finds it by `left`. */
  setAside(lease: Lease): Promise<void>;
  /** Whether some live process holds it, as far as has been seen. */
  isClaimed(key: string): Promise<boolean>;
  /** The Lease as it stands now, held or left; `undefined` when nobody has it, nor has left anything. */
  readLease(key: string): Promise<{ readonly epoch: number; readonly isHeld: boolean } | undefined>;
  /** Tells the other processes on this store that something under `topic` changed; not this one. */
  notify(topic: Topic): Promise<void>;
  /** Calls `listener` within about a second of another process's `notify`. Returns the way to stop. */
  onNotification(topic: Topic, listener: () => void): () => void;
  /** Has listeners called of what was announced until now, for who cannot wait that second. */
  pollNotifications(): Promise<void>;

  // Small state, and use.

  /** A value that all processes share, such as the key of keyed hashes. */
  readSetting(name: string): Promise<string | undefined>;
  putSetting(name: string, value: string): Promise<void>;
  /** Sets it unless it is set; returns what counts. */
  initSetting(name: string, value: string): Promise<string>;
  /** Notes that content was served. Batched in memory; a crash may lose the last seconds. */
  noteUse(digest: Digest): void;
  /** The same for whoever relies on it from now on: upkeep, in whatever process, knows of it when this resolves. */
  putUse(digest: Digest): Promise<void>;
  // A clock that was ahead leaves uses in the future, which would keep content until it catches up.

  /** Whether any content was last used, or any upload touched, later than that. */
  hasLaterUses(thanMs: number): Promise<boolean>;
  /** Sets a few of these back to `toMs`; how many. */
  lowerUses(laterThanMs: number, toMs: number): Promise<number>;
  /** Lets these Links of blobs count as made at `toMs`, unless they are older. */
  lowerLinks(links: readonly BlobLink[], toMs: number): Promise<void>;
  /** Kept with every write, so reading them costs nothing whatever the size of the store. */
  readTotals(): Promise<Totals>;
  /** Processes that work on the store and live, as far as their heartbeats tell; this one included. */
  countProcesses(): Promise<number>;
  /** For how long another process has kept every write of this one waiting; 0 when none waits. */
  lockedOutForMs(): number;
  /**
   * Set while what this process has open is not the index of the store any more: reads answer what it knew, and every write
   * is rejected with it.
   */
  loss(): Error | undefined;
  close(): Promise<void>;
}

/** `content`: a tag, manifest or Grant was written. `failures`: remembered failures are to be forgotten. `secrets`: credentials changed. */
export type Topic = 'content' | 'failures' | 'secrets';
