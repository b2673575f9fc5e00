import { setTimeout as delay } from 'node:timers/promises';
import { type Clock, systemClock } from '../lib/clock.ts';
import { errorCode } from '../lib/error-code.ts';
import type { Lease, LeaseState, Presence } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import type { CredentialUsage } from '../oci/credential.ts';
import { type Digest, DIGEST_MISMATCH, isDigest } from '../oci/digest.ts';
import type { IssuedCredential, KnownTenant } from '../oci/issued-credential.ts';
import type { Manifest, ManifestView } from '../oci/manifest.ts';
import type { BlobPullRead, PullRead, TagRow } from '../oci/pull-read.ts';
import type { Page } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import type {
  WithMessages,
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
} from './metadata-store.ts';
import { type SinceAsked, slotOf, slotsOf } from './ended-rights.ts';
import type {
  AddRecordedOptions,
  HostedImage,
  RecordedImage,
  RecordedTag,
  UnrecordedImage,
} from './image-record.ts';
import { IndexUnusable } from './index-unusable.ts';
import { LastUsed, type Use } from './last-used.ts';
import { damagedManifest, ManifestCheck } from './manifest-check.ts';
import { BLOB_MEMORY, MANIFEST_MEMORY, PullMemory } from './pull-memory.ts';
import type { Reserve } from './reserve.ts';
import { meansIncomplete, STOPPED } from './store-identity.ts';
import { Notifications } from './sqlite/notifications.ts';
import { Blobs } from './sqlite/blobs.ts';
import { Connection, isFull } from './sqlite/connection.ts';
import { CredentialUsages } from './sqlite/credential-usage.ts';
import { Documents } from './sqlite/documents.ts';
import { EndedRightRows } from './sqlite/ended-rights.ts';
import { GrantRows } from './sqlite/grants.ts';
import { ImageRecordRows } from './sqlite/image-records.ts';
import { IndexFile } from './sqlite/index-file.ts';
import { IndexVersion } from './sqlite/index-version.ts';
import { type LookAtVersion, PullReads } from './sqlite/pull-reads.ts';
import { LinkRows } from './sqlite/links.ts';
import { Manifests } from './sqlite/manifests.ts';
import { migrate } from './sqlite/migrations.ts';
import { Objects } from './sqlite/objects.ts';
import { OutboxRows } from './sqlite/outbox.ts';
import { Pins } from './sqlite/pins.ts';
import { Preloads } from './sqlite/preloads.ts';
import { Heartbeat } from './sqlite/heartbeat.ts';
import { Removals } from './sqlite/removals.ts';
import { Repositories } from './sqlite/repositories.ts';
import { Settings } from './sqlite/settings.ts';
import { Tags } from './sqlite/tags.ts';
import { TenantRows } from './sqlite/tenants.ts';
import { UploadRows } from './sqlite/uploads.ts';
import { type WriteOptions, Writer } from './sqlite/writer.ts';

/** The pause between two transactions that remove the rows of a removed repository. */
const SWEEP_PAUSE_MS = 20;

/** A request that wants to write waits about 3 ms. */
const MAX_USES_PER_WRITE = 20;

export interface OpenOptions {
  readonly log: Log;
  /** That of the heartbeat. Default: the system's. */
  readonly clock?: Clock;
  /**
   * Whether its pages may be from different moments: reads and checks all of it first (40 s for a GiB), and refuses it
   * if they are.
   */
  readonly isCopied?: boolean;
  /** Disk space for when the disk is full. */
  readonly reserve?: Reserve;
  /** Whether a thread opens it whose process has it open already: `countProcesses` does not count it. */
  readonly isThread?: boolean;
  /** Called once a second while it is open. */
  readonly onBeat?: () => void;
}

/**
 * Opens the index in the file `path`, creates or migrates it, and joins the other processes that use it. Nothing is
 * scanned.
 */
export async function openSqliteMetadataStore(
  path: string,
  { log, clock = systemClock, isCopied = false, reserve, isThread = false, onBeat = () => {} }: OpenOptions,
): Promise<MetadataStore> {
  if (isCopied) log.warn({ path }, 'the index was copied or changed by another program: checking all of it');
  const connection = await openCurrent(path, isCopied, reserve);
  try {
    if (reserve?.isGivenUp === true) connection.takeRoom();
    const file = IndexFile.opened(path, log);
    let isClosing = false;
    // The last writes of a process that ends go to the file that it has open, whichever that is.
    const writer = new Writer(connection, () => (isClosing ? undefined : file.look()));
    const endedRights = new EndedRightRows(connection);
    const notifications = new Notifications({ connection, writer, endedRights }, log);
    await notifications.watch.begin();
    const beat = () => {
      notifications.watch.beat();
      void reserve?.restore();
      onBeat();
    };
    const mayBeat = () => file.look() === undefined;
    const heartbeat = await Heartbeat.join({
      connection,
      writer,
      indexPath: path,
      log,
      clock,
      isThread,
      mayBeat,
      onBeat: beat,
    });
    await reserve?.restore();
    const closing = () => {
      isClosing = true;
    };
    return new SqliteMetadataStore({
      connection,
      writer,
      file,
      closing,
      notifications,
      heartbeat,
      endedRights,
      reserve,
      log,
    });
  } catch (error) {
    connection.close();
    throw error;
  }
}

