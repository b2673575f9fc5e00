import { afterEach, describe, expect, it } from 'vitest';
import {
  AccessWorld,
  type AccessWorldOptions,
  named,
  SENDER,
  SERVER,
} from '../../test/support/access-world.ts';
import { basic, type Login } from '../../test/support/tenants.ts';
import { KeptLog } from '../http/fixture.suite.ts';
import { ANONYMOUS_ID } from '../oci/credential.ts';
import { OciError } from '../oci/errors.ts';
import type { Requester, Right } from '../oci/requester.ts';
import type { ServiceAccount } from './door.ts';
import { tenantGrantId } from './grants.ts';
import { parseScopes } from './scope.ts';
import type { Visitor } from './visitor.ts';

const HUB_A: Login = ['hub-a', 'hub-a-password'];
const HUB_B: Login = ['hub-b', 'hub-b-password'];
const OURS: Login = ['robot', 'robot-password'];
const NGINX = { upstream: 'docker.io', name: 'library/nginx' };
const APP = { upstream: 'ghcr.io', name: 'org/app' };
const HOSTED = { upstream: '', name: 'team-a/app' };
const HOUR_MS = 3_600_000;

let world: AccessWorld;

async function open(options: AccessWorldOptions = {}): Promise<void> {
  world = await AccessWorld.open(options);
}

afterEach(() => world.close());

/** What somebody may pull, as far as the tests look at it; or the code of the refusal. */
async function pulled(visitor: Visitor, repository = NGINX): Promise<unknown> {
  try {
    return summary(await visitor.authorize(repository, 'pull'));
  } catch (error) {
    return error instanceof OciError ? error.code : error;
  }
}

function summary({ requester, credentials, proved }: Right): object {
  return { id: requester.id, tried: credentials.map(credential => credential?.username), proved };
}

const anonymous = { id: 'anonymous', tried: [undefined] };

async function tokenOf(login: Login | undefined, scope: string, sender = {}) {
  return world.access.login(
    { ...SENDER, ...(login === undefined ? {} : basic(login)), ...sender },
    {
      password: undefined,
      service: SERVER,
      scopes: parseScopes([scope]),
      resolve: name => {
        const [first = '', ...rest] = name.split('/');
        if (first === 'team-a' || first === 'team-b') return { upstream: '', name };
        return rest.length > 0 && first.includes('.') ? { upstream: first, name: rest.join('/') } : undefined;
      },
    },
  );
}

const withToken = (token: string, sender = {}) =>
  world.access.authenticate({ ...SENDER, ...sender, authorization: `Bearer ${token}` });

