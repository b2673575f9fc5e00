import { LRUCache } from 'lru-cache';

export interface LruOptions {
  readonly maxEntries: number;
  /** For entries that are set without an age of their own; if unset, entries are only removed for space. */
  readonly maxAgeMs?: number;
}

/** A map that is limited by number (least recently used entries are removed) and by age. An expired entry is absent. */
export class Lru<V extends object> {
  readonly #options: LruOptions;
  /** Created with the first entry: the library allocates everything at once, and most instances stay empty. */
  #entries: LRUCache<string, V> | undefined;

  constructor(options: LruOptions) {
    this.#options = options;
  }

  /** Counts as a use. */
  get(key: string): V | undefined {
    return this.#entries?.get(key);
  }

  /** An age of 0 or less removes the entry. */
  set(key: string, value: V, maxAgeMs?: number): void {
    const { maxEntries, maxAgeMs: usualAgeMs = 0 } = this.#options;
    this.#entries ??= new LRUCache({ max: maxEntries, ttl: usualAgeMs });
    if (maxAgeMs === undefined) this.#entries.set(key, value);
    else if (maxAgeMs > 0) this.#entries.set(key, value, { ttl: maxAgeMs });
    else this.#entries.delete(key);
  }

  delete(key: string): boolean {
    return this.#entries?.delete(key) ?? false;
  }

  clear(): void {
    this.#entries = undefined;
  }

  /** Entries that have not expired, most recently used first. */
  entries(): IterableIterator<[string, V]> {
    return this.#entries?.entries() ?? [].values();
  }
}