/** Opens it with the newest schema. Rejects with IndexUnusable if the file is not our index, or is damaged. */
async function openCurrent(path: string, isCopied: boolean, reserve?: Reserve): Promise<Connection> {
  try {
    const connection = await Connection.open(path, reserve);
    try {
      if (isCopied) requireWhole(connection);
      await migrate(connection);
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  } catch (error) {
    throw withPath(path, error);
  }
}

/** Throws IndexUnusable for an index whose pages do not belong together. */
function requireWhole(connection: Connection): void {
  const fault = connection.firstFault();
  if (fault !== undefined) {
    throw new IndexUnusable(`the index is damaged, as if it was copied while in use (${fault}). ${RESCUE}`, {
      isDamaged: true,
    });
  }
}

/** SQLite's error codes for a file that is no longer a valid index. */
const DAMAGED = /^SQLITE_(?:NOTADB|CORRUPT)/;

const RESCUE =
  'Restore a backup (entrepot restore), or create a new index from the blobs (entrepot rebuild): ' +
  'mirrored content is fetched again, hosted repositories are lost';

/** The error with the path of the file, which SQLite never mentions, and with what to do. */
function withPath(path: string, error: unknown): unknown {
  const code = errorCode(error);
  if (!(error instanceof Error) || !(error instanceof IndexUnusable || code?.startsWith('SQLITE_')))
    return error;
  const damaged = code !== undefined && DAMAGED.test(code);
  const message = damaged
    ? `the index is damaged (${error.message}). ${RESCUE}`
    : isFull(error)
      ? `the disk is full (${error.message}): the index needs a few MiB`
      : error.message;
  const isDamaged = damaged || (error instanceof IndexUnusable && error.isDamaged);
  return new IndexUnusable(`${path}: ${message}`, { cause: error, isDamaged });
}

interface Parts {
  readonly connection: Connection;
  readonly writer: Writer;
  readonly file: IndexFile;
  /** After this, nothing is refused any more. */
  readonly closing: () => void;
  readonly notifications: Notifications;
  readonly heartbeat: Heartbeat;
  readonly endedRights: EndedRightRows;
  readonly reserve: Reserve | undefined;
  readonly log: Log;
}

type ManifestAnswer = PullRead & WithGrants;
type BlobAnswer = BlobPullRead & WithGrants;

/** What a tag or digest means, whoever asks. */
type Referred = Pick<PullRead, 'tag' | 'manifest'>;

/** What is known of a blob, whoever asks. */
type BlobSizes = Pick<BlobPullRead, 'linkedSize' | 'storedSize'>;

/** Combines the groups of synchronous statements into reads and writes. Their meaning is described in the contract. */
class SqliteMetadataStore implements MetadataStore {
  readonly outbox: OutboxRows;
  readonly #connection: Connection;
  readonly #writer: Writer;
  readonly #file: IndexFile;
  readonly #startClosing: () => void;
  readonly #notifications: Notifications;
  readonly #heartbeat: Heartbeat;
  readonly #reserve: Reserve | undefined;
  readonly #log: Log;
  readonly #repositories: Repositories;
  readonly #manifests: Manifests;
  readonly #tags: Tags;
  readonly #links: LinkRows;
  readonly #blobs: Blobs;
  readonly #objects: Objects;
  readonly #records: ImageRecordRows;
  readonly #documents: Documents;
  readonly #grants: GrantRows;
  readonly #endedRights: EndedRightRows;
  readonly #pins: Pins;
  readonly #preloads: Preloads;
  readonly #removals: Removals;
  readonly #tenants: TenantRows;
  readonly #uploads: UploadRows;
  readonly #settings: Settings;
  readonly #usages: CredentialUsages;
  readonly #lastUsed: LastUsed;
  readonly #check = new ManifestCheck();
  readonly #pullReads: PullReads;
  readonly #manifestMemory = new PullMemory<Referred, ManifestAnswer>(MANIFEST_MEMORY);
  readonly #blobMemory = new PullMemory<BlobSizes, BlobAnswer>(BLOB_MEMORY);
  #sweeping: Promise<void> | undefined;
  #closing: Promise<void> | undefined;

  constructor(parts: Parts) {
    const { connection, writer, file, closing, notifications, heartbeat, reserve, log } = parts;
    this.#connection = connection;
    this.#writer = writer;
    this.#file = file;
    this.#startClosing = closing;
    this.#notifications = notifications;
    this.#heartbeat = heartbeat;
    this.#endedRights = parts.endedRights;
    this.#reserve = reserve;
    this.#log = log;
    this.#pullReads = new PullReads(connection, new IndexVersion(connection, writer));
    this.#repositories = new Repositories(connection);
    this.#manifests = new Manifests(connection);
    this.#tags = new Tags(connection);
    this.#links = new LinkRows(connection);
    this.#blobs = new Blobs(connection);
    this.#objects = new Objects(connection);
    this.#records = new ImageRecordRows(connection);
    this.#documents = new Documents(connection);
    this.#grants = new GrantRows(connection);
    this.#pins = new Pins(connection);
    this.#preloads = new Preloads(connection);
    this.#removals = new Removals(connection);
    this.#tenants = new TenantRows(connection);
    this.#uploads = new UploadRows(connection);
    this.#settings = new Settings(connection);
    this.#usages = new CredentialUsages(connection);
    this.outbox = new OutboxRows(connection, writer, lease => this.#require(lease));
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
    return this.#pullReads.read(look => this.#answerPull(repository, reference, query, look));
  }

  readBlobForPull(repository: Repository, digest: Digest, query: PullQuery = {}): Promise<BlobAnswer> {
    return this.#pullReads.read(look => {
      const memory = this.#blobMemory;
      memory.turnTo(look());
      const known = memory.answer(repository, digest, query);
      if (known !== undefined) return known;
      const content = memory.content(repository, digest) ?? this.#readSizes(repository, digest);
      const answer = { ...content, ...this.#readForRequester(repository, digest, query) };
      // Clients ask for any digest.
      if (content.linkedSize !== undefined)
        memory.keep(repository, digest, query, { content, contentBytes: 0, answer });
      return answer;
    });
  }

  async readManifestBytes(digest: Digest) {
    const bytes = await this.#read(() => this.#manifests.readBytes(digest));
    return (await this.#sound(bytes && { digest, bytes }))?.bytes;
  }

  async readLinkedManifest(repository: Repository, digest: Digest) {
    return this.#sound(await this.#read(() => this.#manifests.readLinked(repository, digest)));
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
    return this.#write(() => {
      const known = this.#repositories.id(repository);
      const linkedSize = (digest: Digest) =>
        known === undefined ? undefined : this.#links.sizeIn(known, digest);
      const lacks = required
        .map(({ digest, size }) => ({ digest, size, linkedSize: linkedSize(digest) }))
        .filter(lack => lack.size !== lack.linkedSize);
      if (lacks.length > 0) {
        return lacks;
      }
      const id = known ?? this.#repositories.create(repository);
      this.#putManifestWithin(id, manifest, view, atMs);
      if (tag !== undefined) {
        this.#tags.put(id, tag, { digest: manifest.digest, checkedAtMs: atMs });
      }
      this.#putAlong(along);
      return [];
    }, along);
  }

  unlinkManifest(repository: Repository, digest: Digest, along?: WithMessages) {
    return this.#removeIn(repository, along, id => {
      this.#tags.removeOf(id, digest);
      return this.#links.remove(id, digest, 'manifest');
    });
  }

  unlinkUnnamed(repository: Repository, digest: Digest, during?: During) {
    return this.#write(() => {
      const id = this.#repositories.id(repository);
      return id === undefined || this.#links.removeUnnamed(id, digest);
    }, during);
  }

  listReferrers(
    repository: Repository,
    subject: Digest,
    artifactType: string | undefined,
    page: Page,
    preloadedFor?: readonly string[],
  ) {
    return this.#read(() =>
      this.#manifests.listReferrers(repository, subject, artifactType, page, preloadedFor),
    );
  }

  readTag(repository: Repository, tag: string) {
    return this.#read(() => this.#tags.read(repository, tag));
  }

  putTag(repository: Repository, tag: string, row: TagRow, along?: WithMessages) {
    return this.#write(() => {
      this.#tags.put(this.#repositories.idOrNew(repository), tag, row);
      this.#putAlong(along);
    }, along);
  }

  removeTag(repository: Repository, tag: string, along?: WithMessages) {
    return this.#removeIn(repository, along, id => this.#tags.remove(id, tag));
  }

  listTags(repository: Repository, page: Page, preloadedFor?: readonly string[]) {
    return this.#read(() => this.#tags.list(repository, page, preloadedFor));
  }

  listTagsOf(repository: Repository, digest: Digest, page: Page) {
    return this.#read(() => this.#tags.listOf(repository, digest, page));
  }

  hasRepository(repository: Repository) {
    return this.#read(() => this.#repositories.hasEntries(repository));
  }

  listRepositories(upstream: string, page: Page) {
    return this.#read(() => this.#repositories.list(upstream, page));
  }

  readOwnerBytes(owners: readonly string[]) {
    return this.#read(() => this.#repositories.readOwnerBytes(owners));
  }

  readUsage(owner: string, repository: Repository, coming?: ComingManifest) {
    return this.#read(() => this.#repositories.readUsage(owner, repository, coming));
  }

  async removeRepository(repository: Repository, along?: WithMessages) {
    await this.#removeIn(repository, along, () => {
      this.#repositories.remove(repository);
      return true;
    });
    this.#sweepBehind();
  }

  statBlob(digest: Digest) {
    return this.#read(() => this.#blobs.stat(digest));
  }

  putBlob(digest: Digest, size: number, repository?: Repository, proof?: BlobProof) {
    return this.#write(() => {
      this.#require(proof?.lease);
      if (proof?.isThere?.() === false) {
        return false;
      }
      if (proof?.key !== undefined && !this.#objects.settle(proof.key)) return false;
      this.#blobs.put(digest, size, proof?.key);
      this.#removals.endDamage(digest);
      if (repository !== undefined) {
        this.#links.putBlob(this.#repositories.idOrNew(repository), digest, size);
      }
      return true;
    }, proof);
  }

  removeBlob(digest: Digest) {
    return this.#write(() => this.#blobs.remove(digest));
  }

  putFoundBlob({ digest, key }: BlobObject, size: number, during?: During) {
    return this.#write(() => {
      if (this.#blobs.stat(digest) !== undefined || this.#objects.has(key)) return false;
      this.#blobs.put(digest, size, key);
      this.#removals.endDamage(digest);
      return true;
    }, during);
  }

  announceObject(object: ComingObject, lease: Lease) {
    return this.#writeAside(() => {
      this.#require(lease);
      this.#objects.announce(object, lease.epoch);
    });
  }

  giveUpObject(key: string) {
    return this.#writeAside(() => this.#objects.giveUp(key));
  }

  giveUpAbandonedObjects(beforeMs: number) {
    return this.#writeAside(() => this.#objects.giveUpAbandoned(beforeMs));
  }

  giveUpStrayObjects(objects: readonly BlobObject[]) {
    return this.#writeAside(() => objects.filter(object => this.#objects.giveUpStray(object)));
  }

  listGivenUpObjects(beforeMs: number, limit: number) {
    return this.#read(() => this.#objects.listGivenUp(beforeMs, limit));
  }

  forgetObjects(keys: readonly string[]) {
    return this.#writeAside(() => keys.forEach(key => this.#objects.forget(key)));
  }

  listUnrecorded(limit: number, after?: HostedImage) {
    return this.#read(() => this.#records.list(limit, after));
  }

  countUnrecorded(most: number) {
    return this.#read(() => this.#records.count(most));
  }

  isUnrecorded(image: HostedImage) {
    return this.#read(() => this.#records.isUnrecorded(image));
  }

  readImageRecord(image: HostedImage) {
    return this.#read(() => this.#records.read(image));
  }

  isHostedManifest(digest: Digest) {
    return this.#read(() => this.#records.isHostedManifest(digest));
  }

  noteRecorded(image: UnrecordedImage) {
    // Lost by a power failure, it is recorded once more.
    return this.#writer.write(() => this.#records.settle(image), {
      outlivesPower: false,
      bearsOnPulls: false,
    });
  }

  addRecordedImages(images: readonly RecordedImage[], { setting, during, ...options }: AddRecordedOptions) {
    return this.#write(
      () => {
        const added = images.map(image => this.#addRecordedWithin(image, options));
        if (setting !== undefined) this.#settings.put(setting.name, setting.value);
        return {
          manifests: added.filter(({ isNew }) => isNew).length,
          tags: added.reduce((sum, { tags }) => sum + tags, 0),
          missing: added.flatMap(({ missing }) => missing),
        };
      },
      { during },
    );
  }

  noteUnrecorded(images: readonly HostedImage[]) {
    return this.#writeAside(() => images.forEach(image => this.#records.note(image)));
  }

  noteAllUnrecorded(after?: HostedImage) {
    return this.#writeAside(() => this.#records.noteSome(after));
  }

  isLinked(repository: Repository, digest: Digest) {
    return this.#read(() => this.#links.has(repository, digest));
  }

  linkBlob(repository: Repository, digest: Digest, size: number, during?: During) {
    return this.#write(
      () => this.#links.putBlob(this.#repositories.idOrNew(repository), digest, size),
      during,
    );
  }

  unlinkBlob(repository: Repository, digest: Digest, during?: During) {
    return this.#writeIn(repository, id => this.#links.remove(id, digest, 'blob'), during);
  }

  namedSize(repository: Repository, digest: Digest) {
    return this.#read(() => this.#links.namedSize(repository, digest));
  }

  listNamings(digest: Digest) {
    return this.#read(() => this.#links.namings(digest));
  }

  isNamed(repository: Repository, digest: Digest) {
    return this.#read(() => this.#links.isNamed(repository, digest));
  }

  readReferrersList(repository: Repository, subject: Digest) {
    return this.#read(() => this.#documents.readReferrers(repository, subject));
  }

  async putReferrersList(repository: Repository, subject: Digest, list: Document) {
    // Clients ask about any digest, and only for one that is stored is a transaction worth its lock.
    if (!(await this.#read(() => this.#documents.hasSubject(repository, subject)))) return;
    await this.#write(() => this.#documents.putReferrers(repository, subject, list));
  }

  readGrants(repository: Repository, credentialIds?: readonly string[]) {
    return this.#read(() =>
      credentialIds === undefined
        ? this.#grants.readAll(repository)
        : this.#grants.read(repository, credentialIds),
    );
  }

  putGrant(
    repository: Repository,
    grant: Grant,
    { unlessEnded, during }: GrantConditions = {},
  ): Promise<boolean> {
    const hasEnded = this.#endCheck(repository, unlessEnded);
    return this.#write(
      () => {
        if (hasEnded()) return false;
        this.#grants.put(this.#repositories.idOrNew(repository), grant);
        return true;
      },
      { during },
    );
  }

  async endGrant(repository: Repository, credentialId: string) {
    // Clients are refused any name: none of these is worth a sync of the disk unless somebody relies on it.
    const isRelied = () =>
      this.#heartbeat.hasOthers() || this.#grants.read(repository, [credentialId]).length > 0;
    if (!(await this.#read(isRelied))) return;
    await this.#noteEnd(slotOf(credentialId, repository));
    // From now on, no other process records one of what it has asked before.
    const hasGrant = () => this.#grants.read(repository, [credentialId]).length > 0;
    if (!(await this.#read(hasGrant))) return;
    await this.#write(() => {
      const id = this.#repositories.id(repository);
      if (id !== undefined) this.#grants.end(id, credentialId);
    });
  }

  hasEndedGrant(repository: Repository, since: SinceAsked) {
    const hasEnded = this.#endCheck(repository, since);
    // Others note no end for a process that they consider dead.
    return this.#read(() => this.#heartbeat.seemsDead() || hasEnded());
  }

  async endGrantsOf(credentialId: string) {
    if (await this.#read(() => this.#heartbeat.hasOthers())) {
      await this.#noteEnd(slotOf(credentialId));
    }
    while (await this.#write(() => this.#grants.endSomeOf(credentialId))) {
      // The next ones, in another transaction.
    }
  }

  endGrantsBefore(beforeMs: number, after?: string) {
    return this.#write(() => this.#grants.endBefore(beforeMs, after));
  }

  putContent(
    repository: Repository,
    { manifests, blobs, grantee }: ImportedContent,
    atMs: number,
    during?: During,
  ): Promise<readonly Digest[]> {
    return this.#write(() => {
      const missing = blobs.filter(({ digest }) => this.#blobs.stat(digest) === undefined);
      if (missing.length > 0) {
        return missing.map(({ digest }) => digest);
      }
      const id = this.#repositories.idOrNew(repository);
      for (const { digest, size } of blobs) {
        this.#links.putBlob(id, digest, size);
      }
      for (const { manifest, view } of manifests) {
        this.#putManifestWithin(id, manifest, view, atMs);
      }
      if (grantee !== undefined) {
        const digests = [...blobs.map(({ digest }) => digest), ...manifests.map(one => one.manifest.digest)];
        digests.forEach(digest => this.#preloads.put(id, digest, grantee, atMs));
      }
      return [];
    }, during);
  }

  isPreloaded(repository: Repository, digest: Digest, grantees: readonly string[]) {
    return this.#read(() => this.#preloads.has(repository, digest, grantees));
  }

  listPreloads(repository: Repository) {
    return this.#read(() => this.#preloads.list(repository));
  }

  async endPreloadsOf(grantee: string, during?: During) {
    while (await this.#write(() => this.#preloads.endSomeOf(grantee), during)) {
      // The next ones, in a transaction of their own.
    }
  }

  publish(publications: readonly NamedContent[], atMs: number, during?: During) {
    return this.#write(() => {
      for (const { repository, digest, tag } of publications) {
        const id = this.#repositories.idOrNew(repository);
        if (tag !== undefined) {
          this.#tags.put(id, tag, { digest, checkedAtMs: atMs });
        }
        this.#pins.put(id, tag ?? digest);
      }
    }, during);
  }

  putPin(repository: Repository, reference: string, during?: During) {
    return this.#write(() => this.#pins.put(this.#repositories.idOrNew(repository), reference), during);
  }

  removePin(repository: Repository, reference: string, during?: During) {
    return this.#writeIn(repository, id => this.#pins.remove(id, reference), during);
  }

  listPins(repository: Repository) {
    return this.#read(() => this.#pins.list(repository));
  }

  listPinsOver(repository: Repository, digest: Digest) {
    return this.#read(() => this.#pins.listOver(repository, digest));
  }

  listKnownTenants() {
    return this.#read(() => this.#tenants.list());
  }

  putKnownTenants(tenants: readonly KnownTenant[], during?: During) {
    return this.#writeAside(() => tenants.forEach(tenant => this.#tenants.put(tenant)), during);
  }

  removeKnownTenant(name: string, during?: During) {
    return this.#writeAside(() => this.#tenants.remove(name), during);
  }

  listIssuedCredentials(tenants?: readonly string[]) {
    return this.#read(() => this.#tenants.listIssued(tenants));
  }

  putIssuedCredentials(credentials: readonly IssuedCredential[], during?: During) {
    return this.#writeAside(
      () => credentials.forEach(credential => this.#tenants.putIssued(credential)),
      during,
    );
  }

  listCredentialUsage() {
    return this.#read(() => this.#usages.list());
  }

  putCredentialUsage(usage: readonly CredentialUsage[]) {
    return this.#writeAside(() => usage.forEach(one => this.#usages.put(one)));
  }

  removeCredentialUsage(credentialIds: readonly string[]) {
    return this.#writeAside(() => credentialIds.forEach(id => this.#usages.remove(id)));
  }

  expireLinks(links: readonly BlobLink[], unusedSinceMs: number) {
    return this.#write(() => {
      const isRemoved = ({ repository, digest }: BlobLink) =>
        this.#removals.removeLink(repository, digest, unusedSinceMs);
      return this.#withoutNoted(links).filter(isRemoved).length;
    });
  }

  removeUnneeded(contents: readonly Content[], unusedSinceMs: number) {
    return this.#removeUnlessImporting(contents, unusedSinceMs, (content, sinceMs) =>
      this.#removals.removeUnneeded(content, sinceMs),
    );
  }

  removeUnlinked(contents: readonly Content[], unusedSinceMs: number) {
    return this.#removeUnlessImporting(contents, unusedSinceMs, (content, sinceMs) =>
      this.#removals.removeUnlinked(content, sinceMs),
    );
  }

  importingSinceMs() {
    return this.#read(() => this.#removals.importingSinceMs());
  }

  evict(contents: readonly Content[], unusedSinceMs: number) {
    return this.#write(() =>
      this.#withoutNoted(contents).filter(content => this.#removals.evict(content, unusedSinceMs)),
    );
  }

  ifStray(digests: readonly Digest[], act: (digest: Digest) => void) {
    return this.#writeAside(() => {
      if (meansIncomplete(this.#settings.read(STOPPED))) {
        return [];
      }
      const strays = digests.filter(digest => this.#removals.isStray(digest));
      for (const digest of strays) act(digest);
      return strays;
    });
  }

  quarantine(content: Content, reason: string, bytes?: DamagedBytes) {
    return this.#write(() => {
      const isManifest = bytes !== undefined && content.kind === 'manifest';
      const stored = isManifest ? this.#manifests.readBytes(content.digest) : undefined;
      if (bytes?.isSame(stored) === false) {
        return undefined;
      }
      const { key } = (content.kind === 'blob' && this.#blobs.stat(content.digest)) || {};
      if (bytes !== undefined && bytes.key !== key) {
        return undefined;
      }
      const loss = this.#removals.quarantine(content, reason);
      if (loss === 'hosted' && key !== undefined) {
        this.#objects.keep(key);
      }
      if (loss === 'mirrored') {
        bytes?.takeAway();
      }
      return loss;
    });
  }

  readDamage(digest: Digest) {
    return this.#read(() => this.#removals.readDamage(digest));
  }

  countDamaged() {
    return this.#read(() => this.#removals.countDamaged());
  }

  endDamage(digest: Digest) {
    return this.#write(() => this.#removals.endDamage(digest));
  }

  putUpload(upload: Upload, lease?: Lease) {
    return this.#writeAside(() => {
      this.#require(lease);
      this.#uploads.put(upload);
    });
  }

  readUpload(id: string) {
    return this.#read(() => this.#uploads.read(id));
  }

  removeUpload(id: string, lease?: Lease) {
    return this.#writeAside(() => {
      this.#require(lease);
      return this.#uploads.remove(id);
    });
  }

  countUploads(repository: Repository) {
    return this.#read(() => this.#uploads.count(repository));
  }

  countUploadsOf(requester: string) {
    return this.#read(() => this.#uploads.countOf(requester));
  }

  listUploads(touchedBeforeMs: number, limit: number) {
    return this.#read(() => this.#uploads.listUntouched(touchedBeforeMs, limit));
  }

  acquireLease(key: string, onHeld?: (held: LeaseState) => void) {
    return this.#heartbeat.acquireLease(key, onHeld);
  }

  release(...leases: readonly Lease[]) {
    return this.#heartbeat.giveBack(leases, 'released');
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
    return this.#read(() => this.#settings.read(name));
  }

  putSetting(name: string, value: string, during?: During) {
    return this.#writeAside(() => this.#settings.put(name, value), during);
  }

  async initSetting(name: string, value: string) {
    const known = await this.readSetting(name);
    return known ?? this.#writeAside(() => this.#settings.init(name, value));
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

  readTotals() {
    return this.#read(() => this.#blobs.totals());
  }

  countProcesses() {
    return this.#heartbeat.count();
  }

  /** The index is a file of one machine. */
  async listReplicas() {
    return [];
  }

  async listGoneReplicas() {
    return [];
  }

  async endLeaseOfGone() {
    return false;
  }

  lockedOutForMs() {
    return this.#writer.lockedOutForMs;
  }

  loss() {
    return this.#file.loss;
  }

  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  hasLaterUses(thanMs: number) {
    return this.#read(() => this.#removals.hasLaterUses(thanMs));
  }

  async lowerLinks(links: readonly BlobLink[], toMs: number) {
    await this.#writeAside(() => {
      for (const { repository, digest } of links) this.#links.lower(repository, digest, toMs);
    });
  }

  lowerUses(laterThanMs: number, toMs: number) {
    return this.#writeAside(() => this.#removals.lowerUses(laterThanMs, toMs));
  }

  async #end(): Promise<void> {
    this.#startClosing();
    try {
      await this.#lastUsed.close();
      await this.#heartbeat.close();
      await this.#writer.close();
      await this.#sweeping;
    } finally {
      this.#connection.close();
      await this.#reserve?.restore();
    }
  }

  /**
   * The manifest, unless its bytes are damaged. Then it is recorded as damaged, as by a scrub, and is absent from now
   * on.
   */
  async #sound<T extends Pick<Manifest, 'digest' | 'bytes'>>(
    manifest: T | undefined,
  ): Promise<T | undefined> {
    if (manifest === undefined || this.#check.isSound(manifest)) {
      return manifest;
    }
    await this.#quarantine(manifest.digest);
    return undefined;
  }

  async #quarantine(digest: Digest): Promise<void> {
    const reason = DIGEST_MISMATCH;
    const loss = await this.quarantine({ kind: 'manifest', digest }, reason, damagedManifest(digest)).catch(
      (error: unknown) => error,
    );
    this.#log.error({ digest, reason, loss }, 'a manifest in the index is damaged and is not served');
  }

  /** Call within a read. The bytes of what is remembered were checked. */
  #answerPull(
    repository: Repository,
    reference: string,
    query: PullQuery,
    look: LookAtVersion,
  ): ManifestAnswer | Promise<ManifestAnswer> {
    const memory = this.#manifestMemory;
    memory.turnTo(look());
    const known = memory.answer(repository, reference, query);
    if (known !== undefined) return known;
    const remembered = memory.content(repository, reference);
    const content = remembered ?? this.#readReferred(repository, reference);
    const { manifest } = content;
    const answer = { ...content, ...this.#readForRequester(repository, manifest?.digest, query) };
    if (manifest === undefined) return answer;
    if (remembered === undefined && !this.#check.isSound(manifest)) {
      const withoutIt = { ...answer, manifest: undefined, isPreloaded: false };
      return this.#quarantine(manifest.digest).then(() => withoutIt);
    }
    memory.keep(repository, reference, query, { content, contentBytes: manifest.bytes.byteLength, answer });
    return answer;
  }

  /** Call within a read. */
  #readSizes(repository: Repository, digest: Digest): BlobSizes {
    const { linked, stored } = this.#links.sizes(repository, digest);
    return { linkedSize: linked ?? undefined, storedSize: stored ?? undefined };
  }

  /** Call within a read. */
  #readReferred(repository: Repository, reference: string): Referred {
    if (isDigest(reference)) {
      return { tag: undefined, manifest: this.#manifests.readLinked(repository, reference) };
    }
    const { tag, manifest } = this.#tags.readTagged(repository, reference) ?? {};
    return { tag, manifest };
  }

  #read<T>(work: () => T | Promise<T>): Promise<T> {
    return this.#connection.read(work);
  }

  /** To be called within a read or write: whether others have ended the right. */
  #endCheck(repository: Repository, since: SinceAsked | undefined): () => boolean {
    if (since === undefined) return () => false;
    const ends = this.#notifications.watch.endCounts.before(since.agoMs);
    const slots = slotsOf(repository, since.credentialIds);
    return () => this.#endedRights.hasAfter(ends, slots, this.#heartbeat.processId);
  }

  /** Resolves when others see it. It means nothing after a power failure: all processes are new then, and have asked nothing. */
  #noteEnd(slot: number): Promise<void> {
    const note = () => this.#endedRights.add(slot, this.#heartbeat.processId);
    return this.#write(note, {}, { outlivesPower: false, bearsOnPulls: false });
  }

  #write<T>(work: () => T, { during }: During = {}, options: WriteOptions = {}): Promise<T> {
    return this.#writer.write(() => {
      if (during !== undefined) this.#heartbeat.requirePresence(during);
      return work();
    }, options);
  }

  /** A write of what no pull is answered from: what is remembered for pulls stays. */
  #writeAside<T>(work: () => T, during?: During): Promise<T> {
    return this.#write(work, during, { bearsOnPulls: false });
  }

  /** Call within a read. */
  #readForRequester(
    repository: Repository,
    digest: Digest | undefined,
    { grantees = [], credentialIds = [] }: PullQuery,
  ): { readonly grants: readonly Grant[]; readonly isPreloaded: boolean } {
    const grants = credentialIds.length === 0 ? [] : this.#grants.read(repository, credentialIds);
    const isAsked = digest !== undefined && grantees.length > 0 && grants.length === 0;
    return { grants, isPreloaded: isAsked && this.#preloads.has(repository, digest, grantees) };
  }

  /** Call within a write. */
  #putManifestWithin(repositoryId: number, manifest: Manifest, view: ManifestView, atMs: number): void {
    this.#manifests.put(manifest, view, atMs);
    this.#removals.endDamage(manifest.digest);
    this.#links.putManifest(repositoryId, manifest);
  }

  #addRecordedWithin(
    image: RecordedImage,
    { atMs, completesKnown }: Pick<AddRecordedOptions, 'atMs' | 'completesKnown'>,
  ) {
    const { name, digest, record, content } = image;
    const repository = { upstream: '', name };
    const isNew = this.#manifests.readLinked(repository, digest) === undefined;
    const isAdded = isNew && content !== undefined && !this.#records.isUnrecorded(image);
    if (!isAdded && (isNew || !completesKnown)) return { isNew: false, tags: 0, missing: [] };
    const id = this.#repositories.idOrNew(repository);
    const blobs = isAdded ? content.blobs : [];
    for (const blob of blobs) this.#links.putBlob(id, blob.digest, blob.size);
    if (isAdded) this.#putManifestWithin(id, content.manifest, content.view, atMs);
    const isSet = ({ tag, atMs: checkedAtMs }: RecordedTag) =>
      this.#tags.putIfNewer(id, tag, { digest, checkedAtMs });
    const tags = record.tags.filter(isSet).length;
    for (const reference of record.pins) this.#pins.put(id, reference);
    const missing = blobs.filter(blob => this.#blobs.stat(blob.digest) === undefined);
    return { isNew, tags, missing: missing.map(blob => ({ name, digest: blob.digest })) };
  }

  /** `remove` gets the earlier of the given time and the beginning of the oldest running import. */
  #removeUnlessImporting(
    contents: readonly Content[],
    unusedSinceMs: number,
    remove: (content: Content, sinceMs: number) => boolean,
  ): Promise<readonly Content[]> {
    return this.#write(() => {
      const sinceMs = Math.min(unusedSinceMs, this.#removals.importingSinceMs());
      return this.#withoutNoted(contents).filter(content => remove(content, sinceMs));
    });
  }

  /** Those whose last use is known to the rows. */
  #withoutNoted<T extends { readonly digest: Digest }>(contents: readonly T[]): readonly T[] {
    return contents.filter(({ digest }) => !this.#lastUsed.isNoted(digest));
  }

  #writeUses(uses: readonly Use[], resolutionMs: number): Promise<void> {
    const write = () => {
      for (const [digest, atMs] of uses) {
        this.#manifests.noteUse(digest, atMs, atMs - resolutionMs);
        this.#blobs.noteUse(digest, atMs, atMs - resolutionMs);
      }
    };
    return this.#writeAside(write);
  }

  /** Call within a write. */
  #require(lease: Lease | undefined): void {
    if (lease !== undefined) {
      this.#heartbeat.requireWithin(lease);
    }
  }

  /** A write in a repository; returns false, without a transaction, if there is no such repository. */
  #writeIn(
    repository: Repository,
    work: (repositoryId: number) => boolean,
    during?: During,
  ): Promise<boolean> {
    return this.#write(() => {
      const id = this.#repositories.id(repository);
      return id !== undefined && work(id);
    }, during);
  }

  /** A removal in a repository, with what is written along if it has removed something. */
  #removeIn(
    repository: Repository,
    along: WithMessages | undefined,
    remove: (repositoryId: number) => boolean,
  ): Promise<boolean> {
    const work = (id: number) => {
      const isRemoved = remove(id);
      if (isRemoved) this.#putAlong(along);
      return isRemoved;
    };
    return this.#writeIn(repository, work, along);
  }

  /** Call within a write. */
  #putAlong({ messages = [] }: WithMessages = {}): void {
    if (messages.length > 0) this.outbox.putWithin(messages);
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
    while (this.#closing === undefined && (await this.#read(() => this.#repositories.hasRemoved()))) {
      await this.#writeAside(() => this.#repositories.sweep());
      await delay(SWEEP_PAUSE_MS);
    }
  }
}
