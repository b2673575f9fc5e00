import type { DownloadState } from '../mirror/fill/download-state.ts';
import type { ServingReport } from './serving-report.ts';

/**
 * The downloads of all processes, each once: a process that follows that of another has readers of its own, and each
 * requests ranges of its own, or streams to its own clients.
 */
export function allDownloads(reports: readonly Pick<ServingReport, 'downloads'>[]): readonly DownloadState[] {
  const byId = new Map<string, DownloadState>();
  for (const download of reports.flatMap(({ downloads }) => downloads)) {
    const id = downloadId(download);
    const known = byId.get(id);
    byId.set(id, known === undefined ? download : together(known, download));
  }
  return [...byId.values()];
}

function together(one: DownloadState, other: DownloadState): DownloadState {
  const [first, second] = one.holder === undefined ? [one, other] : [other, one];
  const common = {
    ...first,
    readers: first.readers + second.readers,
    requesters: [...new Set([...first.requesters, ...second.requesters])],
    startedAtMs: Math.min(first.startedAtMs, second.startedAtMs),
  };
  if (first.kind === 'whole') return common;
  return {
    ...common,
    state: second.state === 'downloading' ? second.state : first.state,
    bytes: first.bytes + second.bytes,
    size: (first.size ?? 0) + (second.size ?? 0),
  };
}

/** How much of it is there in all. */
export function bytesThere({ bytes, aheadBytes }: DownloadState): number {
  return bytes + aheadBytes;
}

/**
 * The same for as long as it runs, in all processes: whole layers are shared by all of an upstream; ranges, and what is
 * streamed, are of one repository.
 */
export function downloadId({ kind, repository, digest }: DownloadState): string {
  return kind === 'whole' ? `${upstreamIn(repository)} ${digest}` : `${kind} ${repository} ${digest}`;
}

/** The upstream in a `repositoryText`. */
export function upstreamIn(repository: string): string {
  return repository.split('/', 1)[0] ?? '';
}
