// An index in memory, for tests: the contract as plain code. Each MemoryMetadataStore on the same MemoryIndex is
// another process.
import { randomUUID } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Lease, LeaseLost, type LeaseState, Presence, PresenceEnded } from '../lib/lease.ts';
import { MemoryLeases } from '../lib/memory-leases.fixture.ts';
import type { CredentialUsage } from '../oci/credential.ts';
import { type Digest, DIGEST_MISMATCH, digestAlgorithm, digestOf, isDigest } from '../oci/digest.ts';
import type { IssuedCredential, KnownTenant } from '../oci/issued-credential.ts';
import type { Manifest, ManifestView } from '../oci/manifest.ts';
import type { TagRow } from '../oci/pull-read.ts';
import type { Page } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import * as imageRecords from './memory/image-records.fixture.ts';
import * as manifests from './memory/manifests.fixture.ts';
import * as objects from './memory/objects.fixture.ts';
import * as reachability from './memory/reachability.fixture.ts';
import * as removals from './memory/removals.fixture.ts';
import * as repositories from './memory/repositories.fixture.ts';
import {
  linkKey,
  pageOf,
  preloadKey,
  repositoryKey,
  type RepositoryRows,
  Tables,
} from './memory/tables.fixture.ts';
import { damagedManifest } from './manifest-check.ts';
import { MemorySurvey } from './memory-survey.fixture.ts';
import { MemoryOutbox } from './memory/outbox.fixture.ts';
import { type SinceAsked, slotOf, slotsOf } from './ended-rights.ts';
import type { AddRecordedOptions, HostedImage, RecordedImage, UnrecordedImage } from './image-record.ts';
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
  Paged,
  PullQuery,
  SizedDigest,
  Topic,
  Upload,
} from './metadata-store.ts';
import { meansIncomplete, STOPPED } from './store-identity.ts';
import type { Survey } from './survey.ts';

/** How many Grants one call of `endGrantsBefore` looks at. */
const GRANTS_AT_ONCE = 500;

/** What the processes share. */
export class MemoryIndex {
  readonly tables = new Tables();
  readonly processes = new Set<MemoryMetadataStore>();

  /** Another process; `replica`: in the replica with this address. */
  open(replica?: string): MemoryMetadataStore {
    return new MemoryMetadataStore(this, replica);
  }

  survey(): Survey {
    return new MemorySurvey(this.tables);
  }
}

/** An index of its own, with one process. */
export function openMemoryMetadataStore(): MemoryMetadataStore {
  return new MemoryIndex().open();
}

export class MemoryMetadataStore implements MetadataStore {
  readonly outbox: MemoryOutbox;
  /** The address of its replica, if there may be several. */
  readonly replica: string | undefined;
  readonly #index: MemoryIndex;
  readonly #tables: Tables;
  readonly #leases: MemoryLeases;
  readonly #listeners = new Set<{ readonly topic: Topic; readonly listener: () => void }>();
  /** What others have announced, and this process has not heard yet. */
  readonly #news = new Set<Topic>();
  /** When content was used, as far as it is not written yet. */
  readonly #noted = new Map<Digest, number>();
  #presence = new Presence(randomUUID());
  #isClosed = false;

