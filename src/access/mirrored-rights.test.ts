import { afterEach, describe, expect, it } from 'vitest';
import { AccessWorld, type AccessWorldOptions, named, SERVER } from '../../test/support/access-world.ts';
import { OciError } from '../oci/errors.ts';
import { ANONYMOUSLY, APP, HUB_A, HUB_B, NGINX, OURS, pulled, withToken } from './access.fixture.ts';
import { tenantGrantee } from '../grants/grants.ts';
import type { Subject } from './subject.ts';

let world: AccessWorld;

async function open(options: AccessWorldOptions = {}): Promise<void> {
  world = await AccessWorld.open(options);
}

afterEach(() => world.close());

describe('the verification policy', () => {
  it('opens to everybody what was imported for everybody, and nothing else', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await preloadedFor(undefined)).toEqual(['']);
    await world.prove(NGINX, HUB_A);
    expect(await preloadedFor(undefined)).toEqual(['']);
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: false });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ proved: true });
    // That it is public, upstream says itself.
    await world.prove(NGINX, undefined);
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: true });
  });

  it('AlwaysVerify verifies even what was imported; NeverVerify verifies nothing', async () => {
    await open({ policy: 'AlwaysVerify' });
    expect(await preloadedFor(undefined)).toEqual([]);
    await world.close();
    await open({ policy: 'NeverVerify' });
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: true });
  });

  it('NeverVerifyAllowlistedImages opens the images on the list', async () => {
    await open({ policy: 'NeverVerifyAllowlistedImages', allowlist: ['docker.io/library/*'] });
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: true });
    expect(await pulled(await world.as(undefined), APP)).toMatchObject({ proved: false });
  });

  it('opens what was imported for a tenant to that tenant, however it logged in, and to nobody else', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A, [SERVER]: OURS });
    await world.put('team-b', { 'docker.io': HUB_B });
    for (const login of [HUB_A, OURS]) {
      expect(await preloadedFor(login)).toEqual(['', tenantGrantee('team-a')]);
    }
    expect(await preloadedFor(HUB_B)).toEqual(['', tenantGrantee('team-b')]);
    expect(await preloadedFor(undefined)).toEqual(['']);
  });
});

it('opens what upstream serves anonymously to everybody, whatever they logged in with', async () => {
  await open();
  await world.put('team-a', { [SERVER]: OURS, 'docker.io': HUB_A });
  await world.prove(NGINX, undefined);
  for (const login of [undefined, OURS, HUB_A]) {
    expect(await pulled(await world.as(login))).toMatchObject({ proved: true });
    expect(await pulled(await world.as(login), APP)).toMatchObject({ proved: false });
  }
});

it('what was read of the Secrets of a tenant while they changed is used once, and not remembered', async () => {
  await open();
  // At whatever moment of the reading they change.
  for (let turns = 0; turns < 20; turns += 1) {
    await world.put('team-a', { [SERVER]: OURS, 'docker.io': HUB_A });
    const subject = await world.as(OURS);
    const reading = pulled(subject);
    for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
    await world.put('team-a', { [SERVER]: OURS, 'docker.io': HUB_B });
    await reading;
    expect(await pulled(subject), `after ${turns} turns`).toMatchObject({ tried: [HUB_B[0]] });
  }
});

it('a credential that several tenants have works even if the Secrets of another of them cannot be read', async () => {
  await open();
  const broken = 'team-a';
  await world.break(broken, { 'docker.io': HUB_A });
  await world.put('team-b', { 'docker.io': HUB_A });
  // As after a restart: nobody has sent the password that the token stands for.
  const { token } = await world.tokens.issue({
    kind: 'credential',
    credentialId: named(HUB_A).id,
    access: [{ type: 'repository', name: 'docker.io/library/nginx', actions: ['pull'] }],
  });
  expect(await pulled(await withToken(world, token))).toMatchObject({ tried: ['hub-a'] });
  await world.put('team-b', {});
  expect(await pulled(await withToken(world, token))).toBe('UNAVAILABLE');
});

