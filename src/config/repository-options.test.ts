import { describe, expect, it } from 'vitest';
import { loadConfig } from './load.ts';
import { repositoryOptions } from './repository-options.ts';

async function optionsOf(repository: string, repositories: readonly object[]) {
  const overrides = { upstreams: { 'docker.io': { freshFor: '5m', repositories } } };
  const upstream = (await loadConfig({ env: {}, overrides })).upstreams.get('docker.io');
  return upstream === undefined ? undefined : repositoryOptions(upstream, repository);
}

describe('options of a repository', () => {
  it('are those of the upstream if no rule matches', async () => {
    expect(await optionsOf('library/nginx', [{ match: 'other/*', pullPolicy: 'Never' }])).toEqual({
      pullPolicy: undefined,
      freshForMs: 300_000,
      staleWhileRevalidateMs: 0,
      openToAll: false,
      platforms: undefined,
      prefetch: false,
      anonymousFallback: false,
    });
  });

  it('are those of the first rule that matches, completed by the upstream', async () => {
    const rules = [
      { match: 'library/*', pullPolicy: 'Always', staleWhileRevalidate: '10m' },
      { match: 'library/nginx', pullPolicy: 'Never' },
    ];
    expect(await optionsOf('library/nginx', rules)).toMatchObject({
      pullPolicy: 'Always',
      freshForMs: 300_000,
      staleWhileRevalidateMs: 600_000,
    });
  });

  it.each([
    ['library/*', 'library/nginx', true],
    ['library/*', 'library/a/b', false],
    ['library/**', 'library/a/b', true],
    ['**', 'a/b/c', true],
    ['*', 'a/b', false],
    ['a.b/*', 'axb/c', false],
    ['team-*/app', 'team-a/app', true],
    ['library/ngin', 'library/nginx', false],
  ])('%s matches %s: %s', async (match, repository, isMatch) => {
    const options = await optionsOf(repository, [{ match, pullPolicy: 'Never' }]);
    expect(options?.pullPolicy).toBe(isMatch ? 'Never' : undefined);
  });
});
