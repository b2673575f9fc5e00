import { setTimeout as delay } from 'node:timers/promises';
import { type Clock, systemClock } from '../lib/clock.ts';
import type { Lease, LeaseState, Presence } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import type { CredentialUsage } from '../oci/credential.ts';
import { type Digest, DIGEST_MISMATCH, isDigest } from '../oci/digest.ts';
import type { IssuedCredential, KnownTenant } from '../oci/issued-credential.ts';
import type { Manifest, ManifestView } from '../oci/manifest.ts';
import type { BlobPullRead, PullRead, TagRow } from '../oci/pull-read.ts';
import type { Page } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import { type SinceAsked, slotOf, slotsOf } from './ended-rights.ts';
import type {
  AddedImages,
  AddRecordedOptions,
  HostedImage,
  RecordedImage,
  UnrecordedImage,
} from './image-record.ts';
import { IndexAway } from './index-away.ts';
import { LastUsed, type Use } from './last-used.ts';
import { damagedManifest, ManifestCheck } from './manifest-check.ts';
import type {
  BlobLink,
  BlobObject,
  BlobProof,
  ComingManifest,
  ComingObject,
  Content,
  DamagedBytes,
  Document,
  During,
  Grant,
  GrantConditions,
  ImportedContent,
  Lack,
  MetadataStore,
  NamedContent,
  PullQuery,
  SizedDigest,
  Topic,
  Upload,
  WithGrants,
  WithMessages,
} from './metadata-store.ts';
import { namedIn } from './named-content.ts';
import * as blobs from './postgres/blobs.ts';
import * as credentialUsage from './postgres/credential-usage.ts';
import { Database } from './postgres/database.ts';
import { lockSpace } from './postgres/digest-locks.ts';
import * as documents from './postgres/documents.ts';
import * as endedRights from './postgres/ended-rights.ts';
import * as grants from './postgres/grants.ts';
import { Heartbeat, type StoreFolder } from './postgres/heartbeat.ts';
import * as imageRecords from './postgres/image-records.ts';
import { IndexVersion, VERSION } from './postgres/index-version.ts';
import * as leases from './postgres/leases.ts';
import type { LeaseName } from './postgres/leases.ts';
import * as links from './postgres/links.ts';
import * as manifests from './postgres/manifests.ts';
import { migrate } from './postgres/migrations.ts';
import { Notifications } from './postgres/notifications.ts';
import * as objects from './postgres/objects.ts';
import { OtherReaders } from './postgres/other-readers.ts';
import { PostgresOutbox, putMessages } from './postgres/outbox.ts';
import * as pins from './postgres/pins.ts';
import type { PostgresSettings } from './postgres/postgres-settings.ts';
import * as preloads from './postgres/preloads.ts';
import * as pulls from './postgres/pulls.ts';
import * as removals from './postgres/removals.ts';
import * as replicas from './postgres/replicas.ts';
import * as repositories from './postgres/repositories.ts';
import type { PostgresSession, Rows } from './postgres/session.ts';
import * as settings from './postgres/settings.ts';
import * as tags from './postgres/tags.ts';
import * as tenants from './postgres/tenants.ts';
import * as uploads from './postgres/uploads.ts';
import { type WriteOptions, Writer } from './postgres/writer.ts';
import { BLOB_MEMORY, MANIFEST_MEMORY, PullMemory } from './pull-memory.ts';
import { meansIncomplete, STOPPED } from './store-identity.ts';

/** The pause between two transactions that remove the rows of a removed repository. */
const SWEEP_PAUSE_MS = 20;

/** One statement for each kind of content; most of what a busy server notes in a few seconds. */
const MAX_USES_PER_WRITE = 1_000;

/** For a write that no pull is answered from. */
const ASIDE: WriteOptions = { bearsOnPulls: false };

export interface PostgresOptions {
  readonly log: Log;
  /** That of the heartbeat. Default: the system's. */
  readonly clock?: Clock;
  /** The store's folder: processes on the index must have the same, unless they are replicas. */
  readonly folder: StoreFolder;
  /** Whether a thread opens it whose process has it open already: `countProcesses` does not count it. */
  readonly isThread?: boolean;
  /** Whether this process is the server of the folder's replica, rather than a command. Default: no. */
  readonly serves?: boolean;
  /** Called once a second while it is open. */
  readonly onBeat?: () => void;
}

/**
 * Opens the index in a PostgreSQL database, creates or migrates it, and joins the other processes that use it. Rejects
 * with IndexAway if it cannot be reached.
 */
export async function openPostgresMetadataStore(
  where: PostgresSettings,
  { log, clock = systemClock, folder, isThread = false, serves = false, onBeat = () => {} }: PostgresOptions,
): Promise<MetadataStore> {
  const database = new Database(where);
  try {
    await migrate(database);
    const writer = new Writer(database);
    const notifications = new Notifications(database, writer, log);
    await notifications.watch.begin();
    const beat = () => {
      notifications.watch.beat();
      onBeat();
    };
    const parts = { database, writer, folder, log, clock, isThread, serves, onBeat: beat };
    const heartbeat = await Heartbeat.join(parts);
    return new PostgresMetadataStore({ database, writer, notifications, heartbeat, log });
  } catch (error) {
    await database.close();
    throw error;
  }
}

