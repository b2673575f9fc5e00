import http from 'node:http';
import { dirname, join } from 'node:path';
import { collectBytes } from '../lib/collect-bytes.ts';
import { isJsonObject, parseJsonObject } from '../lib/json.ts';
import { askInFolder, SOCKET_FOLDER, socketFoldersHere } from '../lib/socket-folder.ts';
import type { ServerDocument } from '../compose/server.ts';
import { CommandError } from './command.ts';

/** A healthy server answers from memory. */
const ANSWER_WITHIN_MS = 10_000;

/** More than enough for 10,000 tenants with five Secrets each. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

/** A server that runs on a store. */
export interface StoreServer {
  readonly storePath: string;
  /** The user who runs it; `undefined` if that is not certain. */
  readonly uid: number | undefined;
  readonly document: ServerDocument;
}

interface Reply {
  readonly status: number;
  readonly text: string;
}

/**
 * The answer of the administration API of the running server of the store at `storePath` to a request for `path` below it,
 * as `askServer`.
 */
export function askAdmin<Answer>(
  storePath: string,
  path: string,
  query: Readonly<Record<string, string>> = {},
): Promise<Answer | undefined> {
  const parameters = new URLSearchParams(query).toString();
  return askServer(storePath, `/admin/v1${path}${parameters === '' ? '' : `?${parameters}`}`);
}

/** Changes something by the administration API, as `askAdmin`. `path` is that of the operation, `body` what it takes. */
export async function changeByAdmin<Answer>(
  storePath: string,
  path: string,
  body: object,
): Promise<Answer | undefined> {
  const asked = await ask(storePath, `/admin/v1${path}`, JSON.stringify(body));
  if (asked === undefined) return undefined;
  const answer: Answer = JSON.parse(asked.text);
  return answer;
}

/**
 * The answer of the running server of the store at `storePath` to a request for `path`, by its socket in the store,
 * which only the operator can open. Of several servers, the one started last. `undefined` if none answers. Throws
 * CommandError with what the server says is wrong with the request.
 */
export async function askServer<Answer>(storePath: string, path: string): Promise<Answer | undefined> {
  const asked = await ask(storePath, path);
  if (asked === undefined) return undefined;
  const answer: Answer = JSON.parse(asked.text);
  return answer;
}

/** The server of the store at `storePath`; `undefined` if none answers this user. */
export async function runningServer(storePath: string): Promise<StoreServer | undefined> {
  try {
    const asked = await ask(storePath, '/debug/server');
    if (asked === undefined) return undefined;
    const document: ServerDocument = JSON.parse(asked.text);
    return { storePath, uid: asked.uid, document };
  } catch {
    return undefined;
  }
}

/** The documents of all servers on the store at `storePath` that answer this user, newest first. */
export async function serversOn(storePath: string): Promise<readonly ServerDocument[]> {
  const servers: ServerDocument[] = [];
  await askInFolder(join(storePath, SOCKET_FOLDER), async socketPath => {
    const reply = await send({ socketPath, path: '/debug/server' }).catch(() => undefined);
    if (reply?.status === 200 && parseJsonObject(reply.text)) servers.push(JSON.parse(reply.text));
    // Try the next one.
    return undefined;
  });
  return servers;
}

/** All servers on this machine that answer this user, with any store. */
export async function runningServers(): Promise<readonly StoreServer[]> {
  const folders = await socketFoldersHere();
  const servers = await Promise.all(folders.map(folder => runningServer(dirname(folder))));
  return servers.filter(server => server !== undefined);
}

async function ask(
  storePath: string,
  path: string,
  body?: string,
): Promise<{ readonly text: string; readonly uid: number | undefined } | undefined> {
  const asked = await askInFolder(join(storePath, SOCKET_FOLDER), async (socketPath, uid) => {
    const reply = await send({ socketPath, path }, body).catch(() => undefined);
    return reply && { reply, uid };
  });
  if (asked === undefined) return undefined;
  const { reply, uid } = asked;
  if (reply.status !== 200) throw new CommandError(problemText(reply));
  return { text: reply.text, uid };
}

/** What the server says is wrong: with the request, or with itself. Of anything but its own errors, what it sent. */
function problemText({ status, text }: Reply): string {
  const error = parseJsonObject(text)?.['error'];
  const message = isJsonObject(error) ? error['message'] : undefined;
  if (typeof message !== 'string') return `the running server answered ${status}: ${text.trim()}`;
  return status < 500 ? message : `the running server answered ${status}: ${message}`;
}

/** GET; with a body, which is JSON, POST. */
function send(options: http.RequestOptions, body?: string): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(ANSWER_WITHIN_MS);
    const method =
      body === undefined ? {} : { method: 'POST', headers: { 'content-type': 'application/json' } };
    const request = http.request({ ...options, ...method, signal, agent: false }, response => {
      limitedText(response).then(text => resolve({ status: response.statusCode ?? 0, text }), reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function limitedText(response: http.IncomingMessage): Promise<string> {
  const tooLong = () => new Error(`the answer is longer than ${MAX_ANSWER_BYTES} bytes`);
  return (await collectBytes(response, MAX_ANSWER_BYTES, tooLong)).toString();
}