it('none of several tenants with a credential learns of the Secrets of another', async () => {
  await open();
  for (const tenant of ['team-a', 'team-b']) await world.break(tenant, { 'docker.io': HUB_A });
  const { token } = await world.tokens.issue({
    kind: 'credential',
    credentialId: named(HUB_A).id,
    access: [{ type: 'repository', name: 'docker.io/library/nginx', actions: ['pull'] }],
  });
  const subject = await withToken(world, token);
  const refused = await subject.authorize(NGINX, 'pull').catch((error: unknown) => error);
  if (!(refused instanceof OciError)) throw new Error('expected a refusal');
  expect(refused.code).toBe('UNAVAILABLE');
  expect(refused.message).not.toMatch(/team-[ab]/);
});

it('a tenant may pull only from its upstreams and repositories', async () => {
  await open({
    configured: {
      'team-a': { upstreams: ['docker.io'] },
      'team-b': { repositories: ['docker.io/library/*'] },
    },
  });
  for (const [tenant, login] of [
    ['team-a', HUB_A],
    ['team-b', HUB_B],
  ] as const) {
    await world.put(tenant, { 'docker.io': login, 'ghcr.io': login });
    const subject = await world.as(login);
    expect(await pulled(subject)).toMatchObject({ id: `tenant:${tenant}` });
    expect(await pulled(subject, APP)).toBe('DENIED');
  }
});

describe("an upstream's own credential", () => {
  const own = named(['owner', 'owner-password']);

  it('serves tenants that logged in here, after their own credentials, but not clients with an upstream credential', async () => {
    await open({ rule: { credential: own } });
    await world.put('team-a', { [SERVER]: OURS, 'docker.io': HUB_A });
    expect(await pulled(await world.as(OURS))).toMatchObject({ tried: ['hub-a', 'owner'] });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ tried: ['hub-a'] });
    expect(await pulled(await world.as(undefined))).toMatchObject(ANONYMOUSLY);
  });

  it('fetches public content for everybody and, with openToAll, everything', async () => {
    await open({ rule: { credential: own } });
    await world.prove(NGINX, undefined);
    expect(await pulled(await world.as(undefined))).toEqual({
      id: 'anonymous',
      tried: ['owner', undefined],
      proved: true,
    });
    await world.close();
    await open({ rule: { credential: own, openToAll: true } });
    expect(await pulled(await world.as(undefined))).toMatchObject({ tried: ['owner'] });
  });

  it('is followed by an anonymous attempt with anonymousFallback', async () => {
    await open({ rule: { anonymousFallback: true } });
    await world.put('team-a', { [SERVER]: OURS, 'docker.io': HUB_A });
    expect(await pulled(await world.as(OURS))).toMatchObject({ tried: ['hub-a', undefined] });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ tried: ['hub-a', undefined] });
  });
});

describe('a refusal by upstream', () => {
  it('becomes a challenge for an anonymous client, unless the repository is known to be public', async () => {
    await open({ configured: { 'team-a': {} } });
    expect(await unknown(await world.as(undefined))).toBe('UNAUTHORIZED');
    await world.prove(NGINX, undefined);
    expect(await unknown(await world.as(undefined))).toBe('MANIFEST_UNKNOWN');
  });

  it('is passed on to a client that has logged in', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await unknown(await world.as(HUB_A))).toBe('MANIFEST_UNKNOWN');
  });
});

/** Whose imports this login may read. */
async function preloadedFor(login: Parameters<AccessWorld['as']>[0]): Promise<readonly string[] | undefined> {
  return (await (await world.as(login)).authorize(NGINX, 'pull')).preloadedFor;
}

/** What a client hears when upstream does not know, or does not say, what it asked for. */
async function unknown(subject: Subject): Promise<string> {
  return (await subject.refusal(new OciError('MANIFEST_UNKNOWN'), NGINX, 'pull', false)).code;
}
