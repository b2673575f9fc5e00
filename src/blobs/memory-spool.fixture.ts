// A Spool in memory, for tests. Each MemorySpool on the same MemoryIngests is another process.
import { createHash } from 'node:crypto';
import { Extents } from '../lib/extents.ts';
import type { Lease } from '../lib/lease.ts';
import { type Digest, digestAlgorithm, parseDigest } from '../oci/digest.ts';
import { FilePaths, parseIngestName } from './file-paths.ts';
import type {
  BlobParts,
  ComingRange,
  FoundIngest,
  Ingest,
  IngestFollower,
  IngestOptions,
  SavedParts,
  Spool,
  SpoolSpace,
} from './spool.ts';

/** The rules for keys and names are the same. */
const NAMES = new FilePaths('/');

class Bytes {
  #bytes = Buffer.alloc(0);
  modifiedAtMs = Date.now();

  get length(): number {
    return this.#bytes.byteLength;
  }

  get digestible(): Uint8Array {
    return this.#bytes;
  }

  append(chunks: readonly Uint8Array[]): void {
    this.#bytes = Buffer.concat([this.#bytes, ...chunks]);
    this.modifiedAtMs = Date.now();
  }

  truncate(size: number): void {
    this.#bytes = this.#bytes.subarray(0, size);
  }

  read(buffer: Uint8Array, position: number): number {
    const found = this.#bytes.subarray(position, position + buffer.byteLength);
    buffer.set(found);
    return found.byteLength;
  }

