import { describe, expect, it } from 'vitest';
import { covers, MAX_SCOPES, parseScopes, scopeText } from './scope.ts';

describe('scopes', () => {
  it('are parsed from both ends, since a name may contain a port', () => {
    expect(parseScopes(['repository:localhost:5000/a/b:pull,push', 'registry:catalog:*'])).toEqual([
      { type: 'repository', name: 'localhost:5000/a/b', actions: ['pull', 'push'] },
      { type: 'registry', name: 'catalog', actions: ['*'] },
    ]);
  });

  it('may occur together in one text, with a class, and with a repeated action', () => {
    const texts = parseScopes(['repository(plugin):a:pull,pull repository:b:pull']).map(scopeText);
    expect(texts).toEqual(['repository:a:pull', 'repository:b:pull']);
  });

  it('that are malformed, too long or too many are ignored', () => {
    const long = `repository:${'a'.repeat(700)}:pull`;
    expect(parseScopes(['', 'x', 'repository::pull', 'repository:a:', 'repository:a:PULL', long])).toEqual(
      [],
    );
    expect(parseScopes(Array.from({ length: 100 }, (_, at) => `repository:r${at}:pull`))).toHaveLength(
      MAX_SCOPES,
    );
  });

  it('cover what one of them includes completely', () => {
    const scopes = parseScopes(['repository:a:pull', 'repository:a:push', 'repository:b:*']);
    const wanted = (name: string, ...actions: string[]) =>
      covers(scopes, { type: 'repository', name, actions });
    expect(wanted('a', 'pull')).toBe(true);
    expect(wanted('a', 'pull', 'push')).toBe(false);
    expect(wanted('b', 'pull', 'delete')).toBe(true);
    expect(wanted('a/b', 'pull')).toBe(false);
    expect(covers(scopes, { type: 'registry', name: 'a', actions: ['pull'] })).toBe(false);
  });
});
