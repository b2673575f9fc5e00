import { afterEach, describe, expect, it } from 'vitest';
import { AccessWorld, type AccessWorldOptions, named } from '../../test/support/access-world.ts';
import type { Login } from '../../test/support/tenants.ts';
import type { Requester } from '../oci/requester.ts';
import type { ServiceAccount } from './door.ts';
import { HOSTED, HUB_A, HUB_B, NGINX, pulled, tokenOf, withToken } from './fixture.suite.ts';

let world: AccessWorld;

async function open(options: AccessWorldOptions = {}): Promise<void> {
  world = await AccessWorld.open(options);
}

afterEach(() => world.close());

describe('with unknownCredentials: verify', () => {
  const byNamespace = { byNamespace: true };

  it('an unknown credential is tried upstream, where the request names the upstream', async () => {
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

  it('an unknown one gets nothing by what it proved while it stood in a Secret; nor is that lost', async () => {
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
    await world.prove(NGINX, HUB_A, 'ended');
    expect(await pulled(await world.as(HUB_A, byNamespace))).toMatchObject({ proved: false });
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ id: 'tenant:team-a', proved: true });
  });

  it('so is that of a token, which is good only for such requests', async () => {
    await open({ unknownCredentials: 'verify' });
    const { token } = await tokenOf(world, HUB_A, 'repository:docker.io/library/nginx:pull');
    expect(await pulled(await withToken(world, token, byNamespace))).toMatchObject({ tried: ['hub-a'] });
    expect(await pulled(await withToken(world, token))).toBe('UNAUTHORIZED');
  });

  it('user names and tokens of ours never go upstream', async () => {
    await open({ unknownCredentials: 'verify', configured: { 'team-a': {} } });
    const jwt = 'eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln';
    for (const ours of [
      ['team-a', 'mistyped'],
      ['anybody', jwt],
    ] as const) {
      expect(await pulled(await world.as(ours, byNamespace))).toBe('UNAUTHORIZED');
    }
  });

  it('who tries many from one address has to wait, and nobody else', async () => {
    await open({ unknownCredentials: 'verify' });
    const attempts = Array.from({ length: 30 }, (_, at) => world.as(['u', `guess ${at}`], byNamespace));
    const refused = (await Promise.allSettled(attempts)).filter(({ status }) => status === 'rejected');
    expect(refused.length).toBe(10);
    expect(refused[0]).toMatchObject({ reason: { code: 'TOOMANYREQUESTS' } });
    expect(await pulled(await world.as(HUB_A, { ...byNamespace, remote: '192.0.2.2' }))).toMatchObject({
      tried: ['hub-a'],
    });
  });
});

describe('a Kubernetes service account', () => {
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

  it('that is deleted is nobody at once, and so are the tokens that it had got here', async () => {
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

  it('that was refused a moment ago is looked at again as soon as accounts have changed', async () => {
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

  it('of a namespace that is no tenant, and one whose token does not verify, is refused', async () => {
    await open({ accounts: { [token]: { namespace: 'team-z', name: 'default', uid: 'u-1' } } });
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await pulled(await world.as(['x', token]))).toBe('UNAUTHORIZED');
    expect(await pulled(await world.as(['x', `${token}x`]))).toBe('UNAUTHORIZED');
  });
});