  copy(): Bytes {
    const copy = new Bytes();
    copy.append([this.#bytes]);
    return copy;
  }
}

interface KeptParts {
  readonly bytes: Uint8Array;
  /** What was saved. */
  extents: Extents;
  /** What its current holder has announced. */
  coming: readonly ComingRange[];
  modifiedAtMs: number;
}

/** The state that the processes share: ingests by name. */
export class MemoryIngests {
  readonly bytes = new Map<string, Bytes>();
  readonly parts = new Map<string, KeptParts>();

  /** Names of the ingests of `key` before `epoch`, latest first. */
  earlier(key: string, epoch = Number.POSITIVE_INFINITY): readonly string[] {
    const found = [...this.bytes.keys()].flatMap(name => {
      const parsed = parseIngestName(name);
      return parsed?.key === key && (parsed.epoch ?? 0) < epoch ? [{ name, epoch: parsed.epoch ?? 0 }] : [];
    });
    return found.toSorted((one, other) => other.epoch - one.epoch).map(({ name }) => name);
  }
}

export class MemorySpool implements Spool {
  readonly #ingests: MemoryIngests;
  #unfinishedBytes = 0;
  readonly space: SpoolSpace = {
    look: async () => ({ freeBytes: Number.MAX_SAFE_INTEGER, minFreeBytes: 0 }),
    mayAdmit: async () => true,
    admit: async () => {},
    makeRoom: async () => {},
    onRoomMade: () => () => {},
  };

  constructor(ingests: MemoryIngests) {
    this.#ingests = ingests;
  }

  async ingest(lease: Lease, { anew = false }: IngestOptions = {}): Promise<Ingest> {
    const { key, epoch, left } = lease;
    const name = nameOf(key, epoch);
    const all = this.#ingests.bytes;
    const [latest, ...others] = this.#ingests.earlier(key, epoch);
    if (latest !== undefined && !anew) {
      const found = all.get(latest);
      const isSame = left?.mayWrite === false && latest === nameOf(key, left.epoch);
      if (found !== undefined) all.set(name, isSame ? found : found.copy());
    }
    for (const earlier of latest === undefined ? [] : [latest, ...others]) all.delete(earlier);
    const bytes = (anew ? undefined : all.get(name)) ?? new Bytes();
    all.set(name, bytes);
    return new MemoryIngest(lease, bytes, {
      grown: by => this.countUnfinished(this.#unfinishedBytes + by),
      remove: () => {
        if (all.get(name) === bytes) all.delete(name);
      },
    });
  }

  async parts(lease: Lease, size: number): Promise<BlobParts> {
    const { key, epoch, left } = lease;
    const all = this.#ingests.parts;
    const name = `${nameOf(key, epoch)}.parts`;
    const [earlier] = [...all.keys()]
      .filter(other => parseIngestName(other)?.key === key)
      .toSorted((one, other) => (parseIngestName(other)?.epoch ?? 0) - (parseIngestName(one)?.epoch ?? 0));
    const found = earlier === undefined ? undefined : all.get(earlier);
    if (earlier !== undefined) all.delete(earlier);
    const isKept = found?.bytes.byteLength === size && left?.mayWrite !== true;
    const saved = isKept
      ? found
      : { bytes: new Uint8Array(size), extents: new Extents(), coming: [], modifiedAtMs: Date.now() };
    saved.coming = [];
    all.set(name, saved);
    return new MemoryParts(lease, saved, {
      grown: by => this.countUnfinished(this.#unfinishedBytes + by),
      remove: () => {
        if (all.get(name) === saved) all.delete(name);
      },
    });
  }

  async savedParts(key: string, epoch: number): Promise<SavedParts | undefined> {
    const name = `${nameOf(key, epoch)}.parts`;
    const kept = this.#ingests.parts.get(name);
    if (kept === undefined || (kept.extents.count === 0 && kept.coming.length === 0)) return undefined;
    let { extents, coming } = kept;
    return {
      size: kept.bytes.byteLength,
      get extents() {
        return extents;
      },
      get coming() {
        return coming;
      },
      refresh: async () => {
        ({ extents, coming } = kept);
        return [...this.#ingests.parts.values()].includes(kept);
      },
      read: async (buffer, position) => readFrom(kept.bytes, extents, buffer, position),
      close: async () => {},
    };
  }

  async follow(key: string, epoch: number): Promise<IngestFollower | undefined> {
    const bytes = this.#ingests.bytes.get(nameOf(key, epoch));
    return (
      bytes && {
        length: async () => bytes.length,
        read: async (buffer, position) => bytes.read(buffer, position),
        close: async () => {},
      }
    );
  }

  async length(key: string, epoch: number | undefined): Promise<number> {
    const all = this.#ingests.bytes;
    const exact = epoch === undefined ? undefined : all.get(nameOf(key, epoch));
    return (exact ?? all.get(this.#ingests.earlier(key)[0] ?? ''))?.length ?? 0;
  }

  async abandon({ name }: Pick<FoundIngest, 'name'>): Promise<void> {
    NAMES.foundIngest(name);
    this.#ingests.bytes.delete(name);
    this.#ingests.parts.delete(name);
  }

  async *list(): AsyncIterable<FoundIngest> {
    for (const [name, { length: size, modifiedAtMs }] of this.#ingests.bytes) {
      const parsed = parseIngestName(name);
      if (parsed !== undefined) yield { name, ...parsed, size, modifiedAtMs };
    }
    for (const [name, { extents, modifiedAtMs }] of this.#ingests.parts) {
      const parsed = parseIngestName(name);
      if (parsed !== undefined) yield { name, ...parsed, size: extents.bytes, modifiedAtMs };
    }
  }

  get unfinishedBytes(): number {
    return this.#unfinishedBytes;
  }

  countUnfinished(bytes: number): void {
    this.#unfinishedBytes = Math.max(0, bytes);
  }
}

interface Place {
  readonly grown: (by: number) => void;
  readonly remove: () => void;
}

class MemoryIngest implements Ingest {
  readonly lease: Lease;
  readonly #bytes: Bytes;
  readonly #place: Place;
  #offset: number;
  #isEnded = false;

  constructor(lease: Lease, bytes: Bytes, place: Place) {
    this.lease = lease;
    this.#bytes = bytes;
    this.#place = place;
    this.#offset = bytes.length;
  }

  get offset(): number {
    return this.#offset;
  }

  async write(chunks: readonly Uint8Array[]): Promise<void> {
    this.#requireOpen();
    await this.lease.confirm();
    this.#bytes.append(chunks);
    this.#resized();
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    return this.#bytes.read(buffer, position);
  }

  async truncate(size: number): Promise<void> {
    this.#requireOpen();
    if (size > this.#offset) throw new RangeError(`cannot truncate ${this.#offset} bytes to ${size}`);
    await this.lease.confirm();
    this.#bytes.truncate(size);
    this.#resized();
  }

  async hash(like: Digest): Promise<Digest> {
    this.#requireOpen();
    const algorithm = digestAlgorithm(like);
    const hash = createHash(algorithm).update(this.#bytes.digestible);
    return parseDigest(`${algorithm}:${hash.digest('hex')}`);
  }

  async suspend(): Promise<void> {
    this.#isEnded = true;
  }

  async abort(): Promise<void> {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#place.remove();
    this.#place.grown(-this.#offset);
  }

  async close(): Promise<void> {
    this.#isEnded = true;
  }

  #resized(): void {
    this.#place.grown(this.#bytes.length - this.#offset);
    this.#offset = this.#bytes.length;
  }

  #requireOpen(): void {
    if (this.#isEnded) throw new Error('the ingest has ended');
  }
}

class MemoryParts implements BlobParts {
  readonly lease: Lease;
  readonly extents: Extents;
  readonly #saved: KeptParts;
  readonly #place: Place;
  #isEnded = false;

  constructor(lease: Lease, saved: KeptParts, place: Place) {
    this.lease = lease;
    this.extents = new Extents(saved.extents);
    this.#saved = saved;
    this.#place = place;
  }

  async write(position: number, chunk: Uint8Array): Promise<void> {
    if (this.#isEnded) throw new Error('the parts have ended');
    await this.lease.confirm();
    this.#saved.bytes.set(chunk, position);
    const before = this.extents.bytes;
    this.extents.add({ start: position, end: position + chunk.byteLength });
    this.#place.grown(this.extents.bytes - before);
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    return readFrom(this.#saved.bytes, this.extents, buffer, position);
  }

  async announce(coming: readonly ComingRange[]): Promise<void> {
    if (this.#isEnded) throw new Error('the parts have ended');
    await this.lease.confirm();
    this.#saved.coming = [...coming];
  }

  async save(): Promise<void> {
    if (this.#isEnded) throw new Error('the parts have ended');
    this.#saved.extents = new Extents(this.extents);
    this.#saved.modifiedAtMs = Date.now();
  }

  async suspend(): Promise<void> {
    if (this.#isEnded) return;
    await this.save();
    this.#isEnded = true;
    if (this.extents.count === 0) this.#place.remove();
  }

  async abort(): Promise<void> {
    this.#isEnded = true;
    this.#place.remove();
    this.#place.grown(-this.extents.bytes);
  }

  async close(): Promise<void> {
    this.#isEnded = true;
  }
}

function readFrom(bytes: Uint8Array, extents: Extents, buffer: Uint8Array, position: number): number {
  const extent = extents.next(position);
  if (extent === undefined || extent.start > position) return 0;
  const found = bytes.subarray(position, Math.min(extent.end, position + buffer.byteLength));
  buffer.set(found);
  return found.byteLength;
}

function nameOf(key: string, epoch: number): string {
  NAMES.ingest(key, epoch);
  return `${key}.${epoch}`;
}
