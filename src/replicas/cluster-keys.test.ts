import { once } from 'node:events';
import { createServer, request } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { TlsOptions } from 'node:tls';
import { afterEach, expect, it } from 'vitest';
import { ClusterKeys } from './cluster-keys.ts';

const FIRST = 'a key of the cluster, long enough to use';
const SECOND = 'another key, which replaces that one soon';
let close = () => {};

afterEach(() => close());

/** What a client with these keys gets from a server with those. */
async function asked(client: object, server: TlsOptions): Promise<string> {
  const listening = createServer(server, (_, res) => res.end()).listen(0, '127.0.0.1');
  close = () => void listening.close();
  await once(listening, 'listening');
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- it listens on a port
  const { port } = listening.address() as AddressInfo;
  const asking = request({ ...client, host: '127.0.0.1', port, agent: false });
  asking.end();
  try {
    const [response] = await once(asking, 'response');
    response.resume();
    return String(response.statusCode);
  } catch {
    return 'refused';
  } finally {
    close();
  }
}

it('two sides with the same key connect, and no others', async () => {
  const keys = new ClusterKeys(`${FIRST}\n`).forServer;
  expect(await asked(new ClusterKeys(FIRST).forClient, keys)).toBe('200');
  expect(await asked(new ClusterKeys(SECOND).forClient, keys)).toBe('refused');
  expect(await asked({ rejectUnauthorized: false }, keys)).toBe('refused');
});

it('keys are exchanged one replica after the other', async () => {
  const steps = [FIRST, `${FIRST}\n${SECOND}\n`, `\n${SECOND}\n${FIRST}`, SECOND];
  for (const [at, step] of steps.entries()) {
    for (const other of [steps[at - 1] ?? step, step, steps[at + 1] ?? step]) {
      expect(await asked(new ClusterKeys(step).forClient, new ClusterKeys(other).forServer)).toBe('200');
    }
  }
});

it('keys are replaced without a restart of either side, and not by a text without keys', async () => {
  const [one, other] = [new ClusterKeys(FIRST), new ClusterKeys(FIRST)];
  const server = other.forServer;
  other.renew(SECOND);
  expect(await asked(one.forClient, server)).toBe('refused');
  one.renew(SECOND);
  expect(() => one.renew('short')).toThrow(/at least 32 characters/);
  expect(await asked(one.forClient, server)).toBe('200');
});

it.each(['', '\n', 'short', `${FIRST}\nshort`])('%j is no file of keys', text => {
  expect(() => new ClusterKeys(text)).toThrow(/at least 32 characters/);
});
