import { LRUCache } from 'lru-cache';

export interface LruOptions {
  readonly maxEntries: number;
  /** Default for entries that are set without an age of their own; unset keeps them until they are pushed out. */
  readonly maxAgeMs?: number;
}

/** A map that forgets: by number (least recently used first) and by age. An expired entry is absent. */
export class Lru<V extends object> {
  readonly #options: LruOptions;
  /** Made with the first entry: the library allots room for all at once, and most memories stay empty. */
  #entries: LRUCache<string, V> | undefined;

  constructor(options: LruOptions) {
    this.#options = options;
  }

  /** Counts as a use. */
  get(key: string): V | undefined {
    return this.#entries?.get(key);
  }

  /** An age of 0 or less stores nothing, and removes what was there. */
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

  /** Live entries with their keys, most recently used first. */
  entries(): IterableIterator<[string, V]> {
    return this.#entries?.entries() ?? [].values();
  }
}
