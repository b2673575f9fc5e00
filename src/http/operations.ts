import type { Action } from '../access/subject.ts';
import type { Route, RouteKind } from './path.ts';

/** Routes that name a repository: before their handlers, `Access` settles a right on it. */
export type RepositoryRoute = Extract<Route, { readonly name: string }>;

type Methods<Demand> = Readonly<Partial<Record<string, Demand>>>;

/** The action that each method of a repository's route is. HEAD is allowed where GET is. */
const REPOSITORY_OPERATIONS: Readonly<Record<RepositoryRoute['kind'], Methods<Action>>> = {
  manifest: { GET: 'pull', PUT: 'push', DELETE: 'delete' },
  blob: { GET: 'pull', DELETE: 'delete' },
  tags: { GET: 'pull' },
  referrers: { GET: 'pull' },
  uploads: { POST: 'push' },
  upload: { GET: 'push', PATCH: 'push', PUT: 'push', DELETE: 'push' },
};

/**
 * Routes that name no repository. `login`: the handler asks `Access` whether to let the requester in. `listing`: it
 * shows only what the requester may pull.
 */
const SERVER_OPERATIONS: Readonly<
  Record<Exclude<RouteKind, RepositoryRoute['kind']>, Methods<'login' | 'listing'>>
> = {
  base: { GET: 'login' },
  token: { GET: 'login', POST: 'login' },
  catalog: { GET: 'listing' },
};

/** Every operation of the API. What is not here is refused, and the test of rights is generated from it. */
export const OPERATIONS: Readonly<Record<RouteKind, Methods<Action | 'login' | 'listing'>>> = {
  ...REPOSITORY_OPERATIONS,
  ...SERVER_OPERATIONS,
};

/** Whether the route has the method at all. */
export function hasOperation(kind: RouteKind, method: string): boolean {
  return Object.hasOwn(OPERATIONS[kind], asGet(method));
}

/** The right that the method of a repository's route demands; `undefined` where it has no such method. */
export function actionOf(kind: RepositoryRoute['kind'], method: string): Action | undefined {
  return hasOperation(kind, method) ? REPOSITORY_OPERATIONS[kind][asGet(method)] : undefined;
}

/** The value of `Allow` (RFC 9110 §10.2.1). */
export function allowedMethods(kind: RouteKind): string {
  return Object.keys(OPERATIONS[kind])
    .flatMap(method => (method === 'GET' ? ['GET', 'HEAD'] : [method]))
    .join(', ');
}

function asGet(method: string): string {
  return method === 'HEAD' ? 'GET' : method;
}
