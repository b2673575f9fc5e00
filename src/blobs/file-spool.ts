import { lstat, readdir, rm } from 'node:fs/promises';
import { absentAsUndefined } from '../lib/error-code.ts';
import { followFile } from '../lib/follow-file.ts';
import type { Lease } from '../lib/lease.ts';
import { digestAlgorithm } from '../oci/digest.ts';
import type { DiskSpace } from './disk-space.ts';
import { FileIngest } from './file-ingest.ts';
import { FileParts, FileSavedParts, partsSpace, takeOverParts } from './file-parts.ts';
import { type FilePaths, parseIngestName } from './file-paths.ts';
import { folderEntries } from './folder-entries.ts';
import type { Hasher } from './hasher.ts';
import { earlierIngests, earlierParts, leftIngest } from './left-ingest.ts';
import type {
  BlobParts,
  FoundIngest,
  Ingest,
  IngestFollower,
  IngestObserver,
  IngestOptions,
  SavedParts,
  Spool,
} from './spool.ts';

/** What nearly every client uses: hashing begins with it if the digest is not known yet. */
const USUAL_ALGORITHM = 'sha256';

/** Ingests as files below `ingest/`. */
export class FileSpool implements Spool {
  readonly space: DiskSpace;
  observer: IngestObserver | undefined;
  readonly #paths: FilePaths;
  readonly #hasher: Hasher;
  #unfinishedBytes = 0;
  /** The keys of the ingests that were there when this process first asked. */
  #earlierKeys: Promise<ReadonlySet<string>> | undefined;

  constructor(paths: FilePaths, hasher: Hasher, space: DiskSpace) {
    this.#paths = paths;
    this.#hasher = hasher;
    this.space = space;
  }

  async ingest(
    lease: Lease,
    { digest, anew = false, isCopy = false, isStoredElsewhere = false }: IngestOptions = {},
  ): Promise<Ingest> {
    const algorithm = digest === undefined ? USUAL_ALGORITHM : digestAlgorithm(digest);
    if (lease.left !== undefined || (await this.#isEarlier(lease.key))) {
      await leftIngest(this.#paths, lease, { isWanted: !anew });
    }
    const observer = isCopy || isStoredElsewhere ? undefined : this.observer;
    const ingest = await FileIngest.open({ ...this.#place, hasher: this.#hasher, observer }, lease, {
      algorithm,
      anew,
    });
    if (ingest.offset === 0) observer?.began(ingest, digest);
    return ingest;
  }

  async parts(lease: Lease, size: number): Promise<BlobParts> {
    const isEarlier = lease.left === undefined && (await this.#isEarlier(lease.key));
    await takeOverParts(this.#place, lease, isEarlier ? await earlierParts(this.#paths, lease.key) : []);
    return FileParts.open(this.#place, lease, size);
  }

  async savedParts(key: string, epoch: number): Promise<SavedParts | undefined> {
    return FileSavedParts.open(this.#paths.parts(key, epoch), epoch);
  }

  async follow(key: string, epoch: number): Promise<IngestFollower | undefined> {
    return followFile(this.#paths.ingest(key, epoch));
  }

  async length(key: string, epoch: number | undefined): Promise<number> {
    if (epoch === undefined) {
      if (!(await this.#isEarlier(key))) return 0;
    } else {
      const found = await absentAsUndefined(lstat(this.#paths.ingest(key, epoch)));
      if (found !== undefined) return found.size;
    }
    const [name] = await earlierIngests(this.#paths, key);
    const earlier = name && (await absentAsUndefined(lstat(this.#paths.foundIngest(name))));
    return earlier ? earlier.size : 0;
  }

  async abandon({ name }: Pick<FoundIngest, 'name'>): Promise<void> {
    await rm(this.#paths.foundIngest(name), { force: true });
  }

  async *list(): ReturnType<Spool['list']> {
    for await (const { name, path } of folderEntries(this.#paths.ingests)) {
      const parsed = parseIngestName(name);
      const found = await absentAsUndefined(lstat(path));
      if (parsed !== undefined && found?.isFile()) {
        const { key, epoch, isParts } = parsed;
        const size = isParts ? partsSpace(found) : found.size;
        yield { name, key, epoch, isParts, size, modifiedAtMs: found.mtimeMs };
      }
    }
  }

  get #place() {
    const grown = (bytes: number): void => this.countUnfinished(this.#unfinishedBytes + bytes);
    return { paths: this.#paths, space: this.space, grown };
  }

  /**
   * Whether there may be an ingest of `key` whose Lease the index does not know: a power failure can undo the last ones.
   * It also ends every process, so those ingests were there from the start, and the folder is read once.
   */
  async #isEarlier(key: string): Promise<boolean> {
    this.#earlierKeys ??= keysIn(this.#paths).catch((error: unknown) => {
      this.#earlierKeys = undefined;
      throw error;
    });
    return (await this.#earlierKeys).has(key);
  }

  get unfinishedBytes(): number {
    return this.#unfinishedBytes;
  }

  countUnfinished(bytes: number): void {
    this.#unfinishedBytes = Math.max(0, bytes);
  }
}

/** The keys of all ingests. */
async function keysIn(paths: FilePaths): Promise<ReadonlySet<string>> {
  return new Set((await readdir(paths.ingests)).flatMap(name => parseIngestName(name)?.key ?? []));
}