describe('a credential', () => {
  it('for an upstream means its tenant where images of that upstream are asked for, and acts there alone', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A, 'ghcr.io': HUB_B });
    const visitor = await world.as(HUB_A);
    expect(await pulled(visitor)).toEqual({ id: 'tenant:team-a', tried: ['hub-a'], proved: false });
    // Elsewhere it says nothing: what is public, it may have as anybody.
    expect(await pulled(visitor, APP)).toMatchObject({ tried: [undefined] });
    await expect(visitor.authorize(HOSTED, 'pull')).rejects.toMatchObject({ code: 'NAME_UNKNOWN' });
  });

  it("for this registry has the tenant's whole keyring, in the kubelet's order", async () => {
    await open();
    await world.put('team-a', { [SERVER]: OURS, 'docker.io': HUB_A, 'docker.io/library': HUB_B });
    const visitor = await world.as(OURS);
    expect(await pulled(visitor)).toEqual({ id: 'tenant:team-a', tried: ['hub-b', 'hub-a'], proved: false });
    expect(await pulled(visitor, APP)).toEqual({ id: 'tenant:team-a', tried: [undefined], proved: false });
    expect(await pulled(visitor, HOSTED)).toMatchObject({ id: 'tenant:team-a', proved: true });
  });

  it('for a path of this registry is bound to it by whole components', async () => {
    await open();
    await world.put('team-a', { [`${SERVER}/team-a`]: OURS });
    const visitor = await world.as(OURS);
    expect(await pulled(visitor, HOSTED)).toMatchObject({ id: 'tenant:team-a' });
    await expect(visitor.authorize({ upstream: '', name: 'team-abc/app' }, 'pull')).rejects.toMatchObject({
      code: 'NAME_UNKNOWN',
    });
    expect(await pulled(visitor)).toMatchObject({ tried: [undefined] });
  });

  it("that stands in two tenants' Secrets for this registry is nobody's, and the log says so once", async () => {
    const log = new KeptLog();
    await open({ log });
    await world.put('team-a', { [SERVER]: OURS });
    await world.put('team-b', { [`${SERVER}/x`]: OURS });
    const visitor = await world.as(OURS);
    expect(await pulled(visitor)).toBe('UNAUTHORIZED');
    expect(await pulled(visitor, HOSTED)).toBe('UNAUTHORIZED');
    expect(log.lines.filter(({ message }) => message.includes('several tenants'))).toHaveLength(1);
    await world.remove('team-b');
    expect(await pulled(await world.as(OURS), HOSTED)).toMatchObject({ id: 'tenant:team-a' });
  });

  it("that was issued is its tenant's wherever copies lie, and no more than it was issued for", async () => {
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
    const visitor = await world.as(issued);
    expect(await pulled(visitor, HOSTED)).toMatchObject({ id: 'tenant:team-a' });
    await expect(visitor.authorize(HOSTED, 'push')).rejects.toMatchObject({ code: 'DENIED' });
    // Its copy without the path does not widen it, and upstream never sees it.
    expect(await pulled(visitor)).toMatchObject({ tried: [undefined] });
    await expect(visitor.authorize({ upstream: '', name: 'team-b/app' }, 'pull')).rejects.toMatchObject({
      code: 'NAME_UNKNOWN',
    });
  });

  it('that several tenants hold for an upstream gets the strictest of their rules', async () => {
    await open({
      configured: {
        'team-a': { pullPolicy: 'IfNotPresent', repositories: ['docker.io/**'] },
        'team-b': { pullPolicy: 'Always', forceAlways: true },
      },
    });
    for (const tenant of ['team-a', 'team-b'])
      await world.put(tenant, { 'docker.io': HUB_A, 'ghcr.io': HUB_A });
    const visitor = await world.as(HUB_A);
    expect(await visitor.authorize(NGINX, 'pull')).toMatchObject({ pullPolicy: 'Always', forceAlways: true });
    expect(await pulled(visitor, APP)).toBe('NAME_UNKNOWN');
  });

  it('of Docker Hub is found under the key that Docker itself writes', async () => {
    await open();
    await world.put('team-a', { 'https://index.docker.io/v1/': HUB_A });
    expect(await pulled(await world.as(HUB_A))).toEqual({
      id: 'tenant:team-a',
      tried: ['hub-a'],
      proved: false,
    });
  });

  it('with an empty user name or password is nobody, even when a Secret holds just that', async () => {
    await open();
    await world.put('team-a', { 'docker.io': ['', ''], [SERVER]: ['robot', ''] });
    for (const empty of [
      ['', ''],
      ['robot', ''],
      ['', 'x'],
    ] as const) {
      expect(await pulled(await world.as(empty))).toMatchObject(anonymous);
      await expect((await world.as(empty)).authorize(HOSTED, 'pull')).rejects.toMatchObject({
        code: 'UNAUTHORIZED',
      });
    }
  });

  it('that is unknown is refused, but anonymous where Docker sends its Hub login by itself', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await pulled(await world.as(HUB_B))).toBe('UNAUTHORIZED');
    await expect(tokenOf(HUB_B, 'repository:docker.io/library/nginx:pull')).rejects.toMatchObject({
      code: 'UNAUTHORIZED',
    });
    const bound = { upstreamListener: 'docker.io' };
    expect(await pulled(await world.as(HUB_B, bound))).toMatchObject(anonymous);
    const { token } = await tokenOf(HUB_B, 'repository:docker.io/library/nginx:pull', bound);
    expect(await pulled(await withToken(token, bound))).toMatchObject(anonymous);
  });

  it('that was wrong a moment ago counts as soon as a Secret holds it', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_B });
    expect(await pulled(await world.as(HUB_A))).toBe('UNAUTHORIZED');
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ tried: ['hub-a'] });
    expect(await pulled(await world.as(HUB_B))).toBe('UNAUTHORIZED');
  });
});

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

  it('so is that of a token, which is good only for such requests', async () => {
    await open({ unknownCredentials: 'verify' });
    const { token } = await tokenOf(HUB_A, 'repository:docker.io/library/nginx:pull');
    expect(await pulled(await withToken(token, byNamespace))).toMatchObject({ tried: ['hub-a'] });
    expect(await pulled(await withToken(token))).toBe('UNAUTHORIZED');
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
    await world.put('team-a', { 'docker.io': HUB_A });
    const login: Login = ['serviceaccount', token];
    expect(await pulled(await world.as(login))).toEqual({
      id: 'tenant:team-a',
      tried: ['hub-a'],
      proved: false,
    });
    const issued = await tokenOf(login, 'repository:team-a/app:pull,push');
    expect(issued.access).toEqual([{ type: 'repository', name: 'team-a/app', actions: ['pull', 'push'] }]);
    const right: { requester: Requester } = await (await withToken(issued.token)).authorize(HOSTED, 'push');
    expect(right.requester).toMatchObject({ tenant: 'team-a', credentialId: 'account:u-1' });
  });

  it('that is deleted is nobody at once, and so are the tokens that it had got here', async () => {
    const accounts: Record<string, ServiceAccount> = {
      [token]: { namespace: 'team-a', name: 'default', uid: 'u-1' },
    };
    await open({ accounts });
    await world.put('team-a', { 'docker.io': HUB_A });
    const login: Login = ['serviceaccount', token];
    const issued = await tokenOf(login, 'repository:team-a/app:pull');
    await expect((await withToken(issued.token)).authorize(HOSTED, 'pull')).resolves.toBeDefined();
    Reflect.deleteProperty(accounts, token);
    expect(await pulled(await world.as(login))).toBe('UNAUTHORIZED');
    await expect((await withToken(issued.token)).authorize(HOSTED, 'pull')).rejects.toMatchObject({
      code: 'UNAUTHORIZED',
    });
  });

  it('of a namespace that is no tenant, and one whose token does not verify, is refused', async () => {
    await open({ accounts: { [token]: { namespace: 'team-z', name: 'default', uid: 'u-1' } } });
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await pulled(await world.as(['x', token]))).toBe('UNAUTHORIZED');
    expect(await pulled(await world.as(['x', `${token}x`]))).toBe('UNAUTHORIZED');
  });
});

