import type { Config } from '../config/config.ts';
import { formatAddress } from '../config/fields.ts';
import { CommandError } from './command.ts';

/** A server that is well answers from memory. */
const ANSWER_WITHIN_MS = 10_000;

/**
 * What the running server says at `path` of its ops port; `undefined` when no server answers there. What comes back is
 * ours to trust: the port is the operator's own.
 */
export async function askServer<Answer>(config: Config, path: string): Promise<Answer | undefined> {
  const { opsListen } = config.server;
  if (opsListen === false) {
    throw new CommandError('server.opsListen is false, so a running server cannot be asked');
  }
  const host = opsListen.host.replace(/^0\.0\.0\.0$/, '127.0.0.1').replace(/^::$/, '::1');
  const url = `http://${formatAddress({ ...opsListen, host })}${path}`;
  const response = await fetch(url, { signal: AbortSignal.timeout(ANSWER_WITHIN_MS) }).catch(() => undefined);
  if (response === undefined) {
    return undefined;
  }
  if (!response.ok) {
    throw new CommandError(`${url} answered ${response.status}: it is no server of this version`);
  }
  const answer: Answer = JSON.parse(await response.text());
  return answer;
}
