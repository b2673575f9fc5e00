// The server as the page sees it: `/admin/v1`, whose documents have the types of `src/admin`.
import { signal } from '@preact/signals';
import type { ProblemDocument } from '../admin/documents/problem.ts';
import type { SessionDocument } from '../admin/documents/session.ts';

/** Relative to `/ui/`, so that it holds behind a proxy that adds a prefix. */
export const ROOT = '../admin/v1/';

/** The server refused, or does not answer; the message says why, for people. */
export class Refused extends Error {
  override readonly name = 'Refused';
  /** `undefined` without an answer. */
  readonly status: number | undefined;

  constructor(message: string, status?: number) {
    super(message);
    this.status = status;
  }
}

/** Who uses the page; `undefined` until the server has said it. */
export const session = signal<SessionDocument | undefined>(undefined);

/** Asks for a document. Throws `Refused`, or the reason of `until` if that aborts. */
export async function ask<Document>(path: string, until?: AbortSignal): Promise<Document> {
  const headers = { Accept: 'application/json' };
  return documentOf(await answerTo(path, { headers, signal: until ?? null }));
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
    answerTo(path, {
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

/** Such as the form of a proxy that wants a login of its own. */
const NOT_JSON = 'something other than the server answered: reload the page';

async function answerTo(path: string, request: RequestInit): Promise<Response> {
  try {
    return await fetch(ROOT + path, request);
  } catch (error) {
    if (request.signal?.aborted === true) throw error;
    throw new Refused('the server does not answer');
  }
}

async function documentOf<Document>(response: Response): Promise<Document> {
  const { ok, status } = response;
  if (ok) {
    return response.json().catch((error: unknown) => {
      throw error instanceof SyntaxError ? new Refused(NOT_JSON, status) : error;
    });
  }
  const problem: ProblemDocument | undefined = await response.json().catch(() => undefined);
  throw new Refused(problem?.error.message ?? `the server answered with status ${status}`, status);
}
