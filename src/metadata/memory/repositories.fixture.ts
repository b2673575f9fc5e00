// Repositories of an index in memory, with what is linked and tagged in them.
import { countedBytes } from '../../oci/counted-bytes.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { ComingManifest, OwnerBytes, Usage } from '../metadata-store.ts';
import { dropIdleReadings } from './manifests.fixture.ts';
import { linksOf } from './reachability.fixture.ts';
import {
  type Link,
  linkKey,
  type LinkKind,
  repositoryKey,
  type RepositoryRows,
  type Tables,
} from './tables.fixture.ts';

export function find(tables: Tables, repository: Repository): RepositoryRows | undefined {
  return tables.repositories.get(repositoryKey(repository));
}

/** Call within a write. */
export function findOrAdd(tables: Tables, { upstream, name }: Repository): RepositoryRows {
  const known = find(tables, { upstream, name });
  if (known !== undefined) return known;
  const rows = tables.newRepository({ upstream, name });
  tables.repositories.set(repositoryKey(rows.repository), rows);
  return rows;
}

/** Whether anything is linked or tagged in it. */
export function hasEntries({ links, tags }: RepositoryRows): boolean {
  return links.size + tags.size > 0;
}

/** The Link of a blob, or else of a manifest. */
export function linkIn(rows: RepositoryRows | undefined, digest: Digest): Link | undefined {
  return rows?.links.get(linkKey(digest, 'blob')) ?? rows?.links.get(linkKey(digest, 'manifest'));
}

/** Call within a write. A Link that is written again is new again. */
export function putLink(tables: Tables, rows: RepositoryRows, link: Omit<Link, 'createdAtMs'>): void {
  const key = linkKey(link.digest, link.kind);
  rows.links.set(key, { ...link, createdAtMs: Date.now() });
  tables.uncollected.delete(key);
  if (link.kind === 'manifest') dropIdleReadings(tables, link.digest);
}

/** Call within a write. Removes the Link with what depends on it; false if there was none. */
export function removeLink(tables: Tables, rows: RepositoryRows, digest: Digest, kind: LinkKind): boolean {
  const key = linkKey(digest, kind);
  const link = rows.links.get(key);
  if (link === undefined) return false;
  rows.links.delete(key);
  charge(tables, rows, link);
  if (kind === 'manifest') {
    rows.referrersLists.delete(digest);
    dropIdleReadings(tables, digest);
  }
  if (linkIn(rows, digest) === undefined) {
    for (const preload of rows.preloads.keys()) {
      if (rows.preloads.get(preload)?.digest === digest) rows.preloads.delete(preload);
    }
  }
  removeIfEmptied(tables, rows);
  return true;
}

/** Call within a write. False if there was none. */
export function removeTag(tables: Tables, rows: RepositoryRows, tag: string): boolean {
  const isRemoved = rows.tags.delete(tag);
  if (isRemoved) removeIfEmptied(tables, rows);
  return isRemoved;
}

/** Call within a write. */
export function removeRepository(tables: Tables, rows: RepositoryRows): void {
  for (const { digest, kind } of rows.links.values()) removeLink(tables, rows, digest, kind);
  tables.repositories.delete(repositoryKey(rows.repository));
}

/** Call after the last Link or tag: whoever adds the repository again starts with nothing. */
function removeIfEmptied(tables: Tables, rows: RepositoryRows): void {
  if (!hasEntries(rows)) tables.repositories.delete(repositoryKey(rows.repository));
}

/** Stored content that has lost its last Link counts for the owner of that, until it is removed. */
function charge(tables: Tables, { repository }: RepositoryRows, { digest, kind, size }: Link): void {
  const stored: { has(key: string): boolean } = kind === 'blob' ? tables.blobs : tables.manifests;
  if (repository.upstream !== '' || !stored.has(digest)) return;
  if (linksOf(tables, digest, [kind]).length > 0) return;
  tables.uncollected.set(linkKey(digest, kind), { owner: ownerOf(repository), size });
}

function ownerOf({ name }: Repository): string {
  return name.split('/', 1)[0] ?? name;
}

function ownedBy(tables: Tables, owner: string): readonly RepositoryRows[] {
  return tables.repositories
    .values()
    .filter(({ repository }) => repository.upstream === '' && ownerOf(repository) === owner);
}

function countedSum(entries: readonly { readonly size: number }[]): number {
  return entries.reduce((bytes, { size }) => bytes + countedBytes(size), 0);
}

export function ownerBytes(tables: Tables, owner: string): OwnerBytes {
  return {
    bytes: countedSum(ownedBy(tables, owner).flatMap(({ links }) => links.values())),
    uncollectedBytes: countedSum(tables.uncollected.values().filter(each => each.owner === owner)),
  };
}

/** Those of `owners` that have anything. */
export function ownersBytes(tables: Tables, owners: readonly string[]): ReadonlyMap<string, OwnerBytes> {
  const found = owners.map(owner => [owner, ownerBytes(tables, owner)] as const);
  return new Map(found.filter(([, { bytes, uncollectedBytes }]) => bytes + uncollectedBytes > 0));
}

export function usage(tables: Tables, owner: string, repository: Repository, coming?: ComingManifest): Usage {
  const rows = find(tables, repository);
  return {
    ...ownerBytes(tables, owner),
    repositories: ownedBy(tables, owner).length,
    isKnown: rows !== undefined,
    tags: rows?.tags.size ?? 0,
    hasManifest: coming !== undefined && rows?.links.has(linkKey(coming.digest, 'manifest')) === true,
    newTags: [...new Set(coming?.tags)].filter(tag => rows?.tags.has(tag) !== true).length,
  };
}
