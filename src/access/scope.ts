/** A scope of a token (distribution, "Token Scope"): `repository:docker.io/library/nginx:pull,push`. */
export interface Scope {
  readonly type: string;
  /** May begin with `host:port/`. */
  readonly name: string;
  readonly actions: readonly string[];
}

/** A mount names two repositories, and clients add the scopes of a challenge to those that they want themselves. */
export const MAX_SCOPES = 20;

/** Enough for a host with its port, the longest name, and all actions. */
const MAX_SCOPE_LENGTH = 640;

const SCOPE = /^([a-z0-9]+)(?:\([^)]*\))?:(.+):([a-z*,]+)$/;

/** Parses scopes; each text may have several. Scopes that are too long, too many or malformed are ignored. */
export function parseScopes(texts: readonly string[]): readonly Scope[] {
  const words = texts.flatMap(text => text.split(' ', MAX_SCOPES + 1)).filter(word => word !== '');
  return words.slice(0, MAX_SCOPES).flatMap(word => parseScope(word) ?? []);
}

/** As written in challenges and token requests. */
export function scopeText({ type, name, actions }: Scope): string {
  return `${type}:${name}:${actions.join(',')}`;
}

/** The scope for `_catalog`. */
export const CATALOG_SCOPE: Scope = { type: 'registry', name: 'catalog', actions: ['*'] };

/** Whether one of `scopes` includes everything in `wanted`. */
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
