import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { SEED } from '../../test/support/chance.ts';
import * as reference from './reference.ts';

// What the parsers accept and how they fill in is in test/vectors/reference.json; here is what it does not say.

test('a repository name follows the OCI rule and stops at 255 characters', () => {
  for (const name of ['a', 'library/nginx', 'a.b_c__d---e/0', 'a'.repeat(255)]) {
    expect(reference.isRepositoryName(name)).toBe(true);
  }
  for (const name of [
    '',
    'A',
    '/a',
    'a/',
    'a//b',
    'a..b',
    'a___b',
    '.a',
    'a-',
    'a:5000/b',
    '..',
    'a\n',
    'a'.repeat(256),
  ]) {
    expect(reference.isRepositoryName(name)).toBe(false);
  }
});

test('a tag follows the OCI rule and stops at 128 characters', () => {
  for (const tag of ['latest', '_', 'V1.0-rc_1', 't'.repeat(128)]) expect(reference.parseTag(tag)).toBe(tag);
  for (const tag of ['', '.a', '-a', 'a/b', 'a:b', 'a b', 'a\n', 'ä', 't'.repeat(129)]) {
    expect(() => reference.parseTag(tag)).toThrow(expect.objectContaining({ code: 'TAG_INVALID' }));
  }
});

test('an absent tag or digest is an absent member', () => {
  expect(Object.keys(reference.parseReference('a/b'))).toEqual(['registry', 'repository']);
});

test('a text that is too long is refused before it is parsed', () => {
  expect(() => reference.parseReference(`a:${'/a'.repeat(100_000)}`)).toThrow(
    expect.objectContaining({ fault: 'too-long' }),
  );
});

test('an error shows only the beginning of the text', () => {
  expect(() => reference.parseReference('!'.repeat(4000))).toThrow(/^invalid reference format: "!{200}"$/);
});

test('the canonical text of a reference parses as the same reference', () => {
  const component = fc.stringMatching(/^[a-z0-9]{1,8}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}$/);
  const references = fc.record(
    {
      registry: fc.constantFrom(
        'docker.io',
        'ghcr.io',
        'localhost',
        'Registry:5000',
        '[::1]:5000',
        '10.0.0.1',
      ),
      repository: fc
        .array(component, { minLength: 1, maxLength: 3 })
        .map(parts => ['team', ...parts].join('/')),
      tag: fc.stringMatching(/^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}$/),
      digest: fc.stringMatching(/^[0-9a-f]{64}$/).map(hex => `sha256:${hex}`),
    },
    { requiredKeys: ['registry', 'repository'] },
  );
  fc.assert(
    fc.property(references, expected => {
      const plain = { ...expected };
      expect(reference.parseNormalizedReference(reference.referenceText(plain))).toEqual(plain);
      expect(reference.parseNormalizedReference(reference.familiarText(plain))).toEqual(plain);
    }),
    { seed: SEED },
  );
});
