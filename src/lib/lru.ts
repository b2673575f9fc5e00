import { LRUCache } from 'lru-cache';

export interface LruOptions {
  readonly maxEntries: number;
  /** Default for entries that are set without an age of their own; unset keeps them until they are pushed out. */
  readonly maxAgeMs?: number;
}

/** A map that forgets: by number (least recently used first) and by age. An expired entry is absent. */
export class Lru<V extends object> {
  readonly #entries: LRUCache<string, V>;

  constructor(options: LruOptions) {
    this.#entries = new LRUCache({ max: options.maxEntries, ttl: options.maxAgeMs ?? 0 });
  }

  /** Counts as a use. */
  get(key: string): V | undefined {
    return this.#entries.get(key);
  }

  /** An age of 0 or less stores nothing, and removes what was there. */
  set(key: string, value: V, maxAgeMs?: number): void {
    if (maxAgeMs === undefined) this.#entries.set(key, value);
    else if (maxAgeMs > 0) this.#entries.set(key, value, { ttl: maxAgeMs });
    else this.#entries.delete(key);
  }

  delete(key: string): boolean {
    return this.#entries.delete(key);
  }

  clear(): void {
    this.#entries.clear();
  }

  /** Live entries with their keys, most recently used first. */
  entries(): IterableIterator<[string, V]> {
    return this.#entries.entries();
  }
}
