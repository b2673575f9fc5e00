import type { BlobStore } from '../blobs/blob-store.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { mayBeIncomplete } from '../metadata/store-identity.ts';
import { everything, type Survey } from '../metadata/survey.ts';
import { repositoryText } from '../oci/repository.ts';
import { unlinkedSinceMs } from '../upkeep/eviction.ts';
import type { NextStatus } from './documents/status.ts';

/** How many entries are shown. */
const SHOWN_NEXT = 10;
/** A search that takes longer than this takes a tenth of the time at most, however often somebody looks. */
const QUICK_MS = 100;
const BELIEVED_TIMES = 10;

export interface NextParts {
  readonly metadata: Pick<MetadataStore, 'readSetting' | 'importingSinceMs'>;
  readonly survey: Pick<Survey, 'unlinked' | 'evictable' | 'repositoriesOf'>;
  readonly blobs: Pick<BlobStore, 'hasReaders'>;
}

/**
 * What eviction would remove first, for people. On a large store it takes seconds to find out, if there is little that can
 * be removed: one search serves all who ask, continues after they have waited long enough, and its result is kept for a
 * while.
 */
export class NextToGo {
  readonly #parts: NextParts;
  readonly #log: Log;
  readonly #clock: Clock;
  #found: { readonly next: readonly NextStatus[]; readonly untilMs: number } | undefined;
  #searching: Promise<void> | undefined;

  constructor(parts: NextParts, log: Log, clock: Clock = systemClock) {
    this.#parts = parts;
    this.#log = log;
    this.#clock = clock;
  }

  /** What was found last; `null` if nothing was, and nothing is within that time. */
  async look(withinMs: number): Promise<readonly NextStatus[] | null> {
    if (this.#found === undefined || this.#clock.monotonicMs() >= this.#found.untilMs) {
      this.#searching ??= this.#search().finally(() => {
        this.#searching = undefined;
      });
      await Promise.race([this.#searching, this.#clock.sleep(withinMs, { ref: false })]);
    }
    return this.#found?.next ?? null;
  }

  async #search(): Promise<void> {
    const begunMs = this.#clock.monotonicMs();
    try {
      const next = await nextToGo(this.#parts);
      const endedMs = this.#clock.monotonicMs();
      const tookMs = endedMs - begunMs;
      this.#found = { next, untilMs: endedMs + (tookMs < QUICK_MS ? 0 : BELIEVED_TIMES * tookMs) };
    } catch (error) {
      this.#found = undefined;
      this.#log.debug({ err: error }, 'what would be evicted next could not be found out');
    }
  }
}

/** What eviction would remove first; many pages may have nothing to evict. */
async function nextToGo({ metadata, survey, blobs }: NextParts): Promise<readonly NextStatus[]> {
  if (await mayBeIncomplete(metadata)) return [];
  const nowMs = Date.now();
  const sinceMs = await unlinkedSinceMs(metadata, nowMs);
  const unlinked =
    sinceMs === undefined
      ? []
      : (['manifest', 'blob'] as const).map(
          kind => (after?: string) => survey.unlinked(kind, sinceMs, after),
        );
  const inOrder = [...unlinked, (after?: string) => survey.evictable(nowMs, after)];
  const next: NextStatus[] = [];
  for (const find of inOrder) {
    for await (const entries of everything(find)) {
      for (const { kind, digest, size } of entries) {
        if (kind === 'blob' && blobs.hasReaders(digest)) continue;
        const repositories = (await survey.repositoriesOf(digest)).map(repositoryText);
        next.push({ kind, digest, size, repositories });
        if (next.length === SHOWN_NEXT) return next;
      }
    }
  }
  return next;
}
