import type { RefusalDocument, RefusalsDocument } from './documents/refusals.ts';
import type { AdminQuery } from './operations.ts';
import { keyOfNumber, pageOfSorted, sortedBy } from './paging.ts';
import type { Refusal } from '../http/refusal.ts';
import { type Search, searchFor } from './search.ts';
import { timeOf } from './status.ts';

/** Different ones that are remembered: some hundred KB, or a few MB if all their reasons are long. */
const MAX_REMEMBERED = 1_000;

interface Kept {
  readonly id: string;
  readonly sinceMs: number;
  readonly times: number;
  readonly last: Refusal;
  /** What `Refusals.added` was then. */
  readonly added: number;
}

/**
 * What clients were refused lately. Equal refusals of one client are one entry that counts them: a pod that backs off
 * asks for hours.
 */
export class Refusals {
  /** Those that were last added are last. */
  readonly #kept = new Map<string, Kept>();
  #nextId = 1;
  #added = 0;

  /** How many were added so far. Not a time: those of other processes come later, and many have the same. */
  get added(): number {
    return this.#added;
  }

  add(refusal: Refusal): void {
    const key = keyOf(refusal);
    const known = this.#kept.get(key);
    this.#kept.delete(key);
    this.#added += 1;
    this.#kept.set(key, {
      id: known?.id ?? String(this.#nextId++),
      sinceMs: Math.min(known?.sinceMs ?? refusal.atMs, refusal.atMs),
      times: (known?.times ?? 0) + refusal.times,
      last: known !== undefined && known.last.atMs > refusal.atMs ? known.last : refusal,
      added: this.#added,
    });
    const [oldest] = this.#kept.keys();
    if (this.#kept.size > MAX_REMEMBERED && oldest !== undefined) this.#kept.delete(oldest);
  }

  /** Those that were added since `added` was so much, the last one first. */
  since(added: number): readonly RefusalDocument[] {
    return [...this.#kept.values()]
      .filter(kept => kept.added > added)
      .map(refusalDocument)
      .toReversed();
  }

  page({ q, after, limit }: AdminQuery<'refusals'>): RefusalsDocument {
    const search = searchFor(q);
    const wanted = [...this.#kept.values()].map(refusalDocument).filter(entry => isAbout(entry, search));
    return pageOfSorted(sortedBy(wanted, latestFirst), latestFirst, { after, limit });
  }
}

/** The largest time is the smallest key. */
function latestFirst({ at, id }: RefusalDocument): string {
  return `${keyOfNumber(Number.MAX_SAFE_INTEGER - Date.parse(at))} ${id}`;
}

function keyOf({ requester, repository, reference, method, code, reason }: Refusal): string {
  return [requester, repository, reference, method, code, reason].join('\n');
}

function refusalDocument({ id, sinceMs, times, last }: Kept): RefusalDocument {
  const { atMs, repository = null, reference = null, requester, remote, method, status, code, reason } = last;
  return {
    id,
    at: timeOf(atMs),
    since: timeOf(sinceMs),
    times,
    requester,
    remote,
    repository,
    reference,
    method,
    status,
    code,
    reason,
  };
}

function isAbout(
  { repository, reference, requester, remote, reason }: RefusalDocument,
  search: Search,
): boolean {
  return search(repository, reference, requester, remote, reason);
}
