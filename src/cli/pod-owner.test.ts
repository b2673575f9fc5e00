import { copyFile, writeFile } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { ownerState } from './pod-owner.ts';

const tlsFile = (name: string): string =>
  fileURLToPath(new URL(`../../test/support/tls/${name}`, import.meta.url));
const DAEMON_SET = '/apis/apps/v1/namespaces/nodes/daemonsets/entrepot-nodes';
const NAMESPACE = '/api/v1/namespaces/nodes';

let account: string;
let server: Server;
/** By path; 404 for others. */
let answers: Map<string, readonly [status: number, object: object]>;
let asked: string[];

beforeEach(async () => {
  account = await makeTempFolder('account');
  await copyFile(tlsFile('ca.pem'), join(account, 'ca.crt'));
  await writeFile(join(account, 'token'), 'secret\n');
  await writeFile(join(account, 'namespace'), 'nodes');
  answers = new Map([
    [DAEMON_SET, [200, { metadata: { name: 'entrepot-nodes' } }]],
    [NAMESPACE, [200, { metadata: { name: 'nodes' } }]],
  ]);
  asked = [];
  const tls = { cert: readFileSync(tlsFile('server.pem')), key: readFileSync(tlsFile('server.key')) };
  server = createServer(tls, (request, response) => {
    asked.push(`${request.url} ${request.headers.authorization}`);
    const [status, object] = answers.get(request.url ?? '') ?? [
      404,
      { kind: 'Status', message: 'not found' },
    ];
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(object));
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
});

afterEach(async () => {
  server.closeAllConnections();
  await new Promise(resolve => server.close(resolve));
  await removeFolder(account);
});

async function state(name = 'entrepot-nodes') {
  const address = server.address();
  const port = typeof address === 'object' ? String(address?.port) : '';
  const env = { KUBERNETES_SERVICE_HOST: '127.0.0.1', KUBERNETES_SERVICE_PORT: port };
  return (await ownerState(name, env, account)).goes;
}

const DELETED = { deletionTimestamp: '2026-11-30T00:00:00Z' };
const REFUSAL = { kind: 'Status', message: 'no' };

describe('the DaemonSet of a pod', () => {
  it('stays if neither it nor its namespace is being deleted, which its account is asked about', async () => {
    expect(await state()).toBe(false);
    expect(asked).toEqual([`${DAEMON_SET} Bearer secret`, `${NAMESPACE} Bearer secret`]);
  });

  it.each([
    ['it is being deleted', DAEMON_SET, [200, { metadata: DELETED }]],
    ['it does not exist any more', DAEMON_SET, [404, REFUSAL]],
    ['its namespace is being deleted', NAMESPACE, [200, { metadata: DELETED }]],
    ['its account may not ask any more', DAEMON_SET, [403, REFUSAL]],
    ['its account does not exist any more', DAEMON_SET, [401, REFUSAL]],
  ] as const)('goes if %s', async (_why, path, answer) => {
    answers.set(path, answer);
    expect(await state()).toBe(true);
  });

  it.each([
    ['the API server has an error', () => answers.set(DAEMON_SET, [500, REFUSAL])],
    ['the API server is out of reach', () => server.close()],
    ['this is not a pod', () => rmAccount()],
  ] as const)('is not known to go if %s', async (_why, prepare) => {
    await prepare();
    expect(await state()).toBeUndefined();
  });
});

async function rmAccount(): Promise<void> {
  await writeFile(join(account, 'token'), '');
  await removeFolder(join(account, 'namespace'));
}
