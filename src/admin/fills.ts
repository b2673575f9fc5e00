import type { DownloadState } from '../mirror/fill/download-state.ts';
import { bytesThere, downloadId, upstreamIn } from './downloads.ts';
import type { FillDocument, FillsDocument } from './documents/fills.ts';
import { keyOfNumber, type PageAsk, pageOfSorted, sortedBy } from './paging.ts';
import { downloadStatus } from './status.ts';

/** Over how long a rate is measured: it should neither jump nor lag. */
const RATE_OVER_MS = 5_000;

interface Seen {
  /** What was there at earlier moments, the first of them about RATE_OVER_MS ago. */
  readonly marks: { readonly atMs: number; readonly bytes: number }[];
}

/** Downloads in progress for people, with rates, which are measured from one look to the next. */
export class FillList {
  readonly #nowMs: () => number;
  #seen = new Map<string, Seen>();

  /** `nowMs`: of a clock that is never set. */
  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** Notes how far they are; forgets those that have ended. */
  look(downloads: readonly DownloadState[]): readonly FillDocument[] {
    const nowMs = this.#nowMs();
    const seen = new Map<string, Seen>();
    const fills = downloads.map(download => {
      const id = downloadId(download);
      // When its turn comes, what is there already is found.
      const known = (download.state === 'queued' ? undefined : this.#seen.get(id)) ?? { marks: [] };
      seen.set(id, known);
      return fillOf(download, rateOf(known, bytesThere(download), nowMs));
    });
    this.#seen = seen;
    return fills;
  }

  /** A page, oldest first. */
  page(downloads: readonly DownloadState[], ask: PageAsk): FillsDocument {
    const fills = sortedBy(this.look(downloads), keyOf);
    return { ...pageOfSorted(fills, keyOf, ask), total: fills.length };
  }
}

function keyOf({ id, started }: FillDocument): string {
  return `${keyOfNumber(Date.parse(started))} ${id}`;
}

/** `null` until there is something to compare with. */
function rateOf({ marks }: Seen, bytes: number, nowMs: number): number | null {
  while (marks.length > 1 && nowMs - (marks[1]?.atMs ?? nowMs) >= RATE_OVER_MS) marks.shift();
  const [first] = marks;
  const last = marks.at(-1);
  // More often than that would only fill the memory.
  if (last === undefined || nowMs - last.atMs >= RATE_OVER_MS / 10) marks.push({ atMs: nowMs, bytes });
  if (first === undefined || nowMs <= first.atMs) return null;
  return Math.max(0, Math.round(((bytes - first.bytes) * 1000) / (nowMs - first.atMs)));
}

function fillOf(download: DownloadState, rate: number | null): FillDocument {
  const status = downloadStatus(download);
  const { repository, state, bytes, size } = status;
  const isKnown = size !== null && rate !== null && rate > 0;
  return {
    ...status,
    id: downloadId(download),
    upstream: upstreamIn(repository),
    bytesPerSecond: state === 'queued' ? null : rate,
    remainingSeconds: isKnown ? Math.ceil(Math.max(0, size - bytes) / rate) : null,
  };
}
