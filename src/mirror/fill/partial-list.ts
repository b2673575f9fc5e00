import type { FoundIngest, Spool } from '../../blobs/spool.ts';
import { Extents, type KnownExtents } from '../../lib/extents.ts';
import { isLeased } from '../../lib/lease.ts';
import type { MetadataStore } from '../../metadata/metadata-store.ts';
import type { Digest } from '../../oci/digest.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import { digestInFillKey, digestInPartsKey, fillKey } from './fill-key.ts';
import type { Fills } from './fills.ts';
import type { Partials } from './partials.ts';

/** How many are listed, each of which costs some reads. */
const MAX_LISTED = 100;

/** A blob of which some is on disk, and which nobody downloads as a whole. For people. */
export interface PartialState {
  /** `ranges` that clients have requested, or a `download` that was interrupted and can continue. */
  readonly kind: 'ranges' | 'download';
  readonly digest: Digest;
  /**
   * `repositoryText` of where it comes from: if this process does not use it, one whose stored manifest names it;
   * `undefined` if none does.
   */
  readonly repository: string | undefined;
  /** How many bytes of the blob are there, which may take more space on the disk. */
  readonly bytes: number;
  /** The size of the whole blob; `undefined` like `repository`. */
  readonly size: number | undefined;
  /** How many read it in this process. */
  readonly readers: number;
  /** When it was last used, epoch ms. */
  readonly usedAtMs: number;
  /** Whether this process uses it. */
  readonly isOpen: boolean;
}

/**
 * How many bytes are there of each of these blobs, which are not stored: of ranges, for whomever they are, and of downloads,
 * interrupted or not. Those of which nothing is there are absent.
 */
export async function bytesThereOf(
  spool: Pick<Spool, 'list' | 'savedParts'>,
  digests: ReadonlySet<Digest>,
): Promise<ReadonlyMap<Digest, number>> {
  if (digests.size === 0) return new Map();
  const there = new Map<Digest, Extents>();
  for await (const found of spool.list()) {
    const digest = digestInPartsKey(found.key) ?? digestInFillKey(found.key);
    if (digest === undefined || !digests.has(digest)) continue;
    const extents = found.isParts ? await savedExtents(spool, found) : [{ start: 0, end: found.size }];
    there.set(digest, (there.get(digest) ?? new Extents()).addAll(extents ?? []));
  }
  return new Map([...there].flatMap(([digest, { bytes }]) => (bytes === 0 ? [] : [[digest, bytes]])));
}

/** What is saved of parts; `undefined` if that cannot be read. */
async function savedExtents(
  spool: Pick<Spool, 'savedParts'>,
  { key, epoch }: FoundIngest,
): Promise<KnownExtents | undefined> {
  const saved = epoch === undefined ? undefined : await spool.savedParts(key, epoch);
  await saved?.close();
  return saved?.extents;
}

export interface PartialListOptions {
  readonly spool: Spool;
  readonly metadata: MetadataStore;
  readonly fills: Fills;
  readonly partials: Partials;
}

/** Lists the blobs of which some is on disk: those in use here, and what any process has left. */
export class PartialList {
  readonly #options: PartialListOptions;

  constructor(options: PartialListOptions) {
    this.#options = options;
  }

  async read(): Promise<readonly PartialState[]> {
    const states: PartialState[] = [];
    for await (const found of this.#options.spool.list()) {
      const state = (await this.#ranges(found)) ?? (await this.#download(found));
      if (state !== undefined) states.push(state);
      if (states.length === MAX_LISTED) break;
    }
    return states;
  }

  async #ranges(found: FoundIngest): Promise<PartialState | undefined> {
    const { key, modifiedAtMs: usedAtMs } = found;
    const digest = digestInPartsKey(key);
    if (digest === undefined) return undefined;
    const { partials } = this.#options;
    const opened = partials.openedAs(key);
    if (opened !== undefined)
      return { kind: 'ranges', digest, usedAtMs: Date.now(), isOpen: true, ...opened };
    // What they take on the disk if that cannot be read.
    const bytes = (await savedExtents(this.#options.spool, found))?.bytes ?? found.size;
    const named = await this.#named(digest, repository => partials.isOf(key, repository, digest));
    return { kind: 'ranges', digest, bytes, usedAtMs, isOpen: false, readers: 0, ...named };
  }

  async #download({
    key,
    size: bytes,
    modifiedAtMs: usedAtMs,
  }: FoundIngest): Promise<PartialState | undefined> {
    const { fills, metadata } = this.#options;
    const digest = digestInFillKey(key);
    if (digest === undefined || bytes === 0 || fills.isRunning(key) || (await isLeased(metadata, key)))
      return undefined;
    const named = await this.#named(digest, ({ upstream }) => fillKey(upstream, digest) === key);
    return { kind: 'download', digest, bytes, usedAtMs, isOpen: false, readers: 0, ...named };
  }

  /** Of the repositories whose manifests name the blob, the one that `isSource`, or another. */
  async #named(
    digest: Digest,
    isSource: (repository: Repository) => boolean,
  ): Promise<Pick<PartialState, 'repository' | 'size'>> {
    const namings = await this.#options.metadata.listNamings(digest);
    const naming = namings.find(({ repository }) => isSource(repository)) ?? namings[0];
    return { repository: naming && repositoryText(naming.repository), size: naming?.size };
  }
}
