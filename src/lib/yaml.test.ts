import { describe, expect, it } from 'vitest';
import { formatYaml, parseYaml, parseYamlDocuments, YamlError } from './yaml.ts';

describe('YAML', () => {
  it('knows the line of every key and item', () => {
    const { value, lineOf } = parseYaml('a:\n  b: 1\n  c:\n    - x\n    - y: 2\n');
    expect(value).toEqual({ a: { b: 1, c: ['x', { y: 2 }] } });
    expect(lineOf(['a'])).toBe(1);
    expect(lineOf(['a', 'c'])).toBe(3);
    expect(lineOf(['a', 'c', 1, 'y'])).toBe(5);
    expect(lineOf(['a', 'nothing'])).toBeUndefined();
    expect(lineOf(['a', 'b', 'deeper'])).toBeUndefined();
  });

  it('reports the line of a syntax error', () => {
    expect(() => parseYaml('a: 1\nb: [1,\nc: 2\n')).toThrow(
      expect.objectContaining({ name: 'YamlError', line: 3 }),
    );
  });

  it('refuses a key that is written twice', () => {
    expect(() => parseYaml('a: 1\na: 2\n')).toThrow(/unique/i);
  });

  it('reads several documents, and refuses them if one is expected', () => {
    expect(parseYamlDocuments('a: 1\n---\nb: 2\n').map(({ value }) => value)).toEqual([{ a: 1 }, { b: 2 }]);
    expect(() => parseYaml('a: 1\n---\nb: 2\n')).toThrow(/several/);
  });

  it('reads an empty text, and one of comments, as null', () => {
    expect(parseYaml('').value).toBeNull();
    expect(parseYaml('# nothing\n').value).toBeNull();
  });

  it('refuses a document that multiplies itself through aliases', () => {
    const bomb = ['a: &a [x,x,x,x,x,x,x,x,x]'];
    for (const [name, before] of ['ba', 'cb', 'dc', 'ed', 'fe'].map(pair => pair.split(''))) {
      bomb.push(`${name}: &${name} [${Array.from({ length: 9 }, () => `*${before}`).join(',')}]`);
    }
    expect(() => parseYaml(bomb.join('\n'))).toThrow(YamlError);
  });

  it('refuses a text that is too large before it parses it', () => {
    expect(() => parseYaml('a: 1', { maxBytes: 3 })).toThrow(/larger than 3 bytes/);
  });

  it('keeps a key named __proto__ harmless', () => {
    const { value } = parseYaml('__proto__: {polluted: true}');
    expect(Object.keys(value ?? {})).toEqual(['__proto__']);
    expect(value).not.toHaveProperty('polluted');
    expect({}).not.toHaveProperty('polluted');
  });

  it('reads back what it wrote', () => {
    const value = { a: ['x', { b: 'yes' }], 'c.d': '0123' };
    expect(parseYaml(formatYaml(value)).value).toEqual(value);
  });
});