interface Parts {
  readonly database: Database;
  readonly writer: Writer;
  readonly notifications: Notifications;
  readonly heartbeat: Heartbeat;
  readonly log: Log;
}

type ManifestAnswer = PullRead & WithGrants;
type BlobAnswer = BlobPullRead & WithGrants;

/** Combines statements into reads and writes, and says what each write locks. Their meaning is described in the contract. */
class PostgresMetadataStore implements MetadataStore {
  readonly outbox: PostgresOutbox;
  readonly #database: Database;
  readonly #writer: Writer;
  readonly #notifications: Notifications;
  readonly #heartbeat: Heartbeat;
  readonly #log: Log;
  readonly #lastUsed: LastUsed;
  readonly #check = new ManifestCheck();
  readonly #version: IndexVersion;
  readonly #others: OtherReaders;
  readonly #manifestMemory = new PullMemory<pulls.Referred, pulls.Referred & pulls.ForRequester>(
    MANIFEST_MEMORY,
  );
  readonly #blobMemory = new PullMemory<pulls.BlobSizes, pulls.BlobSizes & pulls.ForRequester>(BLOB_MEMORY);
  #sweeping: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  constructor({ database, writer, notifications, heartbeat, log }: Parts) {
    this.#database = database;
    this.#writer = writer;
    this.#notifications = notifications;
    this.#heartbeat = heartbeat;
    this.#log = log;
    this.#version = new IndexVersion({
      ask: () => readVersion(database),
      seenSinceMs: () => heartbeat.seenSinceMs,
    });
    this.#others = new OtherReaders(database, heartbeat.processId);
    this.outbox = new PostgresOutbox(database, writer, (session, lease) => this.#require(session, lease));
    this.#lastUsed = new LastUsed({
      write: (uses, resolutionMs) => this.#writeUses(uses, resolutionMs),
      maxUsesPerWrite: MAX_USES_PER_WRITE,
      log,
    });
    this.#sweepBehind();
  }

  get presence() {
    return this.#heartbeat.presence;
  }

  requirePresence(presence: Presence) {
    return this.#heartbeat.confirmPresence(presence);
  }

  readForPull(repository: Repository, reference: string, query: PullQuery = {}): Promise<ManifestAnswer> {
    return this.#pull(this.#manifestMemory, repository, reference, query, {
      read: () => this.#readReferred(repository, reference, query),
      digestOf: ({ manifest }) => manifest?.digest,
      bytesOf: ({ manifest }) => manifest?.bytes.byteLength,
    });
  }

  readBlobForPull(repository: Repository, digest: Digest, query: PullQuery = {}): Promise<BlobAnswer> {
    return this.#pull(this.#blobMemory, repository, digest, query, {
      read: () => pulls.readBlobSizes(this.#database, repository, digest, query),
      digestOf: () => digest,
      // Clients ask for any digest.
      bytesOf: ({ linkedSize }) => (linkedSize === undefined ? undefined : 0),
    });
  }

  async readManifestBytes(digest: Digest) {
    const bytes = await manifests.readManifestBytes(this.#database, digest);
    return (await this.#sound(bytes && { digest, bytes }))?.bytes;
  }

  async readLinkedManifest(repository: Repository, digest: Digest) {
    return this.#sound(await manifests.readLinkedManifest(this.#database, repository, digest));
  }

  putManifest(
    repository: Repository,
    manifest: Manifest,
    view: ManifestView,
    {
      tag,
      atMs,
      required = [],
      ...along
    }: { tag?: string; atMs: number; required?: readonly SizedDigest[] } & WithMessages,
  ): Promise<readonly Lack[]> {
    const { during } = along;
    const { digest } = manifest;
    const shared = [...digestsIn(view), ...required.map(one => one.digest)];
    return this.#write({ alone: [digest], shared, during }, async session => {
      const known = await repositories.repositoryId(session, repository, 'counted');
      const lacks = await links.lacksOf(session, known, required);
      if (lacks.length > 0) return lacks;
      const id = known ?? (await repositories.repositoryIdOrNew(session, repository, 'counted'));
      await putManifestWithin(session, id, manifest, view, atMs);
      if (tag !== undefined) await tags.putTag(session, id, tag, { digest, checkedAtMs: atMs });
      await putAlong(session, along);
      return [];
    });
  }

  unlinkManifest(repository: Repository, digest: Digest, along?: WithMessages) {
    return this.#writeIn(repository, { alone: [digest], during: along?.during }, async (session, id) => {
      await tags.removeTagsOf(session, id, digest);
      const isRemoved = await links.removeLink(session, id, digest, 'manifest');
      if (isRemoved) await putAlong(session, along);
      return isRemoved;
    });
  }

  unlinkUnnamed(repository: Repository, digest: Digest, { during }: During = {}) {
    return this.#write({ alone: [digest], during }, async session => {
      const id = await repositories.repositoryId(session, repository, 'counted');
      return id === undefined || links.removeUnnamedLink(session, id, digest);
    });
  }

  listReferrers(
    repository: Repository,
    subject: Digest,
    artifactType: string | undefined,
    page: Page,
    preloadedFor?: readonly string[],
  ) {
    return manifests.readReferrerPage(this.#database, repository, subject, artifactType, page, preloadedFor);
  }

  readTag(repository: Repository, tag: string) {
    return tags.readTag(this.#database, repository, tag);
  }

  putTag(repository: Repository, tag: string, row: TagRow, along?: WithMessages) {
    return this.#write({ during: along?.during }, async session => {
      const id = await repositories.repositoryIdOrNew(session, repository, 'counted');
      await tags.putTag(session, id, tag, row);
      await putAlong(session, along);
    });
  }

  removeTag(repository: Repository, tag: string, along?: WithMessages) {
    return this.#writeIn(repository, { during: along?.during }, async (session, id) => {
      const isRemoved = await tags.removeTag(session, id, tag);
      if (isRemoved) await putAlong(session, along);
      return isRemoved;
    });
  }

  listTags(repository: Repository, page: Page, preloadedFor?: readonly string[]) {
    return tags.readTagPage(this.#database, repository, page, preloadedFor);
  }

  listTagsOf(repository: Repository, digest: Digest, page: Page) {
    return tags.readTagPageOf(this.#database, repository, digest, page);
  }

  hasRepository(repository: Repository) {
    return repositories.hasEntries(this.#database, repository);
  }

  listRepositories(upstream: string, page: Page) {
    return repositories.listNames(this.#database, upstream, page);
  }

  readOwnerBytes(owners: readonly string[]) {
    return repositories.readOwnerBytes(this.#database, owners);
  }

  readUsage(owner: string, repository: Repository, coming?: ComingManifest) {
    return repositories.readUsage(this.#database, owner, repository, coming);
  }

  async removeRepository(repository: Repository, along?: WithMessages) {
    await this.#write({ during: along?.during }, async session => {
      if (await repositories.removeRepository(session, repository)) await putAlong(session, along);
    });
    this.#sweepBehind();
  }

  statBlob(digest: Digest) {
    return blobs.statBlob(this.#database, digest);
  }

  putBlob(digest: Digest, size: number, repository?: Repository, proof?: BlobProof) {
    return this.#write({ alone: [digest], during: proof?.during }, async session => {
      await this.#require(session, proof?.lease);
      if (proof?.isThere?.() === false) return false;
      if (proof?.key !== undefined && !(await objects.settleObject(session, proof.key))) return false;
      const id = repository && (await repositories.repositoryIdOrNew(session, repository, 'counted'));
      await blobs.putBlob(session, digest, size, proof?.key);
      await removals.endDamage(session, [digest]);
      if (id !== undefined) await links.putBlobLinks(session, id, [{ digest, size }]);
      return true;
    });
  }

  removeBlob(digest: Digest) {
    return this.#write({ alone: [digest] }, session => blobs.removeBlob(session, digest));
  }

  putFoundBlob({ digest, key }: BlobObject, size: number, { during }: During = {}) {
    return this.#write({ alone: [digest], during }, async session => {
      if ((await blobs.statBlob(session, digest)) !== undefined) return false;
      if (await objects.hasObject(session, key)) return false;
      await blobs.putBlob(session, digest, size, key);
      await removals.endDamage(session, [digest]);
      return true;
    });
  }

  announceObject(object: ComingObject, lease: Lease) {
    return this.#write(ASIDE, async session => {
      await this.#require(session, lease);
      await objects.announceObject(session, object, lease.epoch);
    });
  }

  giveUpObject(key: string) {
    return this.#write(ASIDE, session => objects.giveUpObject(session, key));
  }

  giveUpAbandonedObjects(beforeMs: number) {
    return this.#write(ASIDE, session => objects.giveUpAbandonedObjects(session, beforeMs));
  }

  giveUpStrayObjects(found: readonly BlobObject[]) {
    const options = { alone: found.map(({ digest }) => digest), bearsOnPulls: false };
    return this.#write(options, session => objects.giveUpStrayObjects(session, found));
  }

  listGivenUpObjects(beforeMs: number, limit: number) {
    return objects.listGivenUpObjects(this.#database, beforeMs, limit);
  }

  forgetObjects(keys: readonly string[]) {
    return this.#write(ASIDE, session => objects.forgetObjects(session, keys));
  }

  listUnrecorded(limit: number, after?: HostedImage) {
    return imageRecords.listUnrecorded(this.#database, limit, after);
  }

  countUnrecorded(most: number) {
    return imageRecords.countUnrecorded(this.#database, most);
  }

  isUnrecorded(image: HostedImage) {
    return imageRecords.isUnrecorded(this.#database, image);
  }

  readImageRecord(image: HostedImage) {
    return imageRecords.readImageRecord(this.#database, image);
  }

  isHostedManifest(digest: Digest) {
    return imageRecords.isHostedManifest(this.#database, digest);
  }

  noteRecorded(image: UnrecordedImage) {
    // Lost when the database crashes, it is recorded once more.
    return this.#write({ ...ASIDE, outlivesPower: false }, session =>
      imageRecords.noteRecorded(session, image),
    );
  }

  addRecordedImages(images: readonly RecordedImage[], { setting, during, ...options }: AddRecordedOptions) {
    const contents = images.flatMap(({ content }) => content ?? []);
    const alone = images.map(({ digest }) => digest);
    const shared = contents.flatMap(({ view, blobs: own }) => [
      ...digestsIn(view),
      ...own.map(({ digest }) => digest),
    ]);
    return this.#write({ alone, shared, during }, async session => {
      const named = images.map(({ name }) => ({ upstream: '', name }));
      const added = new Array<AddedImages>();
      for (const repository of repositories.inLockingOrder(named)) {
        let id = await repositories.repositoryId(session, repository, 'counted');
        const idOrNew = async () =>
          (id ??= await repositories.repositoryIdOrNew(session, repository, 'counted'));
        for (const image of images.filter(({ name }) => name === repository.name)) {
          added.push(await addRecordedWithin(session, idOrNew, image, options));
        }
      }
      if (setting !== undefined) await settings.putSetting(session, setting.name, setting.value);
      return {
        manifests: added.reduce((sum, one) => sum + one.manifests, 0),
        tags: added.reduce((sum, one) => sum + one.tags, 0),
        missing: added.flatMap(({ missing }) => missing),
      };
    });
  }

  noteUnrecorded(images: readonly HostedImage[]) {
    return this.#write(ASIDE, session => imageRecords.noteUnrecorded(session, images));
  }

  noteAllUnrecorded(after?: HostedImage) {
    return this.#write(ASIDE, session => imageRecords.noteAllUnrecorded(session, after));
  }

  isLinked(repository: Repository, digest: Digest) {
    return links.hasLink(this.#database, repository, digest);
  }

  linkBlob(repository: Repository, digest: Digest, size: number, { during }: During = {}) {
    return this.#write({ shared: [digest], during }, async session => {
      const id = await repositories.repositoryIdOrNew(session, repository, 'counted');
      await links.putBlobLinks(session, id, [{ digest, size }]);
    });
  }

  unlinkBlob(repository: Repository, digest: Digest, { during }: During = {}) {
    return this.#writeIn(repository, { alone: [digest], during }, (session, id) =>
      links.removeLink(session, id, digest, 'blob'),
    );
  }

  namedSize(repository: Repository, digest: Digest) {
    return links.namedSize(this.#database, repository, digest);
  }

  listNamings(digest: Digest) {
    return links.namings(this.#database, digest);
  }

  isNamed(repository: Repository, digest: Digest) {
    return links.isNamedByManifest(this.#database, repository, digest);
  }

  readReferrersList(repository: Repository, subject: Digest) {
    return documents.readReferrersList(this.#database, repository, subject);
  }

  async putReferrersList(repository: Repository, subject: Digest, list: Document) {
    // Clients ask about any digest, and only for one that is stored is a transaction worth its locks.
    if (!(await documents.hasSubject(this.#database, repository, subject))) return;
    await this.#write({ shared: [subject] }, session =>
      documents.putReferrersList(session, repository, subject, list),
    );
  }

  readGrants(repository: Repository, credentialIds?: readonly string[]) {
    return grants.readGrants(this.#database, repository, credentialIds);
  }

  putGrant(
    repository: Repository,
    grant: Grant,
    { unlessEnded, during }: GrantConditions = {},
  ): Promise<boolean> {
    const hasEnded = this.#endCheck(repository, unlessEnded);
    return this.#write({ during }, async session => {
      if (unlessEnded !== undefined) await this.#lockEnds(session, { alone: false });
      if (await hasEnded(session)) return false;
      const id = await repositories.repositoryIdOrNew(session, repository, 'kept');
      await grants.putGrant(session, id, grant);
      return true;
    });
  }

  async endGrant(repository: Repository, credentialId: string) {
    // Clients are refused any name: none of these is worth a commit unless somebody relies on it.
    const isRelied =
      (await leases.hasOthers(this.#database, this.#heartbeat.processId)) ||
      (await grants.readGrants(this.#database, repository, [credentialId])).length > 0;
    if (!isRelied) return;
    await this.#noteEnd(slotOf(credentialId, repository));
    // From now on, no other process records one of what it has asked before.
    if ((await grants.readGrants(this.#database, repository, [credentialId])).length === 0) return;
    await this.#write({}, session => grants.endGrant(session, repository, credentialId));
  }

  async hasEndedGrant(repository: Repository, since: SinceAsked) {
    if (await this.#endCheck(repository, since)(this.#database)) return true;
    // Others note no end for a process that they consider dead: it is asked last whether this one is.
    return !(await leases.isAlive(this.#database, this.#heartbeat.processId));
  }

  async endGrantsOf(credentialId: string) {
    await this.#noteEnd(slotOf(credentialId));
    while (await this.#write({}, session => grants.endSomeGrantsOf(session, credentialId))) {
      // The next ones, in another transaction.
    }
  }

  endGrantsBefore(beforeMs: number, after?: string) {
    return this.#write({}, session => grants.endGrantsBefore(session, beforeMs, after));
  }

  putContent(
    repository: Repository,
    { manifests: imported, blobs: sized, grantee }: ImportedContent,
    atMs: number,
    { during }: During = {},
  ): Promise<readonly Digest[]> {
    const digests = [...sized.map(({ digest }) => digest), ...imported.map(one => one.manifest.digest)];
    const alone = imported.map(({ manifest }) => manifest.digest);
    const shared = [...sized.map(({ digest }) => digest), ...imported.flatMap(({ view }) => digestsIn(view))];
    return this.#write({ alone, shared, during }, async session => {
      const missing = await blobs.missingBlobs(session, sized);
      if (missing.length > 0) return missing;
      const id = await repositories.repositoryIdOrNew(session, repository, 'counted');
      await links.putBlobLinks(session, id, sized);
      for (const { manifest, view } of imported) await putManifestWithin(session, id, manifest, view, atMs);
      if (grantee !== undefined) await preloads.putPreloads(session, id, digests, grantee, atMs);
      return [];
    });
  }

  isPreloaded(repository: Repository, digest: Digest, grantees: readonly string[]) {
    return preloads.hasPreload(this.#database, repository, digest, grantees);
  }

  listPreloads(repository: Repository) {
    return preloads.listPreloads(this.#database, repository);
  }

  async endPreloadsOf(grantee: string, { during }: During = {}) {
    while (await this.#write({ during }, session => preloads.endSomePreloadsOf(session, grantee))) {
      // The next ones, in a transaction of their own.
    }
  }

  publish(publications: readonly NamedContent[], atMs: number, { during }: During = {}) {
    return this.#write({ during }, async session => {
      const named = publications.map(({ repository }) => repository);
      const idOf = await repositories.repositoryIdsOrNew(session, named);
      for (const { repository, digest, tag } of publications) {
        const id = idOf(repository);
        if (tag !== undefined) await tags.putTag(session, id, tag, { digest, checkedAtMs: atMs });
        await pins.putPin(session, id, tag ?? digest);
      }
    });
  }

  putPin(repository: Repository, reference: string, { during }: During = {}) {
    return this.#write({ during }, async session => {
      const id = await repositories.repositoryIdOrNew(session, repository, 'kept');
      await pins.putPin(session, id, reference);
    });
  }

  removePin(repository: Repository, reference: string, { during }: During = {}) {
    return this.#writeIn(repository, { during }, (session, id) => pins.removePin(session, id, reference));
  }

  listPins(repository: Repository) {
    return pins.listPins(this.#database, repository);
  }

  listPinsOver(repository: Repository, digest: Digest) {
    return pins.listPinsOver(this.#database, repository, digest);
  }

  listKnownTenants() {
    return tenants.listKnownTenants(this.#database);
  }

  putKnownTenants(known: readonly KnownTenant[], { during }: During = {}) {
    return this.#write({ ...ASIDE, during }, async session => {
      for (const tenant of known) await tenants.putKnownTenant(session, tenant);
    });
  }

  removeKnownTenant(name: string, { during }: During = {}) {
    return this.#write({ ...ASIDE, during }, session => tenants.removeKnownTenant(session, name));
  }

  listIssuedCredentials(of?: readonly string[]) {
    return tenants.listIssuedCredentials(this.#database, of);
  }

  putIssuedCredentials(credentials: readonly IssuedCredential[], { during }: During = {}) {
    return this.#write({ ...ASIDE, during }, async session => {
      for (const credential of credentials) await tenants.putIssuedCredential(session, credential);
    });
  }

  listCredentialUsage() {
    return credentialUsage.listCredentialUsage(this.#database);
  }

  putCredentialUsage(usage: readonly CredentialUsage[]) {
    return this.#write(ASIDE, async session => {
      for (const one of usage) await credentialUsage.putCredentialUsage(session, one);
    });
  }

  removeCredentialUsage(credentialIds: readonly string[]) {
    return this.#write(ASIDE, session => credentialUsage.removeCredentialUsage(session, credentialIds));
  }

  expireLinks(given: readonly BlobLink[], unusedSinceMs: number) {
    return this.#write({ alone: given.map(({ digest }) => digest) }, session =>
      removals.expireLinks(session, this.#withoutNoted(given), unusedSinceMs),
    );
  }

  removeUnneeded(contents: readonly Content[], unusedSinceMs: number) {
    return this.#remove(contents, async session =>
      removals.removeContent(
        session,
        this.#withoutNoted(contents),
        removals.UNNEEDED,
        Math.min(unusedSinceMs, await removals.readImportingSinceMs(session)),
      ),
    );
  }

  removeUnlinked(contents: readonly Content[], unusedSinceMs: number) {
    return this.#remove(contents, async session =>
      removals.removeContent(
        session,
        this.#withoutNoted(contents),
        removals.UNLINKED,
        Math.min(unusedSinceMs, await removals.readImportingSinceMs(session)),
      ),
    );
  }

  importingSinceMs() {
    return removals.readImportingSinceMs(this.#database);
  }

  evict(contents: readonly Content[], unusedSinceMs: number) {
    return this.#remove(contents, session =>
      removals.removeContent(session, this.#withoutNoted(contents), removals.EVICTABLE, unusedSinceMs),
    );
  }

  ifStray(digests: readonly Digest[], act: (digest: Digest) => void) {
    // It writes nothing, so there is nothing to wait for at its commit.
    return this.#write({ alone: digests, bearsOnPulls: false, outlivesPower: false }, async session => {
      if (meansIncomplete(await settings.readSetting(session, STOPPED))) return [];
      const strays = await removals.strayDigests(session, digests);
      if (strays.length > 0) await session.confirmLocks();
      for (const digest of strays) act(digest);
      return strays;
    });
  }

  quarantine(content: Content, reason: string, bytes?: DamagedBytes) {
    return this.#write({ alone: [content.digest] }, async session => {
      const isManifest = bytes !== undefined && content.kind === 'manifest';
      const stored = isManifest ? await manifests.readManifestBytes(session, content.digest) : undefined;
      if (bytes?.isSame(stored) === false) return undefined;
      const { key } = (content.kind === 'blob' && (await blobs.statBlob(session, content.digest))) || {};
      if (bytes !== undefined && bytes.key !== key) return undefined;
      const loss = await removals.quarantine(session, content, reason);
      if (loss === 'hosted' && key !== undefined) await objects.keepObject(session, key);
      if (loss === 'mirrored' && bytes !== undefined) {
        await session.confirmLocks();
        bytes.takeAway();
      }
      return loss;
    });
  }

  readDamage(digest: Digest) {
    return removals.readDamage(this.#database, digest);
  }

  countDamaged() {
    return removals.countDamaged(this.#database);
  }

  endDamage(digest: Digest) {
    return this.#write({ alone: [digest] }, session => removals.endDamage(session, [digest]));
  }

  putUpload(upload: Upload, lease?: Lease) {
    return this.#write(ASIDE, async session => {
      await this.#require(session, lease);
      await uploads.putUpload(session, upload);
    });
  }

  readUpload(id: string) {
    return uploads.readUpload(this.#database, id);
  }

  removeUpload(id: string, lease?: Lease) {
    return this.#write(ASIDE, async session => {
      await this.#require(session, lease);
      return uploads.removeUpload(session, id);
    });
  }

  countUploads(repository: Repository) {
    return uploads.countUploads(this.#database, repository);
  }

  countUploadsOf(requester: string) {
    return uploads.countUploadsOf(this.#database, requester);
  }

  listUploads(touchedBeforeMs: number, limit: number) {
    return uploads.listUploads(this.#database, touchedBeforeMs, limit);
  }

  acquireLease(key: string, onHeld?: (held: LeaseState) => void) {
    return this.#heartbeat.acquireLease(key, onHeld);
  }

  release(...given: readonly Lease[]) {
    return this.#heartbeat.giveBack(given, 'released');
  }

  setAside(lease: Lease) {
    return this.#heartbeat.giveBack([lease], 'set aside');
  }

  readLease(key: string) {
    return this.#heartbeat.read(key);
  }

  notify(topic: Topic) {
    return this.#notifications.notify(topic);
  }

  onNotification(topic: Topic, listener: () => void) {
    return this.#notifications.watch.on(topic, listener);
  }

  pollNotifications() {
    return this.#notifications.watch.look();
  }

  readSetting(name: string) {
    return settings.readSetting(this.#database, name);
  }

  putSetting(name: string, value: string, { during }: During = {}) {
    return this.#write({ ...ASIDE, during }, session => settings.putSetting(session, name, value));
  }

  async initSetting(name: string, value: string) {
    const known = await this.readSetting(name);
    return known ?? this.#write(ASIDE, session => settings.initSetting(session, name, value));
  }

  noteUse(digest: Digest) {
    this.#lastUsed.note(digest);
  }

  putUse(digest: Digest) {
    return this.#lastUsed.put(digest);
  }

  writeUses() {
    return this.#lastUsed.flush();
  }

  hasLaterUses(thanMs: number) {
    return removals.hasLaterUses(this.#database, thanMs);
  }

  lowerUses(laterThanMs: number, toMs: number) {
    return this.#write(ASIDE, session => removals.lowerUses(session, laterThanMs, toMs));
  }

  lowerLinks(given: readonly BlobLink[], toMs: number) {
    return this.#write(ASIDE, session => links.lowerLinks(session, given, toMs));
  }

  readTotals() {
    return blobs.readTotals(this.#database);
  }

  countProcesses() {
    return leases.countProcesses(this.#database);
  }

  listReplicas() {
    return replicas.listReplicas(this.#database);
  }

  listGoneReplicas() {
    return replicas.listGoneReplicas(this.#database);
  }

  endLeaseOfGone(lease: LeaseName) {
    return this.#heartbeat.endLeaseOfGone(lease);
  }

  /** Writes wait for others only by digest or repository, for a few seconds at most. */
  lockedOutForMs() {
    return 0;
  }

  loss() {
    return this.#database.away;
  }

  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  async #end(): Promise<void> {
    try {
      await this.#lastUsed.close();
      await this.#sweeping;
      await this.#heartbeat.close();
    } catch (error) {
      // Others find out by themselves that this process has ended.
      if (!(error instanceof IndexAway)) throw error;
      this.#log.warn(
        { err: error },
        'the database of the index cannot be reached: leases end a few seconds later',
      );
    } finally {
      await this.#database.close();
    }
  }

  /**
   * The answer to a pull: what is remembered, if nothing has changed since, or else what `read` returns. While the
   * database cannot be reached, remembered answers remain valid; what depends on the clock, such as how long a Grant is
   * valid without upstream, is decided for each pull.
   */
  async #pull<C>(
    memory: PullMemory<C, C & pulls.ForRequester>,
    repository: Repository,
    reference: string,
    query: PullQuery,
    {
      read,
      digestOf,
      bytesOf,
    }: {
      readonly read: () => Promise<pulls.PullAnswer<C>>;
      readonly digestOf: (content: C) => Digest | undefined;
      /** How much memory the content takes besides the row; `undefined` if it is not to be remembered. */
      readonly bytesOf: (content: C) => number | undefined;
    },
  ): Promise<C & pulls.ForRequester> {
    if (memory.content(repository, reference) !== undefined) {
      try {
        await this.#version.lookInBatch();
        memory.turnTo(this.#version.version);
      } catch (error) {
        const known = error instanceof IndexAway ? memory.answer(repository, reference, query) : undefined;
        if (known === undefined) throw error;
        return known;
      }
      const known = memory.answer(repository, reference, query);
      if (known !== undefined) return known;
    }
    const askedAtMs = performance.now();
    const answered =
      (await this.#withRemembered(memory, repository, reference, query, digestOf)) ?? (await read());
    const { version, content, grants: granted, isPreloaded } = answered;
    const answer = { ...content, grants: granted, isPreloaded };
    const contentBytes = bytesOf(content);
    if (this.#version.hear(version, askedAtMs) && contentBytes !== undefined) {
      memory.turnTo(version);
      memory.keep(repository, reference, query, { content, contentBytes, answer });
    }
    return answer;
  }

  /** The answer for a requester who asks for something that is remembered; `undefined` if that has changed. */
  async #withRemembered<C, A extends WithGrants>(
    memory: PullMemory<C, A>,
    repository: Repository,
    reference: string,
    query: PullQuery,
    digestOf: (content: C) => Digest | undefined,
  ): Promise<pulls.PullAnswer<C> | undefined> {
    const content = memory.content(repository, reference);
    if (content === undefined) return undefined;
    const { version } = memory;
    const asked = await pulls.readForRequester(this.#database, repository, digestOf(content), query);
    return asked.version === version ? { ...asked, content } : undefined;
  }

  /** What a tag or digest means; a manifest with damaged bytes is absent. */
  async #readReferred(repository: Repository, reference: string, query: PullQuery) {
    const answered = await (isDigest(reference)
      ? pulls.readByDigest(this.#database, repository, reference, query)
      : pulls.readTagged(this.#database, repository, reference, query));
    const { manifest } = answered.content;
    if (manifest === undefined || (await this.#sound(manifest)) !== undefined) return answered;
    return { ...answered, content: { ...answered.content, manifest: undefined }, isPreloaded: false };
  }

  /**
   * The manifest, unless its bytes are damaged. Then it is recorded as damaged, as by a scrub, and is absent from now
   * on.
   */
  async #sound<T extends Pick<Manifest, 'digest' | 'bytes'>>(
    manifest: T | undefined,
  ): Promise<T | undefined> {
    if (manifest === undefined || this.#check.isSound(manifest)) return manifest;
    const { digest } = manifest;
    const reason = DIGEST_MISMATCH;
    const loss = await this.quarantine({ kind: 'manifest', digest }, reason, damagedManifest(digest)).catch(
      (error: unknown) => error,
    );
    this.#log.error({ digest, reason, loss }, 'a manifest in the index is damaged and is not served');
    return undefined;
  }

  /** Whether others have ended the right. A write calls it with the lock of the ends. */
  #endCheck(repository: Repository, since: SinceAsked | undefined): (on: Rows) => Promise<boolean> {
    if (since === undefined) return async () => false;
    const ends = this.#notifications.watch.endCounts.before(since.agoMs);
    const slots = slotsOf(repository, since.credentialIds);
    return on => endedRights.hasEndAfter(on, ends, slots, this.#heartbeat.processId);
  }

  /** Resolves when others see it. Durable, since they continue after a crash of the database. */
  #noteEnd(slot: number): Promise<void> {
    return this.#write(ASIDE, async session => {
      await this.#lockEnds(session, { alone: true });
      await endedRights.addEnd(session, slot, this.#heartbeat.processId);
    });
  }

  #lockEnds(session: PostgresSession, how: { readonly alone: boolean }): Promise<void> {
    return endedRights.lockEnds(session, lockSpace(this.#database.schema.name, 'ended rights'), how);
  }

  async #write<T>(
    { during, ...options }: WriteOptions & During,
    work: (session: PostgresSession) => Promise<T>,
  ): Promise<T> {
    const result = await this.#writer.write(async session => {
      if (during !== undefined) await this.#heartbeat.requirePresence(session, during);
      return work(session);
    }, options);
    if (options.bearsOnPulls === false) return result;
    this.#version.written();
    await this.#others.notice();
    return result;
  }

  /** A write in a repository; returns false if there is no such repository. */
  #writeIn(
    repository: Repository,
    options: WriteOptions & During,
    work: (session: PostgresSession, repositoryId: number) => Promise<boolean>,
  ): Promise<boolean> {
    return this.#write(options, async session => {
      const id = await repositories.repositoryId(session, repository, 'counted');
      return id !== undefined && work(session, id);
    });
  }

  #remove<T>(contents: readonly Content[], work: (session: PostgresSession) => Promise<T>): Promise<T> {
    return this.#write({ alone: contents.map(({ digest }) => digest) }, work);
  }

  #writeUses(uses: readonly Use[], resolutionMs: number): Promise<void> {
    return this.#write(ASIDE, session => removals.putUses(session, uses, resolutionMs));
  }

  /** Those whose last use is known to the rows. */
  #withoutNoted<T extends { readonly digest: Digest }>(contents: readonly T[]): readonly T[] {
    return contents.filter(({ digest }) => !this.#lastUsed.isNoted(digest));
  }

  /** Call within a write. */
  async #require(session: PostgresSession, lease: Lease | undefined): Promise<void> {
    if (lease !== undefined) await leases.requireLease(session, lease, this.#heartbeat.processId);
  }

  /**
   * Removes the rows of removed repositories in the background; what is left at `close` is removed by the next process.
   */
  #sweepBehind(): void {
    this.#sweeping ??= this.#sweep()
      .catch((error: unknown) => {
        if (this.#closing === undefined) {
          this.#log.warn(
            { err: error },
            'the rest of a removed repository could not be removed from the index',
          );
        }
      })
      .finally(() => {
        this.#sweeping = undefined;
      });
  }

  async #sweep(): Promise<void> {
    while (this.#closing === undefined && (await repositories.hasRemoved(this.#database))) {
      await this.#write(ASIDE, session =>
        repositories.sweep(session, digests => this.#writer.lock(session, { alone: digests })),
      );
      await delay(SWEEP_PAUSE_MS);
    }
  }
}

async function readVersion(database: Database): Promise<number> {
  const row = await database.row<{ version: number }>(`SELECT ${VERSION} AS version`);
  return row?.version ?? 0;
}

/** Call within a write that has locked the manifest and what it names. */
async function putManifestWithin(
  session: PostgresSession,
  repositoryId: number,
  manifest: Manifest,
  view: ManifestView,
  atMs: number,
): Promise<void> {
  await manifests.putManifest(session, manifest, view, atMs);
  await removals.endDamage(session, [manifest.digest]);
  await links.putManifestLink(session, repositoryId, manifest);
}

/**
 * Call within a write that has locked the image, what it names, and its repository, if there is one; `repositoryIdOrNew`
 * makes it, and is called only for an image that is added.
 */
async function addRecordedWithin(
  session: PostgresSession,
  repositoryIdOrNew: () => Promise<number>,
  image: RecordedImage,
  { atMs, completesKnown }: Pick<AddRecordedOptions, 'atMs' | 'completesKnown'>,
): Promise<AddedImages> {
  const { name, digest, record, content } = image;
  const { isKnown, isUnrecorded } = await imageRecords.knownOf(session, image);
  const isAdded = !isKnown && !isUnrecorded && content !== undefined;
  if (!isAdded && !(isKnown && completesKnown)) return { manifests: 0, tags: 0, missing: [] };
  const repositoryId = await repositoryIdOrNew();
  const own = isAdded ? content.blobs : [];
  if (own.length > 0) await links.putBlobLinks(session, repositoryId, own);
  if (isAdded) await putManifestWithin(session, repositoryId, content.manifest, content.view, atMs);
  const set = await tags.putNewerTags(session, repositoryId, digest, record.tags);
  for (const reference of record.pins) await pins.putPin(session, repositoryId, reference);
  const missing = await blobs.missingBlobs(session, own);
  return { manifests: isAdded ? 1 : 0, tags: set, missing: missing.map(blob => ({ name, digest: blob })) };
}

/** Call at the end of a write. */
async function putAlong(session: PostgresSession, { messages = [] }: WithMessages = {}): Promise<void> {
  if (messages.length > 0) await putMessages(session, messages);
}

function digestsIn(view: ManifestView): readonly Digest[] {
  return namedIn(view).map(({ descriptor }) => descriptor.digest);
}
