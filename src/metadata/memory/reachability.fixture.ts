// What keeps content in an index in memory.
import type { Descriptor } from '../../oci/descriptor.ts';
import { type Digest, digestAlgorithm, digestHex } from '../../oci/digest.ts';
import { IMPORT_LEASE } from '../import-lease.ts';
import {
  type Link,
  linkKey,
  type LinkKind,
  type Reading,
  type RepositoryRows,
  type Tables,
} from './tables.fixture.ts';

/** A Link with its repository. */
export interface PlacedLink {
  readonly rows: RepositoryRows;
  readonly link: Link;
}

const isHostedRepository = ({ repository }: RepositoryRows) => repository.upstream === '';

/** All Links of the content, as whatever it is linked. */
export function linksOf(tables: Tables, digest: Digest, kinds: readonly LinkKind[] = ['blob', 'manifest']) {
  const placed = (rows: RepositoryRows): PlacedLink[] =>
    kinds.flatMap(kind => {
      const link = rows.links.get(linkKey(digest, kind));
      return link === undefined ? [] : [{ rows, link }];
    });
  return tables.repositories.values().flatMap(placed);
}

/** What a reading names, in its order. */
export function namesOf({ view }: Reading): readonly Descriptor[] {
  return [...view.manifests, ...view.blobs];
}

/** The readings that name the content, the newest first. */
export function namersOf(tables: Tables, digest: Digest): readonly Reading[] {
  return tables.readings
    .values()
    .filter(reading => namesOf(reading).some(named => named.digest === digest))
    .toReversed();
}

/** The same of the manifests that are linked in the repository, under their media type there. */
export function namersIn(tables: Tables, rows: RepositoryRows, digest: Digest): readonly Reading[] {
  return namersOf(tables, digest).filter(namer => isReadIn(rows, namer));
}

export function isReadIn(rows: RepositoryRows, { digest, mediaType }: Reading): boolean {
  return rows.links.get(linkKey(digest, 'manifest'))?.mediaType === mediaType;
}

export function isHosted(tables: Tables, digest: Digest): boolean {
  return linksOf(tables, digest).some(({ rows }) => isHostedRepository(rows));
}

export function isHostedBlob(tables: Tables, digest: Digest): boolean {
  return linksOf(tables, digest, ['blob']).some(({ rows }) => isHostedRepository(rows));
}

/** A repository reads the manifest, or is a hosted one that did until it was damaged. */
export function isKeptManifest(tables: Tables, digest: Digest): boolean {
  return linksOf(tables, digest, ['manifest']).some(
    ({ rows, link }) => link.mediaType !== undefined || isHostedRepository(rows),
  );
}

/** A Link keeps the blob although no manifest names it. */
export function isKeptByLink(tables: Tables, digest: Digest, sinceMs: number): boolean {
  return linksOf(tables, digest, ['blob']).some(
    ({ rows, link }) => isHostedRepository(rows) || link.createdAtMs >= sinceMs || rows.pins.has(digest),
  );
}

/** A process is downloading the blob, or storing it from an archive. */
export function isBeingFilled(tables: Tables, digest: Digest): boolean {
  const content = `${digestAlgorithm(digest)}-${digestHex(digest)}`;
  return tables.leases
    .heldKeys()
    .some(key => key === `import-${content}` || (key.startsWith('fill-') && key.endsWith(`-${content}`)));
}

/** A pin keeps it, directly or through something above it. */
export function isUnderPin(tables: Tables, digest: Digest): boolean {
  const pinned = new Set(
    tables.repositories
      .values()
      .flatMap(({ pins, tags }) => pins.keys().flatMap(pin => [pin, tags.get(pin)?.digest ?? pin])),
  );
  return above(digest, each => namersOf(tables, each)).some(each => pinned.has(each));
}

/** The content, and everything above it. */
export function above(digest: Digest, namers: (digest: Digest) => readonly Reading[]): readonly Digest[] {
  const found = new Set([digest]);
  for (const each of found) for (const namer of namers(each)) found.add(namer.digest);
  return [...found];
}

/** When the oldest of the running imports began; 0 if that is not known, or in the future. */
export function importingSinceMs(tables: Tables): number {
  const began = tables.leases
    .heldKeys()
    .filter(key => key.startsWith(IMPORT_LEASE))
    .map(key => Number(tables.settings.get(key) ?? 0))
    .map(atMs => (atMs <= Date.now() ? atMs : 0));
  return Math.min(Number.MAX_SAFE_INTEGER, ...began);
}

/** It was imported since a running import began, which may not have pinned it yet. */
function isArriving(tables: Tables, digest: Digest): boolean {
  const sinceMs = importingSinceMs(tables);
  return linksOf(tables, digest).some(({ rows }) =>
    rows.preloads.values().some(preload => preload.digest === digest && preload.atMs >= sinceMs),
  );
}

/** Linked mirrored content that may be evicted. */
export function isEvictable(tables: Tables, digest: Digest): boolean {
  return (
    linksOf(tables, digest).length > 0 &&
    !isHosted(tables, digest) &&
    !isBeingFilled(tables, digest) &&
    !isUnderPin(tables, digest) &&
    !isArriving(tables, digest)
  );
}