describe('a token', () => {
  it('is bound to the credential that it was got with: weak ones do not borrow from strong ones', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A, 'docker.io/library': HUB_B });
    await world.prove(NGINX, HUB_A);
    const scope = 'repository:docker.io/library/nginx:pull';
    expect(await pulled(await withToken((await tokenOf(HUB_A, scope)).token))).toMatchObject({
      tried: ['hub-a'],
      proved: true,
    });
    expect(await pulled(await withToken((await tokenOf(HUB_B, scope)).token))).toMatchObject({
      tried: ['hub-b'],
      proved: false,
    });
  });

  it('ends with its Secret, with its five minutes, and with its scope', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A, [SERVER]: OURS });
    const { token } = await tokenOf(HUB_A, 'repository:docker.io/library/nginx:pull');
    expect(await pulled(await withToken(token))).toMatchObject({ tried: ['hub-a'] });
    const other = (await withToken(token)).authorize(APP, 'pull');
    await expect(other).rejects.toMatchObject({
      headers: { 'WWW-Authenticate': expect.stringContaining('error="insufficient_scope"') },
    });
    world.clock.nowMs += 301_000;
    await expect((await withToken(token)).authorize(NGINX, 'pull')).rejects.toMatchObject({
      headers: { 'WWW-Authenticate': expect.stringContaining('error="invalid_token"') },
    });
    const fresh = await tokenOf(HUB_A, 'repository:docker.io/library/nginx:pull');
    await world.put('team-a', { [SERVER]: OURS });
    expect(await pulled(await withToken(fresh.token))).toBe('UNAUTHORIZED');
  });

  it('of nobody gets what anybody may, and nothing more; unknown scopes are left out', async () => {
    await open();
    await world.put('team-a', { [SERVER]: OURS });
    const scopes =
      'repository:docker.io/library/nginx:pull,push repository:library/nginx:pull repository:team-a/app:pull x';
    const { token, access } = await tokenOf(undefined, scopes);
    expect(access).toEqual([{ type: 'repository', name: 'docker.io/library/nginx', actions: ['pull'] }]);
    expect(await pulled(await withToken(token))).toMatchObject(anonymous);
  });

  it('is made for this registry alone', async () => {
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

describe('a challenge', () => {
  it('is never sent over plain HTTP beyond loopback; the log says why, and all is as if nobody could log in', async () => {
    const log = new KeptLog();
    await open({ log, configured: { 'team-a': {} } });
    const plain = { secure: false, loopback: false };
    await (await world.as(undefined, plain)).admit();
    await expect((await world.as(undefined, plain)).authorize(HOSTED, 'pull')).rejects.toMatchObject({
      status: 404,
    });
    await expect((await world.as(HUB_A, plain)).authorize(NGINX, 'pull')).rejects.toMatchObject({
      status: 404,
    });
    expect(log.lines.filter(({ message }) => message.includes('plain HTTP'))).toHaveLength(1);
    await expect((await world.as(undefined, { ...plain, loopback: true })).admit()).rejects.toMatchObject({
      headers: { 'WWW-Authenticate': `Bearer realm="http://${SERVER}/token",service="${SERVER}"` },
    });
  });

  it('is sent over plain HTTP where that is allowed', async () => {
    await open({ allowPlainCredentials: true, configured: { 'team-a': {} } });
    await expect((await world.as(undefined, { secure: false })).admit()).rejects.toMatchObject({
      status: 401,
    });
  });

  it('repeats no Host header that is none', async () => {
    await open({ configured: { 'team-a': {} } });
    for (const host of ['a"b', 'evil.example/x', undefined]) {
      const visitor = await world.as(undefined, { host });
      expect(await visitor.admit()).toBeUndefined();
    }
  });

  it('is not there while nobody can log in, and what is sent is not looked at', async () => {
    await open();
    const visitor = await world.as(HUB_A);
    await visitor.admit();
    expect(await pulled(visitor)).toMatchObject(anonymous);
    await expect(visitor.authorize(HOSTED, 'pull')).rejects.toMatchObject({ code: 'NAME_UNKNOWN' });
    await expect(tokenOf(undefined, '')).rejects.toMatchObject({ code: 'NAME_UNKNOWN' });
  });
});

describe('the verification policy', () => {
  it('gives what was imported for all to all, until somebody has pulled what may be private', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A });
    await imported(ANONYMOUS_ID);
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: true });
    await world.prove(NGINX, HUB_A);
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: false });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ proved: true });
    // That it is public, upstream says itself.
    await world.prove(NGINX, undefined);
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: true });
  });

  it('keeps an import whatever upstream says of it', async () => {
    await open();
    await imported(ANONYMOUS_ID);
    await world.prove(NGINX, undefined, 'ended');
    world.clock.nowMs += 1_000 * HOUR_MS;
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: true });
  });

  it('AlwaysVerify asks even for what was imported; NeverVerify for nothing', async () => {
    await open({ policy: 'AlwaysVerify' });
    await imported(ANONYMOUS_ID);
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: false });
    await world.close();
    await open({ policy: 'NeverVerify' });
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: true });
  });

  it('NeverVerifyAllowlistedImages opens what the list names', async () => {
    await open({ policy: 'NeverVerifyAllowlistedImages', allowlist: ['docker.io/library/*'] });
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: true });
    expect(await pulled(await world.as(undefined), APP)).toMatchObject({ proved: false });
  });

  it('gives what was imported for a tenant to that tenant, however it is known, and to nobody else', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A, [SERVER]: OURS });
    await world.put('team-b', { 'docker.io': HUB_B });
    await imported(tenantGrantId('team-a'));
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ proved: true });
    expect(await pulled(await world.as(OURS))).toMatchObject({ proved: true });
    expect(await pulled(await world.as(HUB_B))).toMatchObject({ proved: false });
    expect(await pulled(await world.as(undefined))).toMatchObject({ proved: false });
  });
});

