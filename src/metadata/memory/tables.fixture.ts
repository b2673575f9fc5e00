// The rows of an index in memory.
import { LeaseTable } from '../../lib/memory-leases.fixture.ts';
import type { CredentialUsage } from '../../oci/credential.ts';
import type { Digest } from '../../oci/digest.ts';
import type { IssuedCredential, KnownTenant } from '../../oci/issued-credential.ts';
import type { ManifestView } from '../../oci/manifest.ts';
import type { TagRow } from '../../oci/pull-read.ts';
import type { Page } from '../../oci/pull-source.ts';
import type { Repository } from '../../oci/repository.ts';
import type { BlobObject, Damage, Document, Grant, Paged, Preload, Upload } from '../metadata-store.ts';
import type { OutboxMessage, WaitingMessage } from '../outbox.ts';

export type LinkKind = 'manifest' | 'blob';

export interface Link {
  readonly digest: Digest;
  readonly kind: LinkKind;
  /** Under which the repository reads the manifest; `undefined` for a blob, and after an eviction. */
  readonly mediaType: string | undefined;
  readonly size: number;
  readonly createdAtMs: number;
}

export interface PreloadRow extends Preload {
  readonly digest: Digest;
}

/** What belongs to one repository, and is removed with it. */
export interface RepositoryRows {
  readonly repository: Repository;
  /** By `linkKey`. */
  readonly links: Table<Link>;
  readonly tags: Table<TagRow>;
  readonly grants: Table<Grant>;
  readonly pins: Table<true>;
  /** By `preloadKey`. */
  readonly preloads: Table<PreloadRow>;
  /** By the digest of the subject. */
  readonly referrersLists: Table<Document>;
}

/** What the bytes of a manifest name when they are read under a media type. */
export interface Reading {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly view: ManifestView;
}

export interface ManifestRow {
  readonly digest: Digest;
  readonly bytes: Uint8Array;
  readonly usedAtMs: number;
}

export interface BlobRow {
  readonly digest: Digest;
  readonly size: number;
  readonly key: string | undefined;
  readonly usedAtMs: number;
}

/** An object that no row names. */
export interface ObjectRow extends BlobObject {
  readonly uploadId: string | undefined;
  /** That of the Lease under which it was announced; `undefined` if it is given up. */
  readonly epoch: number | undefined;
  readonly sinceMs: number;
}

/** Stored content without a Link, which counts for the owner of its last one. */
export interface Uncollected {
  readonly owner: string;
  readonly size: number;
}

/** By digest: the same damage for a blob and a manifest of the same bytes. */
export interface DamageRow extends Damage {
  readonly digest: Digest;
}

/** The last end of a right, by whom (`undefined`: by several), and when, by `performance.now()`. */
export interface EndedRow {
  readonly by: object | undefined;
  readonly atMs: number;
}

export interface OutboxRow extends OutboxMessage, WaitingMessage {}

/** Undoes what a write has changed if it throws. */
class Journal {
  #undo: (() => void)[] = [];

  record(undo: () => void): void {
    this.#undo.push(undo);
  }

  run<T>(work: () => T): T {
    this.#undo = [];
    try {
      return work();
    } catch (error) {
      for (const undo of this.#undo.toReversed()) undo();
      throw error;
    }
  }
}

/** Rows, which are never changed but replaced, by a key. */
export class Table<Row> {
  readonly #rows = new Map<string, Row>();
  readonly #journal: Journal;

  constructor(journal: Journal) {
    this.#journal = journal;
  }

  get size(): number {
    return this.#rows.size;
  }

  get(key: string): Row | undefined {
    return this.#rows.get(key);
  }

  has(key: string): boolean {
    return this.#rows.has(key);
  }

  /** In the order in which they were added. */
  values(): Row[] {
    return [...this.#rows.values()];
  }

  /** In ASCII order. */
  keys(): string[] {
    return [...this.#rows.keys()].sort();
  }

  set(key: string, row: Row): void {
    const before = this.#rows.get(key);
    this.#journal.record(() => (before === undefined ? this.#rows.delete(key) : this.#rows.set(key, before)));
    this.#rows.set(key, row);
  }

  /** False if there was none. */
  delete(key: string): boolean {
    const before = this.#rows.get(key);
    if (before !== undefined) this.#journal.record(() => this.#rows.set(key, before));
    return this.#rows.delete(key);
  }
}

/** All rows of an index. What follows from them, such as sums, is computed by whoever asks. */
export class Tables {
  readonly #journal = new Journal();
  /** By `repositoryKey`. */
  readonly repositories = this.#table<RepositoryRows>();
  readonly manifests = this.#table<ManifestRow>();
  /** By `readingKey`, the oldest first. */
  readonly readings = this.#table<Reading>();
  readonly blobs = this.#table<BlobRow>();
  readonly objects = this.#table<ObjectRow>();
  /** By `linkKey`. */
  readonly uncollected = this.#table<Uncollected>();
  /** The state of hosted images that was last recorded, by name and digest. */
  readonly recorded = this.#table<string>();
  readonly damage = this.#table<DamageRow>();
  readonly uploads = this.#table<Upload>();
  readonly tenants = this.#table<KnownTenant>();
  readonly issued = this.#table<IssuedCredential>();
  readonly usages = this.#table<CredentialUsage>();
  readonly settings = this.#table<string>();
  /** By position. */
  readonly outbox = this.#table<OutboxRow>();
  /** How many messages were dropped, by endpoint. */
  readonly dropped = this.#table<number>();
  /** By right. */
  readonly ended = this.#table<EndedRow>();
  readonly leases = new LeaseTable();
  /** Of the outbox; never used again. */
  lastPosition = 0;

  /** Runs a write: if it throws, nothing has changed. */
  transact<T>(work: () => T): T {
    return this.#journal.run(work);
  }

  newRepository(repository: Repository): RepositoryRows {
    return {
      repository,
      links: this.#table(),
      tags: this.#table(),
      grants: this.#table(),
      pins: this.#table(),
      preloads: this.#table(),
      referrersLists: this.#table(),
    };
  }

  #table<Row>(): Table<Row> {
    return new Table(this.#journal);
  }
}

export const repositoryKey = ({ upstream, name }: Repository) => `${upstream} ${name}`;
export const linkKey = (digest: Digest, kind: LinkKind) => `${digest} ${kind}`;
export const preloadKey = (digest: Digest, grantee: string) => `${digest} ${grantee}`;
export const readingKey = (digest: Digest, mediaType: string) => `${digest} ${mediaType}`;

/** A page of entries, which are in ASCII order of what `key` returns. */
export function pageOf<T>(
  entries: readonly T[],
  { limit, after }: Page,
  key: (entry: T) => string,
): Paged<T> {
  const rest = after === undefined ? entries : entries.filter(entry => key(entry) > after);
  return { entries: rest.slice(0, limit), more: rest.length > limit };
}
