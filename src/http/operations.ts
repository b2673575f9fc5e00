import type { Action } from './front.ts';
import type { RouteKind } from './path.ts';

/**
 * What a method on a route demands before its handler runs: a right on the route's repository, or one of the routes
 * that name none. `login`: its handler asks `Access` whether to let the requester in. `listing`: the handler shows
 * only what the requester may pull.
 */
export type Demand = Action | 'login' | 'listing';

/**
 * Every operation of the API: what is not in this table is refused, and the test of rights is generated from it.
 * HEAD is allowed where GET is.
 */
export const OPERATIONS: Readonly<Record<RouteKind, Readonly<Partial<Record<string, Demand>>>>> = {
  base: { GET: 'login' },
  token: { GET: 'login', POST: 'login' },
  catalog: { GET: 'listing' },
  manifest: { GET: 'pull', PUT: 'push', DELETE: 'delete' },
  blob: { GET: 'pull', DELETE: 'delete' },
  tags: { GET: 'pull' },
  referrers: { GET: 'pull' },
  uploads: { POST: 'push' },
  upload: { GET: 'push', PATCH: 'push', PUT: 'push', DELETE: 'push' },
};

/** The demand of one request; `undefined` where the route has no such method. */
export function demandOf(kind: RouteKind, method: string): Demand | undefined {
  return OPERATIONS[kind][method === 'HEAD' ? 'GET' : method];
}

/** The value of `Allow` (RFC 9110 §10.2.1). */
export function allowedMethods(kind: RouteKind): string {
  return Object.keys(OPERATIONS[kind])
    .flatMap(method => (method === 'GET' ? ['GET', 'HEAD'] : [method]))
    .join(', ');
}
