import { afterEach, describe, expect, it } from 'vitest';
import { AccessWorld, type AccessWorldOptions, SENDER, SERVER } from '../../test/support/access-world.ts';
import { basic, type Login } from '../../test/support/tenants.ts';
import { OciError } from '../oci/errors.ts';
import { ACTIONS, type Action } from './subject.ts';

const TEAM_A: Login = ['robot-a', 'password-of-a'];
const TEAM_B: Login = ['robot-b', 'password-of-b'];

let world: AccessWorld;

async function open(options: AccessWorldOptions = {}): Promise<void> {
  world = await AccessWorld.open(options);
  await world.put('team-a', { [SERVER]: TEAM_A });
  await world.put('team-b', { [SERVER]: TEAM_B });
}

afterEach(() => world.close());

/** All that a client hears of a refusal, with the repository's name left out; `undefined` when it may. */
async function refusal(login: Login | undefined, name: string, action: Action): Promise<string | undefined> {
  try {
    await (await world.as(login)).authorize({ upstream: '', name }, action);
    return undefined;
  } catch (error) {
    if (!(error instanceof OciError)) throw error;
    return JSON.stringify([error.status, error.headers, error]).replaceAll(name, 'NAME');
  }
}

describe("a tenant's repository", () => {
  it.each([
    ['another tenant', TEAM_B],
    ['nobody', undefined],
  ])('is for %s as one of no tenant at all, whatever is done', async (_who, login) => {
    await open();
    for (const action of ACTIONS) {
      const hidden = await refusal(login, 'team-a/app', action);
      expect(hidden).toBeDefined();
      for (const name of ['team-a/nothing', 'team-a', 'nobody/app', 'library/nginx']) {
        expect([name, action, await refusal(login, name, action)]).toEqual([name, action, hidden]);
      }
    }
  });

  it("does not belong to a tenant whose name is a prefix of its owner's name", async () => {
    await open();
    const short: Login = ['robot', 'password-of-team'];
    await world.put('team', { [SERVER]: short });
    for (const action of ACTIONS) {
      expect(await refusal(short, 'team/app', action)).toBeUndefined();
      expect(await refusal(short, 'team-a/app', action)).toContain('NAME_UNKNOWN');
    }
  });

  it('can be pulled, pushed and deleted by its owner', async () => {
    await open();
    for (const action of ACTIONS) expect(await refusal(TEAM_A, 'team-a/app', action)).toBeUndefined();
  });

  it.each(['pull', 'push'] as const)(
    'belongs to nobody when the tenant is gone, even if anybody may %s what no tenant owns',
    async anonymous => {
      await open({ anonymous, prefixes: ['tools'] });
      await world.remove('team-a');
      expect(await refusal(undefined, 'tools/app', 'pull')).toBeUndefined();
      for (const login of [TEAM_B, undefined]) {
        for (const action of ACTIONS) {
          expect([action, await refusal(login, 'team-a/app', action)]).toEqual([action, expect.any(String)]);
        }
      }
    },
  );
});

describe('the token of a ServiceAccount', () => {
  const token = 'eyJhbGciOiJub25lIn0.e30.signature';
  const accounts = { [token]: { namespace: 'team-a', name: 'default', uid: 'u-1' } };
  const account: Login = ['serviceaccount', token];

  it('may only pull', async () => {
    await open({ accounts });
    expect(await refusal(account, 'team-a/app', 'pull')).toBeUndefined();
    for (const action of ['push', 'delete'] as const) {
      expect(await refusal(account, 'team-a/app', action)).toContain(', only pull');
    }
  });

  it('may do everything if its namespace allows it', async () => {
    await open({ accounts });
    await world.put('team-a', {}, { accountsMayPush: true });
    for (const action of ACTIONS) expect(await refusal(account, 'team-a/app', action)).toBeUndefined();
    await world.put('team-a', {});
    expect(await refusal(account, 'team-a/app', 'push')).toContain(', only pull');
  });
});

describe('a hosted prefix', () => {
  it('does not become the property of a tenant with its name', async () => {
    await open({ anonymous: 'pull', prefixes: ['tools'] });
    const taker: Login = ['robot-of-tools', 'password'];
    await world.put('tools', { [SERVER]: taker });
    expect(await refusal(undefined, 'tools/app', 'pull')).toBeUndefined();
    expect(await refusal(TEAM_A, 'tools/app', 'pull')).toBeUndefined();
    for (const action of ACTIONS) expect(await refusal(taker, 'tools/app', action)).toBeDefined();
  });

  it.each(['pull', 'push'] as const)(
    'serves nothing of an earlier tenant with its name, even if anybody may %s there',
    async anonymous => {
      await open({ anonymous, prefixes: ['tools'], shared: ['tools/**'] });
      await world.metadata.putKnownTenants([{ name: 'tools', uid: 'uid' }]);
      await world.tenants.reload();
      for (const login of [TEAM_A, undefined]) {
        for (const action of ACTIONS) {
          expect([action, await refusal(login, 'tools/app', action)]).toEqual([action, expect.any(String)]);
        }
      }
      await world.issuer.removeTenant('tools');
      await world.tenants.reload();
      expect(await refusal(undefined, 'tools/app', 'pull')).toBeUndefined();
    },
  );
});

