import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { splitTarget } from './path.ts';
import { parseQuery } from './query.ts';

setFlagsFromString('--expose-gc');
const collectGarbage: () => void = runInNewContext('gc');

describe('a query', () => {
  it('is read as a form, each time with the same result', () => {
    for (const text of ['ns=ghcr.io&n=5&n=6', `ns=ghcr.io&n=5&n=6&last=${'z'.repeat(100)}`]) {
      for (let time = 0; time < 2; time += 1) {
        const query = parseQuery(text);
        expect([query.get('ns'), query.getAll('n'), query.get('NS')]).toEqual(['ghcr.io', ['5', '6'], null]);
      }
    }
    expect([parseQuery('').get('ns'), parseQuery('').getAll('ns')]).toEqual([null, []]);
    expect(parseQuery('ns=%C3%A9+x&last=\xe9').get('ns')).toBe('é x');
    expect(parseQuery('ns=%C3%A9+x&last=\xe9').get('last')).toBe('\xe9');
    expect(parseQuery('__proto__=x&constructor').get('__proto__')).toBe('x');
    expect(parseQuery('toString').get('valueOf')).toBeNull();
  });

  it('keeps nothing else of the target that it was part of', () => {
    const targetBytes = 15_000;
    const count = 500;
    const before = heapBytes();
    for (let at = 0; at < count; at += 1) {
      // As Node's parser makes it: one string.
      const target = Buffer.from(`/v2/${'x'.repeat(targetBytes)}?ns=registry.example&n=${at}`).toString(
        'latin1',
      );
      expect(parseQuery(splitTarget(target).query).get('ns')).toBe('registry.example');
    }
    expect(heapBytes() - before).toBeLessThan((count * targetBytes) / 2);
  });
});

function heapBytes(): number {
  collectGarbage();
  return process.memoryUsage().heapUsed;
}
