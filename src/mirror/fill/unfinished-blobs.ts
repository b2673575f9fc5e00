import type { FoundIngest, Spool } from '../../blobs/spool.ts';
import { Extents, type KnownExtents } from '../../lib/extents.ts';
import type { Digest } from '../../oci/digest.ts';
import { digestInFillKey, digestInPartsKey } from './fill-key.ts';

/** What the spool has of a blob that is not stored, from any process. */
export interface UnfinishedBlob {
  /** `ranges` that clients have requested, or a `download` of all of it, which may be running. */
  readonly kind: 'ranges' | 'download';
  readonly digest: Digest;
  readonly found: FoundIngest;
}

/** All that the spool has of blobs that are not stored, without uploads and copies. */
export async function* unfinishedBlobs(spool: Pick<Spool, 'list'>): AsyncGenerator<UnfinishedBlob, void> {
  for await (const found of spool.list()) {
    const ranged = digestInPartsKey(found.key);
    const digest = ranged ?? digestInFillKey(found.key);
    if (digest === undefined) continue;
    yield { kind: ranged === undefined ? 'download' : 'ranges', digest, found };
  }
}

/** Which bytes are there; `undefined` if that cannot be read. */
export async function extentsThere(
  spool: Pick<Spool, 'savedParts'>,
  { kind, found: { key, epoch, size } }: UnfinishedBlob,
): Promise<KnownExtents | undefined> {
  if (kind === 'download') return new Extents([{ start: 0, end: size }]);
  const saved = epoch === undefined ? undefined : await spool.savedParts(key, epoch);
  await saved?.close();
  return saved?.extents;
}

/**
 * How many bytes of each of these blobs are there, for any requester. Blobs of which nothing is there are absent.
 */
export async function bytesThereOf(
  spool: Pick<Spool, 'list' | 'savedParts'>,
  digests: ReadonlySet<Digest>,
): Promise<ReadonlyMap<Digest, number>> {
  if (digests.size === 0) return new Map();
  const there = new Map<Digest, Extents>();
  for await (const blob of unfinishedBlobs(spool)) {
    if (!digests.has(blob.digest)) continue;
    const extents = (await extentsThere(spool, blob)) ?? [];
    there.set(blob.digest, (there.get(blob.digest) ?? new Extents()).addAll(extents));
  }
  return new Map([...there].flatMap(([digest, { bytes }]) => (bytes === 0 ? [] : [[digest, bytes]])));
}
