import { type BundleRecord, readBundles } from '../metadata/bundle-records.ts';
import type { AdminParts } from './admin-parts.ts';
import type { BundleDocument, BundlesDocument } from './documents/bundles.ts';
import { keyOfNumber, type PageAsk, pageOfSorted, sortedBy } from './paging.ts';
import { timeOf } from './status.ts';

/** A page of the bundles that were made and taken in. */
export async function bundlesDocument(
  { metadata }: Pick<AdminParts, 'metadata'>,
  ask: PageAsk,
): Promise<BundlesDocument> {
  const all = (await readBundles(metadata)).map(bundleOf);
  return pageOfSorted(sortedBy(all, latestFirst), latestFirst, ask);
}

function bundleOf({ atMs, file, ...record }: BundleRecord): BundleDocument {
  const { kind } = record;
  return {
    id: `${keyOfNumber(atMs)} ${kind} ${file ?? ''}`,
    at: timeOf(atMs),
    file: file ?? null,
    ...record,
  };
}

/** The latest has the smallest key. */
function latestFirst({ id, at }: BundleDocument): string {
  return `${keyOfNumber(Number.MAX_SAFE_INTEGER - Date.parse(at))} ${id}`;
}
