import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AccessWorld, type AccessWorldOptions, named, SERVER } from '../../test/support/access-world.ts';
import type { Login } from '../../test/support/tenants.ts';
import { memoryHolder, type Requester } from '../oci/requester.ts';
import type { ServiceAccount } from './authenticator.ts';
import { HOSTED, HUB_A, HUB_B, NGINX, pulled, tokenOf, withToken } from './access.fixture.ts';

let world: AccessWorld;

async function open(options: AccessWorldOptions = {}): Promise<void> {
  world = await AccessWorld.open(options);
}

afterEach(() => world.close());

describe('with unknownCredentials: verify', () => {
  const byNamespace = { byNamespace: true };

  it('an unknown credential is tried upstream if the request names the upstream', async () => {
    await open({ unknownCredentials: 'verify' });
    expect(await pulled(await world.as(HUB_A, byNamespace))).toMatchObject({
      tried: ['hub-a'],
      proved: false,
    });
    expect(
      await pulled(await world.as(HUB_A, { byHostAlias: true, upstreamListener: 'docker.io' })),
    ).toMatchObject({
      tried: ['hub-a'],
    });
    expect(await pulled(await world.as(HUB_A))).toBe('UNAUTHORIZED');
    await world.prove(NGINX, HUB_A);
    expect(await pulled(await world.as(HUB_A, byNamespace))).toMatchObject({ proved: true });
    expect(await pulled(await world.as(HUB_B, byNamespace))).toMatchObject({ proved: false });
  });

  it('memory is counted by address for unknown credentials, as for anonymous clients, and otherwise by tenant', async () => {
    await open({ unknownCredentials: 'verify' });
    await world.put('team-a', { 'docker.io': HUB_A });
    const holderOf = async (login: Login | undefined): Promise<object> => {
      const subject = await world.as(login, byNamespace);
      const { requester } = await subject.authorize(NGINX, 'pull');
      return memoryHolder(requester, '192.0.2.1');
    };
    const unknown = { name: 'network 192.0.2.1', group: 'unknown' };
    expect([await holderOf(HUB_B), await holderOf(undefined)]).toEqual([unknown, unknown]);
    expect(await holderOf(HUB_A)).toEqual({ name: 'tenant team-a' });
    await world.put('team-b', { 'docker.io': HUB_A });
    expect(await holderOf(HUB_A)).toEqual({ name: expect.stringMatching(/^credential:/) });
  });

  it('an unknown credential gets nothing for what it proved while it was in a Secret, and that proof is kept until the right ends', async () => {
    await open({ unknownCredentials: 'verify' });
    // As a server finds it that was down while the Secret went, or that cannot read it for now.
    const left = {
      credentialId: named(HUB_A).id,
      verifiedAtMs: world.clock.nowMs,
      origin: 'upstream',
    } as const;
    await world.metadata.putGrant(NGINX, left);
    expect(await pulled(await world.as(HUB_A, byNamespace))).toMatchObject({ proved: false });
    await world.prove(NGINX, HUB_A);
    expect(await pulled(await world.as(HUB_A, byNamespace))).toMatchObject({ proved: true });
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ id: 'tenant:team-a', proved: true });
    await world.prove(NGINX, HUB_A, 'ended');
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ id: 'tenant:team-a', proved: false });
  });

  it('the token of an unknown credential is valid only for requests that name the upstream', async () => {
    await open({ unknownCredentials: 'verify' });
    const { token } = await tokenOf(world, HUB_A, 'repository:docker.io/library/nginx:pull');
    expect(await pulled(await withToken(world, token, byNamespace))).toMatchObject({ tried: ['hub-a'] });
    expect(await pulled(await withToken(world, token))).toBe('UNAUTHORIZED');
  });

  it('the user names of tenants, and ServiceAccount tokens, are never sent upstream', async () => {
    await open({ unknownCredentials: 'verify', configured: { 'team-a': {} } });
    const jwt = 'eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln';
    for (const ours of [
      ['team-a', 'mistyped'],
      ['anybody', jwt],
    ] as const) {
      expect(await pulled(await world.as(ours, byNamespace))).toBe('UNAUTHORIZED');
    }
  });

  it('a client that tries many from one address has to wait; others, and credentials accepted from there before, do not', async () => {
    await open({ unknownCredentials: 'verify' });
    expect(await pulled(await world.as(HUB_A, byNamespace))).toMatchObject({ tried: ['hub-a'] });
    await world.prove(NGINX, HUB_A);
    const attempts = Array.from({ length: 90 }, (_, at) => world.as([`u-${at}`, 'guess'], byNamespace));
    const refused = (await Promise.allSettled(attempts)).filter(({ status }) => status === 'rejected');
    // One place was taken by the first.
    expect(refused.length).toBe(31);
    expect(refused[0]).toMatchObject({ reason: { code: 'TOOMANYREQUESTS' } });
    expect(await pulled(await world.as(HUB_A, byNamespace))).toMatchObject({ tried: ['hub-a'] });
    await expect(world.as(HUB_B, byNamespace)).rejects.toMatchObject({ code: 'TOOMANYREQUESTS' });
    expect(await pulled(await world.as(HUB_B, { ...byNamespace, remote: '192.0.2.2' }))).toMatchObject({
      tried: ['hub-b'],
    });
  });
});

