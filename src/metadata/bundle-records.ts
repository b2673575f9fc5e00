/**
 * Which bundles were made of a store and taken into it, for people who carry them across a gap and ask later what was on
 * which. The last ones, in a setting of the index.
 */
import { isJsonObject } from '../lib/json.ts';
import { withLease } from '../lib/with-lease.ts';
import type { MetadataStore } from './metadata-store.ts';

/** A bundle that was made (`export`) or taken in (`import`). */
export interface BundleRecord {
  readonly kind: 'export' | 'import';
  /** When that was done, epoch ms. */
  readonly atMs: number;
  /** As it was named on the command line; `undefined` for a pipe. */
  readonly file: string | undefined;
  /** How many images it has. */
  readonly images: number;
  /** Their names here: the first few. */
  readonly names: readonly string[];
  /** Blobs that the file has, or that were not stored before. */
  readonly blobs: number;
  /** Their size. */
  readonly bytes: number;
}

const SETTING = 'bundles';
const LEASE_KEY = 'bundles';
/** Another process has it only for a moment. A suspended one is not waited for. */
const LEASE_WAIT_MS = 1_000;

/** Two a week for a year, in some 100 KB that are written with each. */
const MAX_RECORDS = 100;
const MAX_NAMES = 10;
/** A path may have 4 KiB, and an image reference 500 bytes. */
const MAX_TEXT_LENGTH = 500;

type Settings = Pick<MetadataStore, 'acquireLease' | 'readLease' | 'release' | 'readSetting' | 'putSetting'>;

/** Remembers a bundle, and forgets the oldest. False if another process kept this one from it. */
export async function recordBundle(metadata: Settings, record: BundleRecord): Promise<boolean> {
  const shortened = {
    ...record,
    file: record.file?.slice(0, MAX_TEXT_LENGTH),
    names: record.names.slice(0, MAX_NAMES).map(name => name.slice(0, MAX_TEXT_LENGTH)),
  };
  const written = await withLease(
    metadata,
    LEASE_KEY,
    async lease => {
      const records = [shortened, ...(await readBundles(metadata))].slice(0, MAX_RECORDS);
      await lease.confirm();
      await metadata.putSetting(SETTING, JSON.stringify(records));
      return true;
    },
    { mayWait: waitedMs => waitedMs < LEASE_WAIT_MS },
  );
  return written ?? false;
}

/** The latest first. */
export async function readBundles(
  metadata: Pick<MetadataStore, 'readSetting'>,
): Promise<readonly BundleRecord[]> {
  const text = await metadata.readSetting(SETTING);
  const kept: unknown = text === undefined ? [] : JSON.parse(text);
  return Array.isArray(kept) ? kept.flatMap(recordIn) : [];
}

/** A newer version may have written others. */
function recordIn(kept: unknown): readonly BundleRecord[] {
  if (!isJsonObject(kept)) return [];
  const { kind, atMs, file, images, names, blobs, bytes } = kept;
  if (kind !== 'export' && kind !== 'import') return [];
  return [
    {
      kind,
      atMs: numberIn(atMs),
      file: typeof file === 'string' ? file : undefined,
      images: numberIn(images),
      names: Array.isArray(names) ? names.filter(name => typeof name === 'string') : [],
      blobs: numberIn(blobs),
      bytes: numberIn(bytes),
    },
  ];
}

function numberIn(value: unknown): number {
  return typeof value === 'number' ? value : 0;
}
