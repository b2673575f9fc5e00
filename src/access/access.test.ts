import { OciError } from '../oci/errors.ts';
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  AccessWorld,
  type AccessWorldOptions,
  named,
  SENDER,
  SERVER,
} from '../../test/support/access-world.ts';
import {
  ANONYMOUSLY,
  APP,
  HOSTED,
  HUB_A,
  HUB_B,
  NGINX,
  OURS,
  pulled,
  tokenOf,
  withToken,
} from './access.fixture.ts';

let world: AccessWorld;

async function open(options: AccessWorldOptions = {}): Promise<void> {
  world = await AccessWorld.open(options);
}

afterEach(() => world.close());

it('a right says from which address it is used, for turns among many who are the same requester', async () => {
  await open({ configured: { 'team-a': {} } });
  for (const remote of ['192.0.2.7', '2001:db8:1:2::7']) {
    const subject = await world.access.authenticate({ ...SENDER, remote });
    expect((await subject.authorize(NGINX, 'pull')).requester).toMatchObject({ id: 'anonymous', remote });
  }
});

describe('a token', () => {
  it('is bound to the credential that it was issued for, so that weak ones gain nothing from strong ones', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A, 'docker.io/library': HUB_B });
    await world.prove(NGINX, HUB_A);
    const scope = 'repository:docker.io/library/nginx:pull';
    expect(await pulled(await withToken(world, (await tokenOf(world, HUB_A, scope)).token))).toMatchObject({
      tried: ['hub-a'],
      proved: true,
    });
    expect(await pulled(await withToken(world, (await tokenOf(world, HUB_B, scope)).token))).toMatchObject({
      tried: ['hub-b'],
      proved: false,
    });
  });

  it('ends with its Secret, after five minutes, and at the limits of its scope', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A, [SERVER]: OURS });
    const { token } = await tokenOf(world, HUB_A, 'repository:docker.io/library/nginx:pull');
    expect(await pulled(await withToken(world, token))).toMatchObject({ tried: ['hub-a'] });
    const other = (await withToken(world, token)).authorize(APP, 'pull');
    await expect(other).rejects.toMatchObject({
      headers: { 'WWW-Authenticate': expect.stringContaining('error="insufficient_scope"') },
    });
    world.clock.nowMs += 301_000;
    await expect((await withToken(world, token)).authorize(NGINX, 'pull')).rejects.toMatchObject({
      headers: { 'WWW-Authenticate': expect.stringContaining('error="invalid_token"') },
    });
    const fresh = await tokenOf(world, HUB_A, 'repository:docker.io/library/nginx:pull');
    await world.put('team-a', { [SERVER]: OURS });
    expect(await pulled(await withToken(world, fresh.token))).toBe('UNAUTHORIZED');
  });

  it('is bound to the tenant that it was issued for, even if its Secret has moved to another', async () => {
    await open();
    await world.put('team-a', { [SERVER]: OURS });
    await world.put('team-b', {});
    const { token } = await tokenOf(world, OURS, 'repository:docker.io/library/nginx:pull');
    expect(await pulled(await withToken(world, token))).toMatchObject({ id: 'tenant:team-a' });
    await world.put('team-a', {});
    await world.put('team-b', { [SERVER]: OURS });
    expect(await pulled(await world.as(OURS))).toMatchObject({ id: 'tenant:team-b' });
    expect(await pulled(await withToken(world, token))).toBe('UNAUTHORIZED');
  });

  it('gives anonymous clients what anybody may have; unknown scopes are dropped', async () => {
    await open();
    await world.put('team-a', { [SERVER]: OURS });
    const scopes =
      'repository:docker.io/library/nginx:pull,push repository:library/nginx:pull repository:team-a/app:pull x';
    const { token, access } = await tokenOf(world, undefined, scopes);
    expect(access).toEqual([
      { type: 'repository', name: 'docker.io/library/nginx', actions: ['pull', 'push'] },
    ]);
    expect(await pulled(await withToken(world, token))).toMatchObject(ANONYMOUSLY);
  });

  it('for pushing to a mirror tells that it can only be pulled, also if a look at it before fails', async () => {
    await open();
    await world.put('team-a', { [SERVER]: OURS });
    for (const login of [undefined, OURS]) {
      const toPush = await withToken(
        world,
        (await tokenOf(world, login, 'repository:ghcr.io/org/app:pull,push')).token,
      );
      const toPull = await withToken(
        world,
        (await tokenOf(world, login, 'repository:ghcr.io/org/app:pull repository:team-a/app:pull,push'))
          .token,
      );
      const refused = { code: 'UNSUPPORTED', message: expect.stringContaining('can only be pulled') };
      await expect(toPush.authorize(APP, 'push')).rejects.toMatchObject(refused);
      const [away, unknown] = [new OciError('UNAVAILABLE'), new OciError('BLOB_UNKNOWN')];
      expect(await toPush.refusal(away, APP, 'pull', true)).toMatchObject(refused);
      // A client that gets 404 goes on to upload, and is refused then.
      expect(await toPush.refusal(unknown, APP, 'pull', true)).not.toMatchObject(refused);
      expect(await toPush.refusal(away, APP, 'pull', false)).toBe(away);
      expect(await toPull.refusal(away, APP, 'pull', true)).toBe(away);
    }
  });

  it('is valid for this registry only', async () => {
    await open({ configured: { 'team-a': {} } });
    const asked = world.access.login(SENDER, {
      password: undefined,
      service: 'other',
      scopes: [],
      resolve: () => undefined,
    });
    await expect(asked).rejects.toMatchObject({ code: 'QUERY_INVALID' });
  });
});

describe('the last use of a credential', () => {
  it('of one for this registry is recorded when a client logs in with it, and with each request', async () => {
    await open();
    await world.put('team-a', { [SERVER]: OURS, 'docker.io': HUB_A });
    await world.issuer.addTenant('team-b');
    const issued = await world.issuer.issue({ tenant: 'team-b', server: SERVER, readOnly: false });
    await world.tenants.reload();
    const ours = named(OURS).id;
    expect([ours, issued.id].map(id => world.tenants.lastUsedAtMs(id))).toEqual([undefined, undefined]);
    const { requester } = await tokenOf(world, OURS, '');
    expect(requester).toMatchObject({ tenant: 'team-a', id: 'tenant:team-a', credentialId: ours });
    expect(world.tenants.lastUsedAtMs(ours)).toEqual(expect.any(Number));
    await (await world.as([issued.username, issued.password])).authorize(
      { upstream: '', name: 'team-b/app' },
      'push',
    );
    expect(world.tenants.lastUsedAtMs(issued.id)).toEqual(expect.any(Number));
  });

  it('is not a request with a token that does not cover it', async () => {
    await open();
    await world.put('team-a', { [SERVER]: OURS });
    const { token } = await tokenOf(world, OURS, '');
    const noted = vi.spyOn(world.tenants, 'noteOutcome');
    await expect((await withToken(world, token)).authorize(HOSTED, 'pull')).rejects.toMatchObject({
      code: 'UNAUTHORIZED',
    });
    expect(noted).not.toHaveBeenCalled();
  });

  it('of one for an upstream is recorded when upstream accepts it', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A });
    await pulled(await withToken(world, (await tokenOf(world, HUB_A, '')).token));
    await pulled(await world.as(HUB_A));
    expect(world.tenants.lastUsedAtMs(named(HUB_A).id)).toBeUndefined();
  });
});