describe('a registry that accepts no pushes for now', () => {
  it('says so to all who could push otherwise, and to nobody else', async () => {
    await open({ anonymous: 'push', prefixes: ['tools'], readOnly: true });
    const said = 'this registry accepts no pushes and deletions for now (hosted.readOnly)';
    for (const action of ['push', 'delete'] as const) {
      expect(await refusal(TEAM_A, 'team-a/app', action)).toContain(said);
      expect(await refusal(undefined, 'tools/app', action)).toMatch(/^\[405,.*hosted\.readOnly/);
      expect(await refusal(TEAM_B, 'team-a/app', action)).not.toContain(said);
    }
    expect(await refusal(TEAM_A, 'team-a/app', 'pull')).toBeUndefined();
    expect(await told('team-a/app')).toContain(`push, delete: no (${said})`);
  });

  it('gives tokens to push, so that clients print the reason instead of asking for a login', async () => {
    await open({ readOnly: true });
    const scopes = [{ type: 'repository', name: 'team-a/app', actions: ['pull', 'push'] }];
    const { access } = await world.access.login(
      { ...SENDER, ...basic(TEAM_A) },
      { password: undefined, service: undefined, scopes, resolve: name => ({ upstream: '', name }) },
    );
    expect(access).toEqual(scopes);
  });
});

it('a registry that disables deletions says so to all who could delete otherwise, and to nobody else', async () => {
  await open({ delete: false });
  const said = 'deleting is disabled (hosted.delete)';
  expect(await refusal(TEAM_A, 'team-a/app', 'delete')).toMatch(/^\[405,.*hosted\.delete/);
  expect(await refusal(TEAM_A, 'team-a/app', 'push')).toBeUndefined();
  expect(await refusal(TEAM_B, 'team-a/app', 'delete')).not.toContain(said);
  expect(await told('team-a/app')).toContain(`delete: no (${said})`);
});

describe('where somebody may push', () => {
  const tools = { prefixes: ['tools'] };
  it.each<[string, AccessWorldOptions, AccessWorld['access']['pushPlace']]>([
    [
      'a prefix to which everybody may',
      { ...tools, anonymous: 'push' },
      { prefix: 'tools', needsLogin: false },
    ],
    ["else a tenant's", { ...tools, anonymous: 'pull' }, { prefix: 'team-a', needsLogin: true }],
    [
      'of a tenant that may',
      { ...tools, configured: { 'team-a': { push: false } } },
      { prefix: 'team-b', needsLogin: true },
    ],
    [
      'of a tenant that may store something',
      { configured: { 'team-a': { quotaBytes: 0 } } },
      { prefix: 'team-b', needsLogin: true },
    ],
    [
      'nowhere if no tenant may',
      { configured: { 'team-a': { push: false }, 'team-b': { push: false } } },
      undefined,
    ],
    ['nowhere if nobody may for now', { ...tools, anonymous: 'push', readOnly: true }, undefined],
  ])('is %s', async (_where, options, place) => {
    await open(options);
    expect(world.access.pushPlace).toEqual(place);
  });

  it.each(['none', 'pull', 'push'] as const)(
    'is without tenants where hosted.anonymous says (%s)',
    async anonymous => {
      world = await AccessWorld.open({ ...tools, anonymous });
      const place = { prefix: 'tools', needsLogin: false };
      expect(world.access.pushPlace).toEqual(anonymous === 'push' ? place : undefined);
      await world.put('team-a', { [SERVER]: TEAM_A });
      expect(world.access.pushPlace).toBeDefined();
    },
  );

  it('is not that of an earlier tenant, or of one that is suspended', async () => {
    world = await AccessWorld.open({ ...tools, anonymous: 'push' });
    await world.metadata.putKnownTenants([
      { name: 'tools', uid: 'first' },
      { name: 'team-a', uid: 'first' },
    ]);
    await world.tenants.reload();
    await world.put('team-a', { [SERVER]: TEAM_A }, { uid: 'second' });
    expect(world.access.pushPlace).toBeUndefined();
  });
});

/** What is told of it to team-a. */
async function told(name: string): Promise<readonly string[]> {
  const teamA = world.tenants.find('team-a');
  if (teamA === undefined) throw new Error('team-a is a tenant');
  return (await world.access.explain(teamA, { upstream: '', name })).conclusions;
}

describe('the explanation of a hosted repository', () => {
  it('is one sentence for all actions with the same answer', async () => {
    await open({ shared: ['team-b/base'] });
    expect(await told('team-a/app')).toEqual([
      'it is hosted here and belongs to team-a',
      'pull, push, delete: yes',
    ]);
    expect(await told('team-b/base')).toEqual([
      'it is hosted here and belongs to team-b',
      'pull: yes',
      'push, delete: no (only team-b may, with its own login)',
    ]);
    expect(await told('nobody/app')).toEqual([
      'nothing is hosted here: nobody is neither a tenant nor listed in hosted.prefixes',
      expect.stringMatching(/^pull, push, delete: no \(/),
    ]);
  });
});

describe('a push to a name that means nothing here', () => {
  it('is told which names are possible', async () => {
    await open({ prefixes: ['tools'] });
    const heard = await refusal(TEAM_B, 'elsewhere/app', 'push');
    expect(heard).toContain("hosted repositories begin with a tenant's name or one of hosted.prefixes");
  });
});

describe('a shared repository', () => {
  it('can be pulled by other tenants, and by nobody else', async () => {
    await open({ shared: ['team-a/base/**'] });
    expect(await refusal(TEAM_B, 'team-a/base/os', 'pull')).toBeUndefined();
    expect(await refusal(TEAM_B, 'team-a/base/os', 'push')).toContain('NAME_UNKNOWN');
    expect(await refusal(TEAM_B, 'team-a/app', 'pull')).toContain('NAME_UNKNOWN');
    expect(await refusal(undefined, 'team-a/base/os', 'pull')).toContain('UNAUTHORIZED');
  });
});
