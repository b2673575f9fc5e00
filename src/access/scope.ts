/** What a token is good for (distribution, "Token Scope"): `repository:docker.io/library/nginx:pull,push`. */
export interface Scope {
  readonly type: string;
  /** May hold `host:port/`. */
  readonly name: string;
  readonly actions: readonly string[];
}

/** A mount names two repositories, and clients add what a challenge asked for to what they want themselves. */
export const MAX_SCOPES = 20;

/** A host with its port, the longest name, and a handful of actions. */
const MAX_SCOPE_LENGTH = 640;

const SCOPE = /^([a-z0-9]+)(?:\([^)]*\))?:(.+):([a-z*,]+)$/;

/** The scopes of `texts`, each of which may hold several. What is too long, too much or no scope is left out. */
export function parseScopes(texts: readonly string[]): readonly Scope[] {
  const words = texts.flatMap(text => text.split(' ', MAX_SCOPES + 1)).filter(word => word !== '');
  return words.slice(0, MAX_SCOPES).flatMap(word => parseScope(word) ?? []);
}

/** As it stands in challenges and token requests. */
export function scopeText({ type, name, actions }: Scope): string {
  return `${type}:${name}:${actions.join(',')}`;
}

/** `_catalog`, which no repository is named for. */
export const CATALOG_SCOPE: Scope = { type: 'registry', name: 'catalog', actions: ['*'] };

/** Whether one of `scopes` has all that `wanted` says. */
export function covers(scopes: readonly Scope[], wanted: Scope): boolean {
  return scopes.some(
    ({ type, name, actions }) =>
      type === wanted.type &&
      name === wanted.name &&
      wanted.actions.every(action => actions.includes(action) || actions.includes('*')),
  );
}

function parseScope(text: string): Scope | undefined {
  if (text.length > MAX_SCOPE_LENGTH) return undefined;
  const [, type, name, actions] = SCOPE.exec(text) ?? [];
  if (type === undefined || name === undefined || actions === undefined) return undefined;
  return { type, name, actions: [...new Set(actions.split(',').filter(action => action !== ''))] };
}
