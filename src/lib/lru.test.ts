import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Lru } from './lru.ts';

describe('Lru', () => {
  it('removes the least recently used entry when full', () => {
    const lru = new Lru<{ n: number }>({ maxEntries: 2 });
    lru.set('a', { n: 1 });
    lru.set('b', { n: 2 });
    lru.get('a');
    lru.set('c', { n: 3 });
    expect(['a', 'b', 'c'].map(key => lru.get(key)?.n)).toEqual([1, undefined, 3]);
  });

  it('forgets an entry at the end of its age', async () => {
    const lru = new Lru<object>({ maxEntries: 2 });
    lru.set('a', {}, 5);
    lru.set('b', {});
    await sleep(20);
    expect([lru.get('a') === undefined, lru.get('b') === undefined]).toEqual([true, false]);
  });

  it('stores nothing for an age of 0', () => {
    const lru = new Lru<object>({ maxEntries: 2 });
    lru.set('a', {});
    lru.set('a', {}, 0);
    expect(lru.get('a')).toBeUndefined();
  });
});
