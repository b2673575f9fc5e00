import type { DownloadState } from '../mirror/fill/download-state.ts';
import { bytesThere, downloadId, upstreamIn } from './downloads.ts';
import type { FillDocument, FillsDocument } from './documents/fills.ts';
import { keyOfNumber, type PageAsk, pageOfSorted, sortedBy } from './paging.ts';
import { downloadStatus, timeOf } from './status.ts';

/** Over how long a rate is measured: it should neither jump nor lag. */
const RATE_OVER_MS = 5_000;

/** How long those that have ended are listed, so that whoever has seen one learns how it ended. */
const ENDED_FOR_MS = 20_000;
/** As many as an event tells of. */
const MAX_ENDED = 200;

interface Seen {
  readonly fill: FillDocument;
  /** What was there at earlier moments, the first of them about RATE_OVER_MS ago. */
  readonly marks: Mark[];
}

interface Mark {
  readonly atMs: number;
  readonly bytes: number;
}

interface Ended {
  readonly fill: FillDocument;
  readonly atMs: number;
  /** ISO 8601. */
  readonly at: string;
}

/** Downloads in progress for people, with rates, which are measured from one look to the next. */
export class FillList {
  readonly #nowMs: () => number;
  #seen = new Map<string, Seen>();
  #seenAtMs = Number.NEGATIVE_INFINITY;
  /** The last one to end is last. */
  readonly #ended = new Map<string, Ended>();

  /** `nowMs`: of a clock that is never set. */
  constructor(nowMs: () => number = () => performance.now()) {
    this.#nowMs = nowMs;
  }

  /** Notes how far they are, and which have ended since the last look. */
  look(downloads: readonly DownloadState[]): readonly FillDocument[] {
    const nowMs = this.#nowMs();
    const seen = new Map<string, Seen>();
    const fills = downloads.map(download => {
      const id = downloadId(download);
      // What is stored of it already is only found when its turn comes.
      const marks = (download.state === 'queued' ? undefined : this.#seen.get(id)?.marks) ?? [];
      const fill = fillOf(download, rateOf(marks, bytesThere(download), nowMs));
      seen.set(id, { fill, marks });
      return fill;
    });
    this.#noteEnded(seen, nowMs);
    this.#seen = seen;
    this.#seenAtMs = nowMs;
    return fills;
  }

  /** A page, oldest first. `isStored`: whether a blob is stored now. */
  async page(
    downloads: readonly DownloadState[],
    ask: PageAsk,
    isStored: (digest: string) => Promise<boolean>,
  ): Promise<FillsDocument> {
    const fills = sortedBy(this.look(downloads), keyOf);
    const ended = [...this.#ended.values()].map(async ({ fill, at }) => ({
      ...fill,
      ended: at,
      stored: await isStored(fill.digest),
    }));
    return { ...pageOfSorted(fills, keyOf, ask), total: fills.length, ended: await Promise.all(ended) };
  }

  #noteEnded(running: ReadonlyMap<string, Seen>, nowMs: number): void {
    // Nobody knows when those have ended that were last seen long ago.
    const before = nowMs - this.#seenAtMs > ENDED_FOR_MS ? [] : this.#seen;
    for (const [id, { fill }] of before)
      if (!running.has(id)) this.#ended.set(id, { fill, atMs: nowMs, at: timeOf(Date.now()) });
    for (const [id, { atMs }] of this.#ended)
      if (running.has(id) || nowMs - atMs > ENDED_FOR_MS || this.#ended.size > MAX_ENDED)
        this.#ended.delete(id);
  }
}

function keyOf({ id, started }: FillDocument): string {
  return `${keyOfNumber(Date.parse(started))} ${id}`;
}

/** `null` until there is something to compare with. */
function rateOf(marks: Mark[], bytes: number, nowMs: number): number | null {
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
