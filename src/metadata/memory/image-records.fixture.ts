// The records of hosted images, for an index in memory: an image is unrecorded while it differs from what was recorded.
import { type Digest, isDigest } from '../../oci/digest.ts';
import { type HostedImage, type HostedRecord, NOTED_AT_ONCE, type UnrecordedImage } from '../image-record.ts';
import { linkKey, repositoryKey, type RepositoryRows, type Tables } from './tables.fixture.ts';

/** In place of the state of an image that is gone. */
const GONE = '';

export function readImageRecord(tables: Tables, { name, digest }: HostedImage): HostedRecord | undefined {
  const rows = tables.repositories.get(repositoryKey({ upstream: '', name }));
  const mediaType = rows?.links.get(linkKey(digest, 'manifest'))?.mediaType;
  if (rows === undefined || mediaType === undefined) return undefined;
  const tags = rows.tags
    .keys()
    .flatMap(tag => ({ tag, row: rows.tags.get(tag) }))
    .filter(({ row }) => row?.digest === digest)
    .map(({ tag, row }) => ({ tag, atMs: row?.checkedAtMs ?? 0 }));
  const pins = rows.pins.keys().filter(pin => pin === digest || tags.some(({ tag }) => tag === pin));
  return { mediaType, tags, pins };
}

export function isHostedManifest(tables: Tables, digest: Digest): boolean {
  return hosted(tables).some(({ links }) => links.has(linkKey(digest, 'manifest')));
}

export function listUnrecorded(
  tables: Tables,
  limit: number,
  after?: HostedImage,
): readonly UnrecordedImage[] {
  const from = after === undefined ? '' : keyOf(after);
  const known = tables.recorded.keys().flatMap(imagesOf);
  const there = allImages(tables).filter(image => !tables.recorded.has(keyOf(image)));
  return [...known, ...there]
    .map(image => ({ ...image, change: stateOf(tables, image) }))
    .filter(image => tables.recorded.get(keyOf(image)) !== image.change)
    .filter(image => image.change !== GONE || tables.recorded.has(keyOf(image)))
    .filter(image => keyOf(image) > from)
    .toSorted((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1))
    .slice(0, limit);
}

export function isUnrecorded(tables: Tables, image: HostedImage): boolean {
  return listUnrecorded(tables, Number.POSITIVE_INFINITY).some(other => keyOf(other) === keyOf(image));
}

/** Call within a write. */
export function noteRecorded(tables: Tables, { change, ...image }: UnrecordedImage): void {
  const isRecorded = tables.recorded.get(keyOf(image)) === stateOf(tables, image);
  if (isRecorded || (change === GONE && !tables.recorded.has(keyOf(image)))) noteUnrecorded(tables, image);
  else if (change === GONE) tables.recorded.delete(keyOf(image));
  else tables.recorded.set(keyOf(image), change);
}

/** Call within a write. */
export function noteUnrecorded(tables: Tables, { name, digest }: HostedImage): void {
  tables.recorded.set(keyOf({ name, digest }), 'unknown');
}

/** Call within a write. */
export function noteAllUnrecorded(tables: Tables, after: HostedImage | undefined): HostedImage | undefined {
  const from = after === undefined ? '' : keyOf(after);
  const images = allImages(tables)
    .filter(image => keyOf(image) > from)
    .toSorted((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1))
    .slice(0, NOTED_AT_ONCE);
  for (const image of images) noteUnrecorded(tables, image);
  return images.length < NOTED_AT_ONCE ? undefined : images.at(-1);
}

function hosted(tables: Tables): readonly RepositoryRows[] {
  return tables.repositories.values().filter(({ repository }) => repository.upstream === '');
}

function allImages(tables: Tables): readonly HostedImage[] {
  return hosted(tables).flatMap(({ repository: { name }, links }) =>
    links.values().flatMap(({ kind, digest }) => (kind === 'manifest' ? { name, digest } : [])),
  );
}

function stateOf(tables: Tables, image: HostedImage): string {
  const record = readImageRecord(tables, image);
  return record === undefined ? GONE : JSON.stringify(record);
}

function keyOf({ name, digest }: HostedImage): string {
  return `${name} ${digest}`;
}

function imagesOf(key: string): readonly HostedImage[] {
  const [name = '', digest = ''] = key.split(' ');
  return isDigest(digest) ? [{ name, digest }] : [];
}
