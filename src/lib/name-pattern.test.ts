import { expect, it } from 'vitest';
import { matchesName } from './name-pattern.ts';

it.each([
  ['library/*', 'library/nginx', true],
  ['library/*', 'library/a/b', false],
  ['org/**', 'org/a/b', true],
  ['org/**', 'organic/a', false],
  ['docker.io/library/nginx', 'docker.io/library/nginx', true],
  ['docker.io/library/nginx', 'dockerxio/library/nginx', false],
  ['**', 'anything/at/all', true],
])('%s and %s: %s', (pattern, name, fits) => {
  expect(matchesName(pattern, name)).toBe(fits);
});
