import type { Action } from '../access/subject.ts';
import type { Route, RouteKind } from './path.ts';

/** Routes with a repository: `Access` decides the right to it before their handlers run. */
export type RepositoryRoute = Extract<Route, { readonly name: string }>;

type Methods<Demand> = Readonly<Partial<Record<string, Demand>>>;

/** The action of each method of a route with a repository. HEAD is allowed where GET is. */
const REPOSITORY_OPERATIONS: Readonly<Record<RepositoryRoute['kind'], Methods<Action>>> = {
  manifest: { GET: 'pull', PUT: 'push', DELETE: 'delete' },
  blob: { GET: 'pull', DELETE: 'delete' },
  tags: { GET: 'pull' },
  referrers: { GET: 'pull' },
  uploads: { POST: 'push' },
  upload: { GET: 'push', PATCH: 'push', PUT: 'push', DELETE: 'push' },
};

/**
 * Routes without a repository. `login`: the handler asks `Access` whether to admit the requester. `listing`: it shows
 * only what the requester may pull.
 */
const SERVER_OPERATIONS: Readonly<
  Record<Exclude<RouteKind, RepositoryRoute['kind']>, Methods<'login' | 'listing'>>
> = {
  base: { GET: 'login' },
  token: { GET: 'login', POST: 'login' },
  catalog: { GET: 'listing' },
};

/** All operations of the API. Anything else is refused. The test of rights is generated from this. */
export const OPERATIONS: Readonly<Record<RouteKind, Methods<Action | 'login' | 'listing'>>> = {
  ...REPOSITORY_OPERATIONS,
  ...SERVER_OPERATIONS,
};

/** Whether the route supports the method. */
export function hasOperation(kind: RouteKind, method: string): boolean {
  return Object.hasOwn(OPERATIONS[kind], asGet(method));
}

/** The action that needs to be authorized for a method; `undefined` if the route does not support it. */
export function actionOf(kind: RepositoryRoute['kind'], method: string): Action | undefined {
  return hasOperation(kind, method) ? REPOSITORY_OPERATIONS[kind][asGet(method)] : undefined;
}

/** The value of the `Allow` header (RFC 9110 §10.2.1). */
export function allowedMethods(kind: RouteKind): string {
  return Object.keys(OPERATIONS[kind])
    .flatMap(method => (method === 'GET' ? ['GET', 'HEAD'] : [method]))
    .join(', ');
}

function asGet(method: string): string {
  return method === 'HEAD' ? 'GET' : method;
}