describe("an upstream's own credential", () => {
  const own = named(['owner', 'owner-password']);

  it('serves tenants that logged in, after their own, but not who came with an upstream credential', async () => {
    await open({ rule: { credential: own } });
    await world.put('team-a', { [SERVER]: OURS, 'docker.io': HUB_A });
    expect(await pulled(await world.as(OURS))).toMatchObject({ tried: ['hub-a', 'owner'] });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ tried: ['hub-a'] });
    expect(await pulled(await world.as(undefined))).toMatchObject(anonymous);
  });

  it('fetches for all what is public, and with openToAll everything', async () => {
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

  it('is followed by an attempt without any where anonymousFallback says so', async () => {
    await open({ rule: { anonymousFallback: true } });
    await world.put('team-a', { [SERVER]: OURS, 'docker.io': HUB_A });
    expect(await pulled(await world.as(OURS))).toMatchObject({ tried: ['hub-a', undefined] });
    expect(await pulled(await world.as(HUB_A))).toMatchObject({ tried: ['hub-a', undefined] });
  });
});

describe('a refusal of upstream', () => {
  it('is a challenge for nobody in particular, unless the repository is known to be public', async () => {
    await open({ configured: { 'team-a': {} } });
    expect(await unknown(await world.as(undefined))).toBe('UNAUTHORIZED');
    await world.prove(NGINX, undefined);
    expect(await unknown(await world.as(undefined))).toBe('MANIFEST_UNKNOWN');
  });

  it('stays what it is for who has logged in', async () => {
    await open();
    await world.put('team-a', { 'docker.io': HUB_A });
    expect(await unknown(await world.as(HUB_A))).toBe('MANIFEST_UNKNOWN');
  });
});

function imported(credentialId: string): Promise<void> {
  return world.metadata.putGrant(NGINX, { credentialId, verifiedAtMs: 0, origin: 'import' });
}

/** What a client hears when upstream does not know, or does not say, what it asked for. */
async function unknown(visitor: Visitor): Promise<string> {
  return (await visitor.refusal(new OciError('MANIFEST_UNKNOWN'), NGINX, 'pull')).code;
}

async function until(check: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 200; tries += 1) {
    if (await check()) return;
    await new Promise(resolve => setTimeout(resolve, 25));
  }
  throw new Error('it never came true');
}