/** How many of `logins` were looked at and found wrong. */
async function guess(logins: readonly Login[], sender: object = {}): Promise<number> {
  let looked = 0;
  for (const login of logins) {
    const outcome = await world.as(login, sender).then(pulled, (error: { code: string }) => error.code);
    expect(['UNAUTHORIZED', 'TOOMANYREQUESTS']).toContain(outcome);
    if (outcome === 'UNAUTHORIZED') looked += 1;
  }
  return looked;
}

const passwords = (name: string, count: number): Login[] =>
  Array.from({ length: count }, (_, at) => [name, `guess ${at}`]);

describe('guesses', () => {
  const OWN: Login = ['robot', 'right'];
  const elsewhere = { remote: '198.51.100.7' };

  beforeEach(async () => {
    await open();
    await world.put('team-a', { [SERVER]: OWN });
  });

  it('with one user name from one address are checked ten times, in requests and at /token alike', async () => {
    const logins = passwords('robot', 30);
    expect(await guess(logins.slice(0, 6))).toBe(6);
    let refused = 0;
    for (const login of logins.slice(6)) {
      const error: unknown = await tokenOf(world, login, 'repository:team-a/app:pull').catch(
        (e: unknown) => e,
      );
      expect(error).toMatchObject({ code: expect.stringMatching(/^(UNAUTHORIZED|TOOMANYREQUESTS)$/) });
      if (Object(error).code === 'TOOMANYREQUESTS') refused += 1;
    }
    expect(refused).toBe(20);
  });

  it('with many user names from one address are checked sixty times, and a repeated one does not count again', async () => {
    const logins = Array.from({ length: 200 }, (_, at): Login => [`name-${at}`, 'guess']);
    expect(await guess(logins)).toBe(60);
    expect(await guess(logins.slice(0, 60))).toBe(60);
  });

  it('beyond the limit get the same answer, right or wrong', async () => {
    await guess(passwords('robot', 30));
    await expect(world.as(OWN)).rejects.toMatchObject({
      code: 'TOOMANYREQUESTS',
      headers: { 'Retry-After': expect.stringMatching(/^\d+$/) },
    });
  });

  it('affect neither other addresses, nor a client that logged in from the same address before', async () => {
    await expect((await world.as(OWN)).authorize(HOSTED, 'pull')).resolves.toBeDefined();
    await guess(passwords('robot', 80));
    await expect((await world.as(OWN)).authorize(HOSTED, 'pull')).resolves.toBeDefined();
    await expect((await world.as(OWN, elsewhere)).authorize(HOSTED, 'pull')).resolves.toBeDefined();
  });

  it('at one user name from very many addresses leave each a few attempts, and the right password is still accepted', async () => {
    for (let at = 0; at < 25; at += 1) await guess(passwords('robot', 10), { remote: `203.0.113.${at}` });
    expect(await guess(passwords('robot', 10), elsewhere)).toBe(3);
    await expect(
      (await world.as(OWN, { remote: '198.51.100.8' })).authorize(HOSTED, 'pull'),
    ).resolves.toBeDefined();
  });

  it('at a Kubernetes token are limited, too, and do not affect an account that was accepted there before', async () => {
    await world.close();
    const payload = Buffer.from('{"kubernetes.io":{"serviceaccount":{"uid":"u-1"}}}').toString('base64url');
    const signed = (at: number) => `eyJhbGciOiJSUzI1NiJ9.${payload}.${at}`;
    const account = { namespace: 'team-a', name: 'default', uid: 'u-1' };
    await open({ accounts: { [signed(0)]: account, [signed(1)]: account } });
    await world.put('team-a', { 'docker.io': HUB_A });
    const forged = Array.from(
      { length: 90 },
      (_, at): Login => ['x', `eyJhbGciOiJSUzI1NiJ9.e30.forged${at}`],
    );
    expect(await pulled(await world.as(['x', signed(0)]))).toMatchObject({ id: 'tenant:team-a' });
    expect(await guess(forged)).toBe(60);
    expect(await pulled(await world.as(['x', signed(1)]))).toMatchObject({ id: 'tenant:team-a' });
    // Passwords are counted by themselves.
    expect(await guess(passwords('robot', 3))).toBe(3);
  });
});

