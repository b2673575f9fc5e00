// The server as the page sees it: `/admin/v1`, whose documents have the types of `src/admin`.
import { signal } from '@preact/signals';
import type { ProblemDocument } from '../admin/documents/problem.ts';
import type { SessionDocument } from '../admin/documents/session.ts';

/** Relative to `/ui/`, so that it holds behind a proxy that adds a prefix. */
export const ROOT = '../admin/v1/';

/** The server refused; the message says why, for people. */
export class Refused extends Error {
  override readonly name = 'Refused';
}

/** Who uses the page; `undefined` until the server has said it. */
export const session = signal<SessionDocument | undefined>(undefined);

/** Asks for a document. Throws `Refused`, or a `TypeError` if the server does not answer. */
export async function ask<Document>(path: string, until?: AbortSignal): Promise<Document> {
  const headers = { Accept: 'application/json' };
  return documentOf(await fetch(ROOT + path, { headers, signal: until ?? null }));
}

/** Asks who uses the page, and for the token that changes need. */
export async function askSession(): Promise<SessionDocument> {
  const current = await ask<SessionDocument>('session');
  session.value = current;
  return current;
}

/** Changes something, as `POST` unless `method` says otherwise. Throws as `ask`. */
export async function send<Document>(path: string, body: object, method = 'POST'): Promise<Document> {
  const request = ({ token }: SessionDocument) =>
    fetch(ROOT + path, {
      method,
      headers: { 'Content-Type': 'application/json', 'X-Entrepot-Token': token },
      body: JSON.stringify(body),
    });
  const known = session.value ?? (await askSession());
  const response = await request(known);
  if (response.status !== 403) return documentOf(response);
  // A server that was restarted has another token.
  const current = await askSession();
  return documentOf(current.token === known.token ? response : await request(current));
}

async function documentOf<Document>(response: Response): Promise<Document> {
  if (response.ok) return response.json();
  const problem: ProblemDocument | undefined = await response.json().catch(() => undefined);
  throw new Refused(problem?.error.message ?? `the server answered with status ${response.status}`);
}
