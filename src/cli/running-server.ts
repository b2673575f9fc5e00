import http from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import type { Config } from '../config/config.ts';
import { askInFolder, SOCKET_FOLDER } from '../lib/socket-folder.ts';
import { CommandError } from './command.ts';

/** A server that is well answers from memory. */
const ANSWER_WITHIN_MS = 10_000;

interface Reply {
  readonly status: number;
  readonly text: string;
}

/**
 * What the running server of this store says at `path`: asked on its socket in the store's folder or, where there is
 * none that this user may use, at its ops port over the loopback. Of several servers the one that was started last is
 * asked. `undefined` when none answers. What comes back is ours to trust: both are the operator's own.
 */
export async function askServer<Answer>(config: Config, path: string): Promise<Answer | undefined> {
  const reply = (await askSocket(config, path)) ?? (await askPort(config, path));
  if (reply === undefined) return undefined;
  if (reply.status !== 200) {
    throw new CommandError(`the running server answered ${reply.status}: ${reply.text.trim()}`);
  }
  const answer: Answer = JSON.parse(reply.text);
  return answer;
}

async function askSocket({ storage }: Config, path: string): Promise<Reply | undefined> {
  const folder = join(storage.path, SOCKET_FOLDER);
  const ask = (socketPath: string) => get({ socketPath, path }).catch(() => undefined);
  // Another user's: only the port is left.
  return askInFolder(folder, ask).catch(() => undefined);
}

async function askPort({ server }: Config, path: string): Promise<Reply | undefined> {
  const { opsListen } = server;
  if (opsListen === false) return undefined;
  const host = opsListen.host.replace(/^0\.0\.0\.0$/, '127.0.0.1').replace(/^::$/, '::1');
  return get({ host, port: opsListen.port, path }).catch(() => undefined);
}

function get(options: http.RequestOptions): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(ANSWER_WITHIN_MS);
    const request = http.get({ ...options, signal, agent: false }, response => {
      text(response).then(body => resolve({ status: response.statusCode ?? 0, text: body }), reject);
    });
    request.on('error', reject);
  });
}
