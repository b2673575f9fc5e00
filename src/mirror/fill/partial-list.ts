import type { Spool } from '../../blobs/spool.ts';
import { isLeased } from '../../lib/lease.ts';
import type { MetadataStore } from '../../metadata/metadata-store.ts';
import type { Digest } from '../../oci/digest.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import { fillKey } from './fill-key.ts';
import type { Fills } from './fills.ts';
import type { Partials } from './partials.ts';
import { extentsThere, type UnfinishedBlob, unfinishedBlobs } from './unfinished-blobs.ts';

/** How many are listed, each of which costs some reads. */
const MAX_LISTED = 100;

/** A blob of which some is on disk, and which nobody downloads as a whole. For people. */
export interface PartialState {
  /** A `download` is listed only if it was interrupted and can continue. */
  readonly kind: UnfinishedBlob['kind'];
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
    for await (const blob of unfinishedBlobs(this.#options.spool)) {
      const state = await (blob.kind === 'ranges' ? this.#ranges(blob) : this.#download(blob));
      if (state !== undefined) states.push(state);
      if (states.length === MAX_LISTED) break;
    }
    return states;
  }

  async #ranges(blob: UnfinishedBlob): Promise<PartialState> {
    const { partials, spool } = this.#options;
    const { digest, found } = blob;
    const { key, modifiedAtMs: usedAtMs } = found;
    const opened = partials.openedAs(key);
    if (opened !== undefined)
      return { kind: 'ranges', digest, usedAtMs: Date.now(), isOpen: true, ...opened };
    // What they take on the disk if that cannot be read.
    const bytes = (await extentsThere(spool, blob))?.bytes ?? found.size;
    const named = await this.#named(digest, repository => partials.isOf(key, repository, digest));
    return { kind: 'ranges', digest, bytes, usedAtMs, isOpen: false, readers: 0, ...named };
  }

  async #download({ digest, found }: UnfinishedBlob): Promise<PartialState | undefined> {
    const { fills, metadata } = this.#options;
    const { key, size: bytes, modifiedAtMs: usedAtMs } = found;
    if (bytes === 0 || fills.isRunning(key) || (await isLeased(metadata, key))) return undefined;
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
