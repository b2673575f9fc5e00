// Logins that the administration API issues and revokes, as a client uses them.
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { RotatedDocument } from '../../src/admin/documents/actions.ts';
import { get, type Got } from '../support/client.ts';
import { Entrepot } from '../support/entrepot.ts';
import { getAs } from '../support/tenants.ts';

let entrepot: Entrepot;

beforeAll(async () => {
  entrepot = await Entrepot.start({ tenants: [{ name: 'team-a', secrets: [] }] });
});

afterAll(() => entrepot.remove());

async function act(action: string, body: object): Promise<Got> {
  const api = `${entrepot.ops}/admin/v1`;
  const { token }: { token: string } = JSON.parse((await get(`${api}/session`)).text);
  const headers = { 'content-type': 'application/json', 'x-entrepot-token': token };
  return get(`${api}/actions/${action}`, { method: 'POST', headers, body: JSON.stringify(body) });
}

it('a login counts as soon as it is issued, and no longer once it is revoked, for added tenants too', async () => {
  expect((await act('tenant-add', { tenant: 'team-b' })).status).toBe(200);
  for (const tenant of ['team-a', 'team-b']) {
    const rotated = await act('tenant-rotate', { tenant, server: entrepot.host });
    expect(rotated.status).toBe(200);
    const { username, password, credential }: RotatedDocument = JSON.parse(rotated.text);
    const login = async () => (await getAs([username, password], `${entrepot.url}/v2/`)).status;
    expect(await login()).toBe(200);
    expect((await act('tenant-revoke', { tenant, credential })).status).toBe(200);
    expect(await login()).toBe(401);
  }
});
