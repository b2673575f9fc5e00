// What a web page can make a browser send to a registry on the same machine.
import { join } from 'node:path';
import { readFile } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { Entrepot } from '../support/entrepot.ts';

const UPLOADS = '/v2/tools/app/blobs/uploads/';

let entrepot: Entrepot;

beforeEach(async () => {
  entrepot = await Entrepot.start({
    hosted: { prefixes: ['tools'], anonymous: 'push' },
    audit: { output: 'file', auditFile: 'audit.log' },
  });
});

afterEach(() => entrepot.remove());

async function status(
  method: string,
  path: string,
  headers: Record<string, string>,
  body = '',
): Promise<number> {
  return (await get(`${entrepot.url}${path}`, { method, headers, body })).status;
}

const HELLO = 'sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824';

it.each([
  ['a form of another site', { origin: 'https://evil.example', 'content-type': 'text/plain' }],
  ['a page that a browser says is another site’s', { 'sec-fetch-site': 'cross-site' }],
  ['a name that was given this machine’s address', { host: 'evil.example:5000' }],
])('%s changes nothing, and the audit log has it', async (_what, headers) => {
  expect(await status('POST', `${UPLOADS}?digest=${HELLO}`, headers, 'hello')).toBe(403);
  expect(await status('PUT', '/v2/tools/app/manifests/1', headers, '{}')).toBe(403);
  expect(await status('DELETE', '/v2/tools/app/manifests/1', headers)).toBe(403);
  expect((await get(`${entrepot.url}/v2/tools/app/blobs/${HELLO}`)).status).toBe(404);
  await entrepot.stop();
  const lines = (await readFile(join(entrepot.folder, 'audit.log'), 'utf8')).trim().split('\n');
  const deeds = lines.map(line => JSON.parse(line)).filter(({ outcome }) => outcome === 'refused');
  expect(deeds.map(({ action }) => action)).toEqual(['push', 'push', 'delete', 'pull']);
  expect(deeds[0].reason).toMatch(/^DENIED: /);
});

it('a client of the same port may push', async () => {
  expect(await status('POST', `${UPLOADS}?digest=${HELLO}`, {}, 'hello')).toBe(201);
});
