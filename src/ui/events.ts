// The server's stream of changes. It is open while the page is visible: a hidden one would only cost.
import { signal } from '@preact/signals';
import type { EventName } from '../admin/documents/events.ts';
import { askSession, Refused, ROOT } from './admin.ts';

/** Between attempts to reach a server that is not there; `EventSource` itself only retries what was cut off. */
const RECONNECT_MS = 3_000;

/** Whether what is shown is kept up to date; `refused` until somebody connects again. */
export const connection = signal<'connecting' | 'live' | 'lost' | 'refused'>('connecting');

type Handle = (data: unknown) => void;
const handlers = new Map<string, Set<Handle>>();
let source: EventSource | undefined;
let reconnecting: ReturnType<typeof setTimeout> | undefined;

/** Calls `handle` with the data of each event of that name, until the returned function is called. */
export function onEvent(name: EventName, handle: Handle): () => void {
  let all = handlers.get(name);
  if (all === undefined) {
    all = new Set();
    handlers.set(name, all);
    source?.addEventListener(name, dispatch);
  }
  const those = all.add(handle);
  return () => void those.delete(handle);
}

/** Opens the stream, and closes it while the page is hidden. */
export function followServer(): void {
  document.addEventListener('visibilitychange', () => (document.hidden ? disconnect() : connect()));
  connect();
}

function dispatch({ type, data }: MessageEvent<string>): void {
  for (const handle of handlers.get(type) ?? []) handle(JSON.parse(data));
}

function disconnect(): void {
  clearTimeout(reconnecting);
  source?.close();
  source = undefined;
}

/** Opens the stream again. */
function connect(): void {
  disconnect();
  if (document.hidden) return;
  const opened = new EventSource(`${ROOT}events`);
  source = opened;
  for (const name of handlers.keys()) opened.addEventListener(name, dispatch);
  opened.addEventListener('open', () => {
    connection.value = 'live';
    // What it may do, and its token, may be others.
    askSession().catch(() => {});
  });
  opened.addEventListener('error', () => {
    connection.value = 'lost';
    if (opened.readyState === EventSource.CLOSED) void connectAgain(opened);
  });
}

/**
 * Opens the stream after a login. That is asked for with another request: browsers would show their dialog for the
 * stream, and, if it is cancelled, once more to find out why there is none.
 */
export async function logIn(): Promise<void> {
  if (!(await isRefused())) connect();
}

/** Unless this user may not: browsers would ask for the login each time. */
async function connectAgain(closed: EventSource): Promise<void> {
  const mayNot = await isRefused();
  if (source !== closed) return;
  if (mayNot) connection.value = 'refused';
  else reconnecting = setTimeout(connect, RECONNECT_MS);
}

/** Whether the server answers that this user may not see the page. */
function isRefused(): Promise<boolean> {
  return askSession().then(
    () => false,
    (error: unknown) => error instanceof Refused && (error.status === 401 || error.status === 403),
  );
}