describe('a Kubernetes ServiceAccount', () => {
  const token = 'eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2ln';

  it("is its namespace's tenant, with the whole keyring", async () => {
    await open({ accounts: { [token]: { namespace: 'team-a', name: 'default', uid: 'u-1' } } });
    await world.put('team-a', { 'docker.io': HUB_A }, { accountsMayPush: true });
    const login: Login = ['serviceaccount', token];
    expect(await pulled(await world.as(login))).toEqual({
      id: 'tenant:team-a',
      tried: ['hub-a'],
      proved: false,
    });
    const issued = await tokenOf(world, login, 'repository:team-a/app:pull,push');
    expect(issued.access).toEqual([{ type: 'repository', name: 'team-a/app', actions: ['pull', 'push'] }]);
    const right: { requester: Requester } = await (await withToken(world, issued.token)).authorize(
      HOSTED,
      'push',
    );
    expect(right.requester).toMatchObject({ tenant: 'team-a', credentialId: 'account:u-1' });
  });

  it('is refused as soon as it is deleted, and so are the tokens that were issued to it', async () => {
    const accounts: Record<string, ServiceAccount> = {
      [token]: { namespace: 'team-a', name: 'default', uid: 'u-1' },
    };
    await open({ accounts });
    await world.put('team-a', { 'docker.io': HUB_A });
    const login: Login = ['serviceaccount', token];
    const issued = await tokenOf(world, login, 'repository:team-a/app:pull');
    await expect((await withToken(world, issued.token)).authorize(HOSTED, 'pull')).resolves.toBeDefined();
    Reflect.deleteProperty(accounts, token);
    expect(await pulled(await world.as(login))).toBe('UNAUTHORIZED');
    await expect((await withToken(world, issued.token)).authorize(HOSTED, 'pull')).rejects.toMatchObject({
      code: 'UNAUTHORIZED',
    });
  });

  it('that was refused a moment ago is checked again when accounts have changed', async () => {
    const accounts: Record<string, ServiceAccount> = {};
    await open({ accounts });
    await world.put('team-a', { 'docker.io': HUB_A });
    const login: Login = ['serviceaccount', token];
    expect(await pulled(await world.as(login))).toBe('UNAUTHORIZED');
    accounts[token] = { namespace: 'team-a', name: 'default', uid: 'u-1' };
    expect(await pulled(await world.as(login))).toBe('UNAUTHORIZED');
    for (const listener of world.accountListeners) listener();
    expect(await pulled(await world.as(login))).toMatchObject({ id: 'tenant:team-a' });
  });

  it('is refused if its namespace is not a tenant, or its token is invalid', async () => {
    await open({ accounts: { [token]: { namespace: 'team-z', name: 'default', uid: 'u-1' } } });
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await pulled(await world.as(['x', token]))).toBe('UNAUTHORIZED');
    expect(await pulled(await world.as(['x', `${token}x`]))).toBe('UNAUTHORIZED');
  });
});