  constructor(index: MemoryIndex, replica?: string) {
    this.replica = replica;
    this.#index = index;
    this.#tables = index.tables;
    this.#leases = new MemoryLeases(index.tables.leases, replica === undefined ? {} : { replica });
    this.outbox = new MemoryOutbox(this.#tables, {
      write: work => this.#write(work),
      require: lease => this.#require(lease),
    });
    index.processes.add(this);
  }

  /** As in `MemoryLeases`. */
  fallSilent(): void {
    this.#leases.fallSilent();
  }

  /** As in `MemoryLeases`. */
  seemDead(): void {
    this.#leases.seemDead();
    this.#presence.isOver = true;
    this.#presence = new Presence(randomUUID());
  }

  get presence() {
    return this.#presence;
  }

  async requirePresence(presence: Presence) {
    this.#requirePresence(presence);
  }

  #requirePresence({ isOver, sender }: Presence): void {
    const isPresent = () => [...this.#index.processes].some(({ presence: { name } }) => name === sender);
    if (isOver || (sender !== undefined && !isPresent())) throw new PresenceEnded();
  }

  async readForPull(repository: Repository, reference: string, query: PullQuery = {}) {
    const rows = this.#rows(repository);
    const tag = isDigest(reference) ? undefined : rows?.tags.get(reference);
    const digest = isDigest(reference) ? reference : tag?.digest;
    const manifest = digest === undefined ? undefined : await this.readLinkedManifest(repository, digest);
    return { tag, manifest, ...readForRequester(rows, manifest?.digest, query) };
  }

  async readBlobForPull(repository: Repository, digest: Digest, query: PullQuery = {}) {
    const rows = this.#rows(repository);
    return {
      linkedSize: repositories.linkIn(rows, digest)?.size,
      storedSize: this.#read().blobs.get(digest)?.size,
      ...readForRequester(rows, digest, query),
    };
  }

  async readManifestBytes(digest: Digest) {
    const row = this.#read().manifests.get(digest);
    return row && (await this.#sound(row))?.bytes;
  }

  async readLinkedManifest(repository: Repository, digest: Digest) {
    const manifest = manifests.readIn(this.#tables, this.#rows(repository), digest);
    return manifest && this.#sound(manifest);
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
      const known = repositories.find(this.#tables, repository);
      const lacks = required
        .map(({ digest, size }) => ({
          digest,
          size,
          linkedSize: repositories.linkIn(known, digest)?.size,
        }))
        .filter(lack => lack.size !== lack.linkedSize);
      if (lacks.length > 0) return lacks;
      const rows = known ?? repositories.findOrAdd(this.#tables, repository);
      this.#putManifestWithin(rows, manifest, view, atMs);
      if (tag !== undefined) rows.tags.set(tag, { digest: manifest.digest, checkedAtMs: atMs });
      this.#putAlong(along);
      return [];
    }, along);
  }

  unlinkManifest(repository: Repository, digest: Digest, along?: WithMessages) {
    return this.#removeIn(repository, along, rows => {
      for (const tag of rows.tags.keys()) {
        if (rows.tags.get(tag)?.digest === digest) repositories.removeTag(this.#tables, rows, tag);
      }
      return repositories.removeLink(this.#tables, rows, digest, 'manifest');
    });
  }

  unlinkUnnamed(repository: Repository, digest: Digest, during?: During) {
    return this.#write(() => {
      const rows = repositories.find(this.#tables, repository);
      if (rows?.links.has(linkKey(digest, 'manifest')) !== true) return true;
      const isTagged = rows.tags.values().some(tag => tag.digest === digest);
      const isNamed = reachability.namersIn(this.#tables, rows, digest).length > 0;
      if (isTagged || isNamed || rows.pins.has(digest)) return false;
      return repositories.removeLink(this.#tables, rows, digest, 'manifest');
    }, during);
  }

  async listReferrers(
    repository: Repository,
    subject: Digest,
    artifactType: string | undefined,
    page: Page,
    preloadedFor?: readonly string[],
  ) {
    const rows = this.#rows(repository);
    const all = rows === undefined ? [] : manifests.referrersIn(this.#tables, rows, subject);
    const wanted = all
      .filter(referrer => artifactType === undefined || referrer.artifactType === artifactType)
      .filter(({ digest }) => preloadedFor === undefined || isPreloaded(rows, digest, preloadedFor));
    return pageOf(wanted, page, ({ digest }) => digest);
  }

  async readTag(repository: Repository, tag: string) {
    return this.#rows(repository)?.tags.get(tag);
  }

  putTag(repository: Repository, tag: string, { digest, checkedAtMs }: TagRow, along?: WithMessages) {
    return this.#write(() => {
      repositories.findOrAdd(this.#tables, repository).tags.set(tag, { digest, checkedAtMs });
      this.#putAlong(along);
    }, along);
  }

  removeTag(repository: Repository, tag: string, along?: WithMessages) {
    return this.#removeIn(repository, along, rows => repositories.removeTag(this.#tables, rows, tag));
  }

  async listTags(repository: Repository, page: Page, preloadedFor?: readonly string[]) {
    return this.#tagsWhere(
      repository,
      ({ digest }, rows) => preloadedFor === undefined || isPreloaded(rows, digest, preloadedFor),
      page,
    );
  }

  async listTagsOf(repository: Repository, digest: Digest, page: Page) {
    return this.#tagsWhere(repository, tag => tag.digest === digest, page);
  }

  async hasRepository(repository: Repository) {
    const rows = this.#rows(repository);
    return rows !== undefined && repositories.hasEntries(rows);
  }

  async listRepositories(upstream: string, page: Page) {
    const names = this.#read()
      .repositories.values()
      .filter(rows => rows.repository.upstream === upstream && repositories.hasEntries(rows))
      .map(({ repository }) => repository.name)
      .toSorted();
    return pageOf(names, page, name => name);
  }

  async readOwnerBytes(owners: readonly string[]) {
    return repositories.ownersBytes(this.#read(), owners);
  }

  async readUsage(owner: string, repository: Repository, coming?: ComingManifest) {
    return repositories.usage(this.#read(), owner, repository, coming);
  }

  async removeRepository(repository: Repository, along?: WithMessages) {
    await this.#removeIn(repository, along, rows => {
      repositories.removeRepository(this.#tables, rows);
      return true;
    });
  }

  async statBlob(digest: Digest) {
    const row = this.#read().blobs.get(digest);
    return row && (row.key === undefined ? { size: row.size } : { size: row.size, key: row.key });
  }

  putBlob(digest: Digest, size: number, repository?: Repository, proof?: BlobProof) {
    return this.#write(() => {
      this.#require(proof?.lease);
      if (proof?.isThere?.() === false) return false;
      if (proof?.key !== undefined && !objects.settle(this.#tables, proof.key)) return false;
      this.#setBlob(digest, size, proof?.key);
      if (repository !== undefined) this.#linkBlob(repository, digest, size);
      return true;
    }, proof);
  }

  removeBlob(digest: Digest) {
    return this.#write(() => removals.removeBlobRow(this.#tables, digest));
  }

  putFoundBlob({ digest, key }: BlobObject, size: number, during?: During) {
    return this.#write(() => {
      if (this.#tables.blobs.has(digest) || this.#tables.objects.has(key)) return false;
      this.#setBlob(digest, size, key);
      return true;
    }, during);
  }

  announceObject({ digest, key, uploadId }: ComingObject, lease: Lease) {
    return this.#write(() => {
      this.#require(lease);
      this.#tables.objects.set(key, { digest, key, uploadId, epoch: lease.epoch, sinceMs: Date.now() });
    });
  }

  giveUpObject(key: string) {
    return this.#write(() => objects.giveUpAnnounced(this.#tables, key));
  }

  giveUpAbandonedObjects(beforeMs: number) {
    return this.#write(() => {
      for (const { key, epoch, sinceMs } of this.#tables.objects.values()) {
        const isHeld = epoch !== undefined && this.#tables.leases.isHeld(epoch);
        if (!isHeld && sinceMs < beforeMs) objects.giveUpAnnounced(this.#tables, key);
      }
    });
  }

  giveUpStrayObjects(found: readonly BlobObject[]) {
    return this.#write(() => {
      const strays = found.filter(object => objects.isStray(this.#tables, object));
      for (const object of strays) objects.giveUp(this.#tables, object);
      return strays;
    });
  }

  async listGivenUpObjects(beforeMs: number, limit: number) {
    return objects.givenUp(this.#read(), beforeMs, limit);
  }

  forgetObjects(keys: readonly string[]) {
    return this.#write(() => keys.forEach(key => this.#tables.objects.delete(key)));
  }

  async listUnrecorded(limit: number, after?: HostedImage) {
    return imageRecords.listUnrecorded(this.#read(), limit, after);
  }

  async countUnrecorded(most: number) {
    return imageRecords.listUnrecorded(this.#read(), most).length;
  }

  async isUnrecorded(image: HostedImage) {
    return imageRecords.isUnrecorded(this.#read(), image);
  }

  async readImageRecord(image: HostedImage) {
    return imageRecords.readImageRecord(this.#read(), image);
  }

  async isHostedManifest(digest: Digest) {
    return imageRecords.isHostedManifest(this.#read(), digest);
  }

  noteRecorded(image: UnrecordedImage) {
    return this.#write(() => imageRecords.noteRecorded(this.#tables, image));
  }

  addRecordedImages(images: readonly RecordedImage[], { setting, during, ...options }: AddRecordedOptions) {
    return this.#write(
      () => {
        const added = images.map(image => this.#addRecordedWithin(image, options));
        if (setting !== undefined) this.#tables.settings.set(setting.name, setting.value);
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
    return this.#write(() => images.forEach(image => imageRecords.noteUnrecorded(this.#tables, image)));
  }

  noteAllUnrecorded(after?: HostedImage) {
    return this.#write(() => imageRecords.noteAllUnrecorded(this.#tables, after));
  }

  async isLinked(repository: Repository, digest: Digest) {
    return repositories.linkIn(this.#rows(repository), digest) !== undefined;
  }

  linkBlob(repository: Repository, digest: Digest, size: number, during?: During) {
    return this.#write(() => this.#linkBlob(repository, digest, size), during);
  }

  unlinkBlob(repository: Repository, digest: Digest, during?: During) {
    const remove = (rows: RepositoryRows) => repositories.removeLink(this.#tables, rows, digest, 'blob');
    return this.#writeIn(repository, remove, during);
  }

  async namedSize(repository: Repository, digest: Digest) {
    return (
      repositories.linkIn(this.#rows(repository), digest)?.size ?? this.#sizeByManifest(repository, digest)
    );
  }

  async listNamings(digest: Digest) {
    return reachability.namersOf(this.#tables, digest).flatMap(namer => {
      const size = reachability.namesOf(namer).find(named => named.digest === digest)?.size ?? 0;
      const { repositories: all } = this.#tables;
      const namedIn = [...all.values()].filter(rows => reachability.isReadIn(rows, namer));
      return namedIn.map(({ repository }) => ({ repository, size }));
    });
  }

  async isNamed(repository: Repository, digest: Digest) {
    return this.#sizeByManifest(repository, digest) !== undefined;
  }

  async readReferrersList(repository: Repository, subject: Digest) {
    return this.#rows(repository)?.referrersLists.get(subject);
  }

  putReferrersList(repository: Repository, subject: Digest, { mediaType, bytes, checkedAtMs }: Document) {
    return this.#write(() => {
      const rows = repositories.find(this.#tables, repository);
      if (rows === undefined || manifests.readIn(this.#tables, rows, subject) === undefined) return;
      rows.referrersLists.set(subject, { mediaType, bytes: Buffer.from(bytes), checkedAtMs });
    });
  }

  async readGrants(repository: Repository, credentialIds?: readonly string[]) {
    const rows = this.#rows(repository);
    return credentialIds === undefined
      ? (rows?.grants.keys() ?? []).flatMap(id => rows?.grants.get(id) ?? [])
      : grantsOf(rows, credentialIds);
  }

  putGrant(
    repository: Repository,
    { credentialId, verifiedAtMs }: Grant,
    { unlessEnded, during }: GrantConditions = {},
  ) {
    const hasEnded = this.#endCheck(repository, unlessEnded);
    return this.#write(
      () => {
        if (hasEnded()) return false;
        const rows = repositories.findOrAdd(this.#tables, repository);
        rows.grants.set(credentialId, { credentialId, verifiedAtMs });
        return true;
      },
      { during },
    );
  }

  endGrant(repository: Repository, credentialId: string) {
    return this.#write(() => {
      this.#noteEnd(slotOf(credentialId, repository));
      repositories.find(this.#tables, repository)?.grants.delete(credentialId);
    });
  }

  async hasEndedGrant(repository: Repository, since: SinceAsked) {
    this.#requireOpen();
    return this.#endCheck(repository, since)();
  }

  endGrantsOf(credentialId: string) {
    return this.#write(() => {
      this.#noteEnd(slotOf(credentialId));
      for (const { grants } of this.#tables.repositories.values()) grants.delete(credentialId);
    });
  }

  endGrantsBefore(beforeMs: number, after = '') {
    return this.#write(() => {
      const looked = this.#tables.repositories
        .values()
        .flatMap(({ repository, grants }) =>
          grants.values().map(grant => ({
            grants,
            grant,
            position: `${repositoryKey(repository)} ${grant.credentialId}`,
          })),
        )
        .filter(({ position }) => position > after)
        .toSorted((a, b) => (a.position < b.position ? -1 : 1))
        .slice(0, GRANTS_AT_ONCE);
      const over = looked.filter(({ grant }) => grant.verifiedAtMs < beforeMs);
      for (const { grants, grant } of over) grants.delete(grant.credentialId);
      return { ended: over.length, next: looked.at(-1)?.position };
    });
  }

  async isPreloaded(repository: Repository, digest: Digest, grantees: readonly string[]) {
    return isPreloaded(this.#rows(repository), digest, grantees);
  }

  async listPreloads(repository: Repository) {
    const preloads = this.#rows(repository)?.preloads.values() ?? [];
    const grantees = [...new Set(preloads.map(({ grantee }) => grantee))].toSorted();
    return grantees.map(grantee => ({
      grantee,
      atMs: Math.max(...preloads.filter(each => each.grantee === grantee).map(({ atMs }) => atMs)),
    }));
  }

  endPreloadsOf(grantee: string, during?: During) {
    return this.#write(() => {
      for (const { preloads } of this.#tables.repositories.values()) {
        for (const preload of preloads.values()) {
          if (preload.grantee === grantee) preloads.delete(preloadKey(preload.digest, grantee));
        }
      }
    }, during);
  }

  putContent(
    repository: Repository,
    { manifests: imported, blobs, grantee }: ImportedContent,
    atMs: number,
    during?: During,
  ): Promise<readonly Digest[]> {
    return this.#write(() => {
      const missing = blobs.filter(({ digest }) => !this.#tables.blobs.has(digest));
      if (missing.length > 0) return missing.map(({ digest }) => digest);
      const rows = repositories.findOrAdd(this.#tables, repository);
      for (const { digest, size } of blobs) this.#linkBlob(repository, digest, size);
      for (const { manifest, view } of imported) this.#putManifestWithin(rows, manifest, view, atMs);
      if (grantee !== undefined) {
        for (const { digest } of [...blobs, ...imported.map(({ manifest }) => manifest)]) {
          rows.preloads.set(preloadKey(digest, grantee), { digest, grantee, atMs });
        }
      }
      return [];
    }, during);
  }

  publish(publications: readonly NamedContent[], atMs: number, during?: During) {
    return this.#write(() => {
      for (const { repository, digest, tag } of publications) {
        const rows = repositories.findOrAdd(this.#tables, repository);
        if (tag !== undefined) rows.tags.set(tag, { digest, checkedAtMs: atMs });
        rows.pins.set(tag ?? digest, true);
      }
    }, during);
  }

  putPin(repository: Repository, reference: string, during?: During) {
    const write = () => repositories.findOrAdd(this.#tables, repository).pins.set(reference, true);
    return this.#write(write, during);
  }

  removePin(repository: Repository, reference: string, during?: During) {
    return this.#writeIn(repository, ({ pins }) => pins.delete(reference), during);
  }

  async listPins(repository: Repository) {
    return this.#rows(repository)?.pins.keys() ?? [];
  }

  async listPinsOver(repository: Repository, digest: Digest) {
    const rows = this.#rows(repository);
    if (rows === undefined) return [];
    const keepers = reachability.above(digest, each => reachability.namersIn(this.#tables, rows, each));
    const meant = (pin: string) => [pin, rows.tags.get(pin)?.digest];
    return rows.pins.keys().filter(pin => keepers.some(keeper => meant(pin).includes(keeper)));
  }

  async listKnownTenants() {
    const { tenants } = this.#read();
    return tenants.keys().flatMap(name => tenants.get(name) ?? []);
  }

  putKnownTenants(tenants: readonly KnownTenant[], during?: During) {
    return this.#write(() => {
      for (const { name, uid } of tenants) this.#tables.tenants.set(name, { name, uid });
    }, during);
  }

  removeKnownTenant(name: string, during?: During) {
    return this.#write(() => void this.#tables.tenants.delete(name), during);
  }

  async listIssuedCredentials(tenants?: readonly string[]) {
    const { issued } = this.#read();
    const byId = issued
      .keys()
      .flatMap(id => issued.get(id) ?? [])
      .filter(({ tenant }) => tenants?.includes(tenant) ?? true);
    return byId.toSorted((a, b) => a.issuedAtMs - b.issuedAtMs);
  }

  putIssuedCredentials(credentials: readonly IssuedCredential[], during?: During) {
    return this.#write(() => {
      const { issued } = this.#tables;
      for (const credential of credentials) {
        const endsAtMs = Math.min(issued.get(credential.id)?.endsAtMs ?? Infinity, credential.endsAtMs);
        issued.set(credential.id, { ...credential, endsAtMs });
      }
    }, during);
  }

  async listCredentialUsage() {
    const { usages } = this.#read();
    return usages.keys().flatMap(id => usages.get(id) ?? []);
  }

  putCredentialUsage(usage: readonly CredentialUsage[]) {
    return this.#write(() => {
      for (const { credentialId, usedAtMs, refusedAtMs } of usage) {
        const known = this.#tables.usages.get(credentialId);
        const used = later(known?.usedAtMs, usedAtMs);
        const refused = later(known?.refusedAtMs, refusedAtMs);
        this.#tables.usages.set(credentialId, {
          credentialId,
          ...(used !== undefined && { usedAtMs: used }),
          ...(refused !== undefined && { refusedAtMs: refused }),
        });
      }
    });
  }

  removeCredentialUsage(credentialIds: readonly string[]) {
    return this.#write(() => credentialIds.forEach(id => this.#tables.usages.delete(id)));
  }

  expireLinks(links: readonly BlobLink[], unusedSinceMs: number) {
    return this.#write(() => {
      const isRemoved = (link: BlobLink) => removals.expireLink(this.#tables, link, unusedSinceMs);
      return this.#withoutNoted(links).filter(isRemoved).length;
    });
  }

  removeUnneeded(contents: readonly Content[], unusedSinceMs: number) {
    return this.#write(() => {
      const sinceMs = Math.min(unusedSinceMs, reachability.importingSinceMs(this.#tables));
      return this.#withoutNoted(contents).filter(content =>
        removals.removeUnneeded(this.#tables, content, sinceMs),
      );
    });
  }

  removeUnlinked(contents: readonly Content[], unusedSinceMs: number) {
    return this.#write(() => {
      const sinceMs = Math.min(unusedSinceMs, reachability.importingSinceMs(this.#tables));
      return this.#withoutNoted(contents).filter(content =>
        removals.removeUnlinked(this.#tables, content, sinceMs),
      );
    });
  }

  async importingSinceMs() {
    return reachability.importingSinceMs(this.#read());
  }

  evict(contents: readonly Content[], unusedSinceMs: number) {
    return this.#write(() =>
      this.#withoutNoted(contents).filter(content => removals.evict(this.#tables, content, unusedSinceMs)),
    );
  }

  ifStray(digests: readonly Digest[], act: (digest: Digest) => void) {
    return this.#write(() => {
      if (meansIncomplete(this.#tables.settings.get(STOPPED))) return [];
      const strays = digests.filter(digest => removals.isStray(this.#tables, digest));
      for (const digest of strays) act(digest);
      return strays;
    });
  }

  quarantine(content: Content, reason: string, bytes?: DamagedBytes) {
    return this.#write(() => {
      const stored = content.kind === 'manifest' ? this.#tables.manifests.get(content.digest) : undefined;
      if (bytes?.isSame(stored?.bytes) === false) return undefined;
      const key = content.kind === 'blob' ? this.#tables.blobs.get(content.digest)?.key : undefined;
      if (bytes !== undefined && bytes.key !== key) return undefined;
      const loss = removals.quarantine(this.#tables, content, reason);
      if (loss === 'hosted' && key !== undefined) this.#tables.objects.delete(key);
      if (loss === 'mirrored') bytes?.takeAway();
      return loss;
    });
  }

  async readDamage(digest: Digest) {
    const row = this.#read().damage.get(digest);
    return row && { foundAtMs: row.foundAtMs, reason: row.reason };
  }

  async countDamaged() {
    return this.#read().damage.size;
  }

  endDamage(digest: Digest) {
    return this.#write(() => void this.#tables.damage.delete(digest));
  }

  putUpload(upload: Upload, lease?: Lease) {
    return this.#write(() => {
      this.#require(lease);
      const known = this.#tables.uploads.get(upload.id);
      this.#tables.uploads.set(upload.id, { ...(known ?? upload), touchedAtMs: upload.touchedAtMs });
    });
  }

  async readUpload(id: string) {
    return this.#read().uploads.get(id);
  }

  removeUpload(id: string, lease?: Lease) {
    return this.#write(() => {
      this.#require(lease);
      return this.#tables.uploads.delete(id);
    });
  }

  async countUploads(repository: Repository) {
    const key = repositoryKey(repository);
    return this.#uploads(upload => repositoryKey(upload.repository) === key).length;
  }

  async countUploadsOf(requester: string) {
    return this.#uploads(upload => upload.requester === requester).length;
  }

  async listUploads(touchedBeforeMs: number, limit: number) {
    const untouched = this.#uploads(({ touchedAtMs }) => touchedAtMs < touchedBeforeMs);
    return untouched.toSorted((a, b) => a.touchedAtMs - b.touchedAtMs).slice(0, limit);
  }

  acquireLease(key: string, onHeld?: (held: LeaseState) => void) {
    return this.#write(() => this.#leases.acquireLease(key, onHeld));
  }

  release(...leases: readonly Lease[]) {
    return this.#write(() => this.#leases.release(...leases));
  }

  setAside(lease: Lease) {
    return this.#write(() => this.#leases.setAside(lease));
  }

  readLease(key: string) {
    return this.#leases.readLease(key);
  }

  notify(topic: Topic) {
    return this.#write(() => {
      for (const process of this.#index.processes) if (process !== this) process.#hear(topic);
    });
  }

  onNotification(topic: Topic, listener: () => void) {
    const entry = { topic, listener };
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  async pollNotifications() {
    const news = [...this.#news];
    this.#news.clear();
    for (const { topic, listener } of this.#listeners) if (news.includes(topic)) listener();
  }

  async readSetting(name: string) {
    return this.#read().settings.get(name);
  }

  putSetting(name: string, value: string, during?: During) {
    return this.#write(() => this.#tables.settings.set(name, value), during);
  }

  initSetting(name: string, value: string) {
    return this.#write(() => {
      const known = this.#tables.settings.get(name);
      if (known === undefined) this.#tables.settings.set(name, value);
      return known ?? value;
    });
  }

  noteUse(digest: Digest) {
    this.#noted.set(digest, Date.now());
  }

  async putUse(digest: Digest) {
    this.noteUse(digest);
    await this.#write(() => this.#writeUse(digest));
  }

  async writeUses() {
    await this.#write(() => this.#noted.forEach((_, digest) => this.#writeUse(digest)));
  }

  async hasLaterUses(thanMs: number) {
    const { blobs, manifests: bytes } = this.#read();
    return (
      [...blobs.values(), ...bytes.values()].some(({ usedAtMs }) => usedAtMs > thanMs) ||
      this.#uploads(({ touchedAtMs }) => touchedAtMs > thanMs).length > 0
    );
  }

  lowerUses(laterThanMs: number, toMs: number) {
    return this.#write(() => {
      const { blobs, manifests: bytes, uploads } = this.#tables;
      const usedBlobs = blobs.values().filter(({ usedAtMs }) => usedAtMs > laterThanMs);
      const usedBytes = bytes.values().filter(({ usedAtMs }) => usedAtMs > laterThanMs);
      const touched = this.#uploads(({ touchedAtMs }) => touchedAtMs > laterThanMs);
      for (const blob of usedBlobs) blobs.set(blob.digest, { ...blob, usedAtMs: toMs });
      for (const manifest of usedBytes) bytes.set(manifest.digest, { ...manifest, usedAtMs: toMs });
      for (const upload of touched) uploads.set(upload.id, { ...upload, touchedAtMs: toMs });
      return usedBlobs.length + usedBytes.length + touched.length;
    });
  }

  lowerLinks(links: readonly BlobLink[], toMs: number) {
    return this.#write(() => {
      for (const { repository, digest } of links) {
        const rows = repositories.find(this.#tables, repository);
        const key = linkKey(digest, 'blob');
        const link = rows?.links.get(key);
        if (link !== undefined && link.createdAtMs > toMs)
          rows?.links.set(key, { ...link, createdAtMs: toMs });
      }
    });
  }

  async readTotals() {
    const { blobs, manifests: bytes, repositories: all } = this.#read();
    const lists = all.values().flatMap(({ referrersLists }) => referrersLists.values());
    return {
      repositories: all.values().filter(repositories.hasEntries).length,
      manifests: bytes.size,
      manifestBytes: [...bytes.values(), ...lists].reduce((sum, row) => sum + row.bytes.byteLength, 0),
      blobs: blobs.size,
      blobBytes: blobs.values().reduce((sum, { size }) => sum + size, 0),
    };
  }

  async countProcesses() {
    return this.#index.processes.size;
  }

  async listReplicas() {
    const addresses = [...this.#index.processes].flatMap(({ replica }) => replica ?? []);
    return [...new Set(addresses)].map(address => ({ id: address.replaceAll(/[^a-z0-9]+/g, '-'), address }));
  }

  async listGoneReplicas() {
    return [];
  }

  async endLeaseOfGone(lease: Pick<Lease, 'key' | 'epoch'>) {
    return this.#leases.endOfSilent(lease);
  }

  lockedOutForMs() {
    return 0;
  }

  loss() {
    return undefined;
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    // After the writes that were begun before.
    const written = this.writeUses();
    this.#isClosed = true;
    await written;
    this.#index.processes.delete(this);
    await this.#leases.close();
  }

  #read(): Tables {
    this.#requireOpen();
    return this.#tables;
  }

  #endCheck(repository: Repository, since: SinceAsked | undefined): () => boolean {
    if (since === undefined) return () => false;
    const sinceMs = performance.now() - since.agoMs;
    return () =>
      slotsOf(repository, since.credentialIds).some(slot => {
        const end = this.#tables.ended.get(String(slot));
        return end !== undefined && end.atMs >= sinceMs && end.by !== this;
      });
  }

  /** Call within a write. */
  #noteEnd(slot: number): void {
    const before = this.#tables.ended.get(String(slot));
    const by = before === undefined || before.by === this ? this : undefined;
    this.#tables.ended.set(String(slot), { by, atMs: performance.now() });
  }

  async #write<T>(work: () => T, { during }: During = {}): Promise<Awaited<T>> {
    this.#requireOpen();
    await nextTurn();
    if (during !== undefined) this.#requirePresence(during);
    return await this.#tables.transact(work);
  }

  #writeIn(
    repository: Repository,
    work: (rows: RepositoryRows) => boolean,
    during?: During,
  ): Promise<boolean> {
    return this.#write(() => {
      const rows = repositories.find(this.#tables, repository);
      return rows !== undefined && work(rows);
    }, during);
  }

  /** A removal in a repository, with what is written along if it has removed something. */
  #removeIn(
    repository: Repository,
    along: WithMessages | undefined,
    remove: (rows: RepositoryRows) => boolean,
  ): Promise<boolean> {
    const work = (rows: RepositoryRows) => {
      const isRemoved = remove(rows);
      if (isRemoved) this.#putAlong(along);
      return isRemoved;
    };
    return this.#writeIn(repository, work, along);
  }

  /** Call within a write. */
  #putAlong({ messages = [] }: WithMessages = {}): void {
    this.outbox.putWithin(messages);
  }

  #requireOpen(): void {
    if (this.#isClosed) throw new Error('the metadata store is closed');
  }

  #rows(repository: Repository): RepositoryRows | undefined {
    return repositories.find(this.#read(), repository);
  }

  /** Call within a write: throws LeaseLost unless the Lease is held. */
  #require(lease: Lease | undefined): void {
    if (lease !== undefined && !this.#leases.holds(lease)) throw new LeaseLost(lease.key);
  }

  /** Call within a write. */
  #setBlob(digest: Digest, size: number, key: string | undefined): void {
    // A row with another size was damaged, and is another one from now on.
    const before = this.#tables.blobs.get(digest);
    if (before?.size !== size) removals.removeBlobRow(this.#tables, digest);
    else if (before.key !== undefined && before.key !== key)
      objects.giveUp(this.#tables, { digest, key: before.key });
    this.#tables.blobs.set(digest, { digest, size, key, usedAtMs: Date.now() });
    this.#tables.damage.delete(digest);
  }

  #linkBlob(repository: Repository, digest: Digest, size: number): void {
    const rows = repositories.findOrAdd(this.#tables, repository);
    repositories.putLink(this.#tables, rows, { digest, kind: 'blob', mediaType: undefined, size });
  }

  /** Call within a write. */
  #putManifestWithin(rows: RepositoryRows, manifest: Manifest, view: ManifestView, atMs: number): void {
    const { digest, mediaType, bytes } = manifest;
    manifests.putManifestRow(this.#tables, manifest, view, atMs);
    this.#tables.damage.delete(digest);
    repositories.putLink(this.#tables, rows, { digest, kind: 'manifest', mediaType, size: bytes.byteLength });
  }

  #addRecordedWithin(
    image: RecordedImage,
    { atMs, completesKnown }: Pick<AddRecordedOptions, 'atMs' | 'completesKnown'>,
  ) {
    const { name, digest, record, content } = image;
    const repository = { upstream: '', name };
    const isNew = manifests.readIn(this.#tables, this.#rows(repository), digest) === undefined;
    const isAdded = isNew && content !== undefined && !imageRecords.isUnrecorded(this.#tables, image);
    if (!isAdded && (isNew || !completesKnown)) return { isNew: false, tags: 0, missing: [] };
    const rows = repositories.findOrAdd(this.#tables, repository);
    imageRecords.noteUnrecorded(this.#tables, image);
    const blobs = isAdded ? content.blobs : [];
    for (const blob of blobs) this.#linkBlob(repository, blob.digest, blob.size);
    if (isAdded) this.#putManifestWithin(rows, content.manifest, content.view, atMs);
    const newer = record.tags.filter(each => each.atMs > (rows.tags.get(each.tag)?.checkedAtMs ?? -1));
    for (const { tag, atMs: checkedAtMs } of newer) rows.tags.set(tag, { digest, checkedAtMs });
    for (const reference of record.pins) rows.pins.set(reference, true);
    const missing = blobs.filter(blob => !this.#tables.blobs.has(blob.digest));
    return { isNew, tags: newer.length, missing: missing.map(blob => ({ name, digest: blob.digest })) };
  }

  /** Call within a write. Of content that is not stored by now there is nothing to write. */
  #writeUse(digest: Digest): void {
    const atMs = this.#noted.get(digest);
    if (atMs === undefined) return;
    const { blobs, manifests: bytes } = this.#tables;
    const [blob, manifest] = [blobs.get(digest), bytes.get(digest)];
    if (blob !== undefined) blobs.set(digest, { ...blob, usedAtMs: Math.max(atMs, blob.usedAtMs) });
    if (manifest !== undefined)
      bytes.set(digest, { ...manifest, usedAtMs: Math.max(atMs, manifest.usedAtMs) });
    this.#noted.delete(digest);
  }

  /** Those whose last use is known to the rows. */
  #withoutNoted<T extends { readonly digest: Digest }>(contents: readonly T[]): readonly T[] {
    return contents.filter(({ digest }) => !this.#noted.has(digest));
  }

  /** The manifest, unless its bytes do not match its digest: then it is damaged, and absent from now on. */
  async #sound<T extends Pick<Manifest, 'digest' | 'bytes'>>(manifest: T): Promise<T | undefined> {
    const { digest, bytes } = manifest;
    if (digestOf(bytes, digestAlgorithm(digest)) === digest) return manifest;
    await this.quarantine({ kind: 'manifest', digest }, DIGEST_MISMATCH, damagedManifest(digest));
    return undefined;
  }

  #tagsWhere(
    repository: Repository,
    isWanted: (tag: TagRow, rows: RepositoryRows) => boolean,
    page: Page,
  ): Paged<string> {
    const rows = this.#rows(repository);
    const isFound = (name: string) => {
      const tag = rows?.tags.get(name);
      return rows !== undefined && tag !== undefined && isWanted(tag, rows);
    };
    return pageOf((rows?.tags.keys() ?? []).filter(isFound), page, name => name);
  }

  #uploads(isWanted: (upload: Upload) => boolean): readonly Upload[] {
    return this.#read().uploads.values().filter(isWanted);
  }

  #sizeByManifest(repository: Repository, digest: Digest): number | undefined {
    const rows = this.#rows(repository);
    const namer = rows && reachability.namersIn(this.#tables, rows, digest)[0];
    return namer && reachability.namesOf(namer).find(named => named.digest === digest)?.size;
  }

  /** Another process has announced something. */
  #hear(topic: Topic): void {
    this.#news.add(topic);
    setImmediate(() => void this.pollNotifications());
  }
}

function later(one: number | undefined, other: number | undefined): number | undefined {
  return one === undefined || other === undefined ? (one ?? other) : Math.max(one, other);
}

function grantsOf(rows: RepositoryRows | undefined, credentialIds: readonly string[]): readonly Grant[] {
  return credentialIds.flatMap(id => rows?.grants.get(id) ?? []);
}

function isPreloaded(rows: RepositoryRows | undefined, digest: Digest, grantees: readonly string[]): boolean {
  return grantees.some(grantee => rows?.preloads.has(preloadKey(digest, grantee)) === true);
}

/** What else a `PullQuery` asks. */
function readForRequester(
  rows: RepositoryRows | undefined,
  digest: Digest | undefined,
  { grantees = [], credentialIds = [] }: PullQuery,
): { readonly grants: readonly Grant[]; readonly isPreloaded: boolean } {
  const grants = grantsOf(rows, credentialIds);
  const isAsked = digest !== undefined && grants.length === 0;
  return { grants, isPreloaded: isAsked && isPreloaded(rows, digest, grantees) };
}
