import { afterEach, describe, expect, it } from 'vitest';
import { AccessWorld, type AccessWorldOptions, named, SERVER } from '../../test/support/access-world.ts';
import type { Login } from '../../test/support/tenants.ts';
import { KeptLog } from '../http/server.fixture.ts';
import { parsePlatform } from '../oci/platform.ts';
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

const ARM64 = parsePlatform('linux/arm64');

let world: AccessWorld;

async function open(options: AccessWorldOptions = {}): Promise<void> {
  world = await AccessWorld.open(options);
}

afterEach(() => world.close());

describe('a credential', () => {
  it('for an upstream means its tenant for images of that upstream only', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A, 'ghcr.io': HUB_B });
    const subject = await world.as(HUB_A);
    expect(await pulled(subject)).toEqual({ id: 'tenant:team-a', tried: ['hub-a'], proved: false });
    // Elsewhere it says nothing: what is public, it may have as anybody.
    expect(await pulled(subject, APP)).toMatchObject({ tried: [undefined] });
    await expect(subject.authorize(HOSTED, 'pull')).rejects.toMatchObject({ code: 'NAME_UNKNOWN' });
  });

  it("for this registry has the tenant's whole keyring, in the kubelet's order", async () => {
    await open();
    await world.put('team-a', { [SERVER]: OURS, 'docker.io': HUB_A, 'docker.io/library': HUB_B });
    const subject = await world.as(OURS);
    expect(await pulled(subject)).toEqual({ id: 'tenant:team-a', tried: ['hub-b', 'hub-a'], proved: false });
    expect(await pulled(subject, APP)).toEqual({ id: 'tenant:team-a', tried: [undefined], proved: false });
    expect(await pulled(subject, HOSTED)).toMatchObject({ id: 'tenant:team-a', proved: true });
  });

  it('for a path of this registry is limited to whole components below it', async () => {
    await open();
    await world.put('team-a', { [`${SERVER}/team-a`]: OURS });
    const subject = await world.as(OURS);
    expect(await pulled(subject, HOSTED)).toMatchObject({ id: 'tenant:team-a' });
    await expect(subject.authorize({ upstream: '', name: 'team-abc/app' }, 'pull')).rejects.toMatchObject({
      code: 'NAME_UNKNOWN',
    });
    await world.put('team-a', { [`${SERVER}/team-a/app`]: OURS });
    const bounded = await world.as(OURS);
    expect(await pulled(bounded, HOSTED)).toMatchObject({ id: 'tenant:team-a' });
    expect(await pulled(bounded, { upstream: '', name: 'team-a/apple' })).toBe('NAME_UNKNOWN');
    expect(await pulled(subject)).toMatchObject({ tried: [undefined] });
  });

  it("for this registry in two tenants' Secrets means nobody, which is logged once", async () => {
    const log = new KeptLog();
    await open({ log });
    await world.put('team-a', { [SERVER]: OURS });
    await world.put('team-b', { [`${SERVER}/x`]: OURS });
    const subject = await world.as(OURS);
    expect(await pulled(subject)).toBe('UNAUTHORIZED');
    expect(await pulled(subject, HOSTED)).toBe('UNAUTHORIZED');
    expect(log.lines.filter(({ message }) => message.includes('several tenants'))).toHaveLength(1);
    await world.remove('team-b');
    expect(await pulled(await world.as(OURS), HOSTED)).toMatchObject({ id: 'tenant:team-a' });
  });

  it('that was issued belongs to its tenant wherever copies of it are, and only for what it was issued for', async () => {
    await open({ configured: { 'team-a': {}, 'team-b': {} } });
    const { username, password } = await world.issuer.issue({
      tenant: 'team-a',
      server: `${SERVER}/team-a`,
      readOnly: true,
    });
    const issued: Login = [username, password];
    await until(async () => world.tenants.holders(named(issued).id).length > 0);
    await world.put('team-b', { [SERVER]: issued, 'docker.io': issued });
    await world.put('team-a', { [SERVER]: issued });
    const subject = await world.as(issued);
    expect(await pulled(subject, HOSTED)).toMatchObject({ id: 'tenant:team-a' });
    await expect(subject.authorize(HOSTED, 'push')).rejects.toMatchObject({ code: 'DENIED' });
    // Its copy without the path does not widen it, and upstream never sees it.
    const elsewhere = { id: expect.stringMatching(/^credential:/), tried: [undefined] };
    expect(await pulled(subject)).toMatchObject(elsewhere);
    await expect(subject.authorize({ upstream: '', name: 'team-b/app' }, 'pull')).rejects.toMatchObject({
      code: 'NAME_UNKNOWN',
    });
  });

  it('for an upstream that several tenants have gets the strictest of their rules', async () => {
    await open({
      configured: {
        'team-a': { pullPolicy: 'IfNotPresent', repositories: ['docker.io/**'], maxTransfers: 2 },
        'team-b': { pullPolicy: 'Always', forceAlways: true, maxTransfers: 5, platforms: [ARM64] },
      },
    });
    for (const tenant of ['team-a', 'team-b'])
      await world.put(tenant, { 'docker.io': HUB_A, 'ghcr.io': HUB_A });
    const subject = await world.as(HUB_A);
    expect(await subject.authorize(NGINX, 'pull')).toMatchObject({
      pullPolicy: 'Always',
      platforms: [ARM64],
      forceAlways: true,
      requester: { maxTransfers: 2 },
    });
    expect(await pulled(subject, APP)).toBe('NAME_UNKNOWN');
  });

  it('for Docker Hub is found under the key that Docker writes', async () => {
    await open();
    await world.put('team-a', { 'https://index.docker.io/v1/': HUB_A });
    expect(await pulled(await world.as(HUB_A))).toEqual({
      id: 'tenant:team-a',
      tried: ['hub-a'],
      proved: false,
    });
  });

  it('with an empty user name or password means nobody, even if a Secret contains it', async () => {
    await open();
    await world.put('team-a', { 'docker.io': ['', ''], [SERVER]: ['robot', ''] });
    for (const empty of [
      ['', ''],
      ['robot', ''],
      ['', 'x'],
    ] as const) {
      expect(await pulled(await world.as(empty))).toMatchObject(ANONYMOUSLY);
      await expect((await world.as(empty)).authorize(HOSTED, 'pull')).rejects.toMatchObject({
        code: 'UNAUTHORIZED',
      });
    }
  });

  it('that is removed from its Secret loses what it proved, for good', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A });
    await world.prove(NGINX, HUB_A);
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ proved: true });
    await world.put('team-a', { [SERVER]: OURS });
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ tried: ['hub-a'], proved: false });
  });

  it('differs from one whose user name and password concatenate to the same text', async () => {
    await open();
    await world.put('team-a', { [SERVER]: ['robot', 'x-password'] });
    expect(await pulled(await world.as(['robot', 'x-password']))).toMatchObject({ id: 'tenant:team-a' });
    expect(await pulled(await world.as(['robotx', '-password']))).toBe('UNAUTHORIZED');
  });

  it('that is unknown is refused, but counts as anonymous on a port where Docker sends its Hub login unasked', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await pulled(await world.as(HUB_B))).toBe('UNAUTHORIZED');
    await expect(tokenOf(world, HUB_B, 'repository:docker.io/library/nginx:pull')).rejects.toMatchObject({
      code: 'UNAUTHORIZED',
    });
    const bound = { upstreamListener: 'docker.io' };
    expect(await pulled(await world.as(HUB_B, bound))).toMatchObject(ANONYMOUSLY);
    const { token } = await tokenOf(world, HUB_B, 'repository:docker.io/library/nginx:pull', bound);
    expect(await pulled(await withToken(world, token, bound))).toMatchObject(ANONYMOUSLY);
  });

  it('that was wrong a moment ago is accepted as soon as a Secret has it', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_B });
    expect(await pulled(await world.as(HUB_A))).toBe('UNAUTHORIZED');
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ tried: ['hub-a'] });
    expect(await pulled(await world.as(HUB_B))).toBe('UNAUTHORIZED');
  });
});

async function until(check: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 200; tries += 1) {
    if (await check()) return;
    await new Promise(resolve => setTimeout(resolve, 25));
  }
  throw new Error('it never came true');
}
