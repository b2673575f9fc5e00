import type { DownloadState } from '../mirror/fill/download-state.ts';
import type { PartialState } from '../mirror/fill/partial-list.ts';
import type { AdminParts, AdminServer } from './admin-parts.ts';
import type { PartialsDocument, PartialStatus } from './documents/status.ts';
import { allDownloads } from './downloads.ts';
import { type PageAsk, pageOfSorted, sortedBy } from './paging.ts';
import { servingReport, type ServingReport } from './serving-report.ts';

/** A page of the layers of which some is on disk, and which nobody downloads as a whole. */
export async function partialsDocument(
  parts: AdminParts,
  server: AdminServer,
  ask: PageAsk,
): Promise<PartialsDocument> {
  const own = await servingReport(parts, server.totals, 'all');
  const reports = [own, ...(await server.reports('all'))];
  return pageOfSorted(sortedBy(partialStatus(reports, allDownloads(reports)), keyOf), keyOf, ask);
}

function keyOf({ repository, digest, kind }: PartialStatus): string {
  return `${repository ?? ''} ${digest} ${kind}`;
}

/**
 * Each layer of a repository once, except those that `downloads` complete. What is on disk is in the list of each process;
 * the one that uses it knows more. Processes that use the same layer have files of their own.
 */
export function partialStatus(
  [own, ...others]: readonly Pick<ServingReport, 'partials'>[],
  downloads: readonly DownloadState[],
): readonly PartialStatus[] {
  const used = others.flatMap(({ partials }) => partials.filter(({ isOpen }) => isOpen));
  const byLayer = new Map<string, PartialState>();
  for (const partial of own?.partials ?? []) {
    const at = partial.isOpen ? -1 : used.findIndex(other => isSame(other, partial));
    const [known = partial] = at >= 0 ? used.splice(at, 1) : [];
    if (downloads.some(download => isOf(download, known))) continue;
    const key = `${known.kind} ${known.repository ?? ''} ${known.digest}`;
    const same = byLayer.get(key);
    byLayer.set(key, same === undefined ? known : together(same, known));
  }
  return [...byLayer.values()].map(statusOf);
}

function isSame(one: PartialState, other: PartialState): boolean {
  return one.kind === other.kind && one.digest === other.digest;
}

function together(one: PartialState, other: PartialState): PartialState {
  return {
    ...one,
    bytes: one.bytes + other.bytes,
    readers: one.readers + other.readers,
    usedAtMs: Math.max(one.usedAtMs, other.usedAtMs),
  };
}

function isOf(download: DownloadState, { repository, digest }: PartialState): boolean {
  if (download.kind !== 'whole') return false;
  return download.digest === digest && (repository === undefined || repository === download.repository);
}

function statusOf({ kind, digest, bytes, readers, usedAtMs, ...named }: PartialState): PartialStatus {
  const { repository = null, size = null } = named;
  return { kind, digest, repository, bytes, size, readers, lastUsed: new Date(usedAtMs).toISOString() };
}
