import { expect, test } from 'vitest';
import { xmlElements, xmlText, xmlTexts } from './xml.ts';

test('elements are found by their names, with attributes or without, empty or not', () => {
  const xml =
    '<L xmlns="a/b"><Key>a&amp;lt;</Key><Keys>x</Keys><Key a="/">b\n</Key><Key/><Key a="b" /><Key></Key></L>';
  expect(xmlTexts(xml, 'Key')).toEqual(['a&lt;', 'b\n', '', '', '']);
  expect(xmlElements(xml, 'L')).toEqual([xml.slice('<L xmlns="a/b">'.length, -'</L>'.length)]);
  expect(xmlText(xml, 'Other')).toBeUndefined();
});

test('an element that does not end is absent', () => {
  expect(xmlTexts('<Key>a</Key><Key>b<Key>c', 'Key')).toEqual(['a']);
  expect(xmlTexts('<Key a', 'Key')).toEqual([]);
  // Some minutes if each began a search of the rest.
  expect(xmlElements('<Key>'.repeat(500_000), 'Key')).toEqual([]);
  expect(xmlElements('<Key '.repeat(500_000), 'Key')).toEqual([]);
});
