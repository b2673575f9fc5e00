import { describe, expect, it } from 'vitest';
import { ObjectScanner, type Scanned, UnscannableText } from './object-scanner.ts';

const MAX = 300;

function object(name: string, more: object = {}, metadata: object = {}): object {
  return {
    metadata: { name, namespace: 'team-a', uid: `uid-${name}`, resourceVersion: '7', ...metadata },
    ...more,
  };
}

/** In pieces of `size` bytes. */
function scan(place: 'items' | 'object', text: string, size: number): readonly Scanned[] {
  const scanner = new ObjectScanner(place, MAX);
  const bytes = Buffer.from(text);
  const found: Scanned[] = [];
  for (let at = 0; at < bytes.length; at += size) found.push(...scanner.push(bytes.subarray(at, at + size)));
  return found;
}

function shown(found: readonly Scanned[]): readonly unknown[] {
  return found.map(one => {
    if (one.kind === 'end') return Object.fromEntries(one.texts);
    const { bytes, ...identity } = one.object;
    return { ...identity, fields: bytes && JSON.parse(bytes.toString()) };
  });
}

function expected(one: object, name: string, namespace = 'team-a') {
  const { length: size } = Buffer.from(JSON.stringify(one));
  return {
    name,
    namespace,
    uid: `uid-${name}`,
    resourceVersion: '7',
    size,
    fields: size > MAX ? undefined : one,
  };
}

describe.each([1, 2, 3, 7, 64, 100_000])('in pieces of %d bytes, a scan', size => {
  it('finds the objects of a list, whatever they contain, and its own texts before or after them', () => {
    const hostile = [
      object('plain'),
      object('braces', { data: { '}{][': '"}],{"metadata":{"name":"other"}}' } }),
      object('escapes', { note: '\\', other: '\\\\"', more: '\\"\\' }),
      object('nested', { a: [[{ metadata: { name: 'inner' } }], { metadata: { uid: 'inner' } }] }),
      object('names', {}, { labels: { name: 'label', uid: 'label' }, ownerReferences: [{ name: 'owner' }] }),
      object('ü<&>', { emoji: '😀' }),
    ];
    const list = { items: hostile, kind: 'SecretList', metadata: { resourceVersion: '99', continue: 'abc' } };
    const names = ['plain', 'braces', 'escapes', 'nested', 'names', 'ü<&>'];
    const objects = hostile.map((one, at) => expected(one, names[at] ?? ''));
    const texts = { 'metadata.resourceVersion': '99', 'metadata.continue': 'abc' };
    expect(shown(scan('items', JSON.stringify(list), size))).toEqual([...objects, texts]);
    const { items, ...rest } = list;
    expect(shown(scan('items', JSON.stringify({ ...rest, items }, null, 2), size)).at(-1)).toEqual(texts);
  });

  it('keeps the identity of an object that is too large, wherever that is', () => {
    const long = 'x'.repeat(MAX);
    const before = { data: { a: long, b: '"'.repeat(MAX) }, ...object('late') };
    const inside = object('owned', {}, { ownerReferences: [{ name: long }] });
    const list = { metadata: { resourceVersion: '1' }, items: [before, inside, object('next')] };
    expect(shown(scan('items', JSON.stringify(list), size))).toEqual([
      expected(before, 'late'),
      expected(inside, 'owned'),
      expected(object('next'), 'next'),
      { 'metadata.resourceVersion': '1' },
    ]);
  });

  it('finds the object of each event, with the type of the event', () => {
    const events = [
      { type: 'ADDED', object: object('first') },
      { object: object('second', { type: 'Opaque' }), type: 'DELETED' },
      { type: 'BOOKMARK', object: { metadata: { resourceVersion: '8' } } },
    ];
    const text = events.map(event => `${JSON.stringify(event)}\n`).join('');
    const found = shown(scan('object', text, size));
    expect(found.filter((_, at) => at % 2 === 1)).toEqual([
      { type: 'ADDED' },
      { type: 'DELETED' },
      { type: 'BOOKMARK' },
    ]);
    expect(found.filter((_, at) => at % 2 === 0)).toMatchObject([
      { name: 'first' },
      { name: 'second' },
      { name: '', resourceVersion: '8' },
    ]);
  });

  it('is not confused by text that looks like a list', () => {
    const list = { items: { items: [object('no')] }, other: [object('no')], metadata: { items: [{}] } };
    expect(shown(scan('items', JSON.stringify(list), size))).toEqual([{}]);
    expect(shown(scan('items', '{"items":null,"metadata":{"resourceVersion":"5"}}', size))).toEqual([
      { 'metadata.resourceVersion': '5' },
    ]);
  });
});

it.each(['[]', '"text"', '{}}', ']', '{"type":"\\q"}'])('%s is refused', text => {
  expect(() => scan('items', text, 1)).toThrow(UnscannableText);
});
