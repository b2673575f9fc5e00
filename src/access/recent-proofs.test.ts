import { afterEach, beforeEach, describe, expect, it, test, vi } from 'vitest';
import { AccessWorld, SENDER, SERVER } from '../../test/support/access-world.ts';
import { basic } from '../../test/support/tenants.ts';
import { HOSTED, HUB_A, OURS, pulled, tokenOf, withToken } from './access.fixture.ts';
import { RecentProofs } from './recent-proofs.ts';

const PROVED = { identity: { kind: 'credential', id: 'a' }, token: undefined } as const;
const sender = { ...SENDER, ...basic(OURS), connection: {} };

afterEach(() => vi.useRealTimers());

test('a header is known on the connection and from the address that proved something with it, for a second', () => {
  vi.useFakeTimers();
  const proofs = new RecentProofs();
  proofs.keeper(sender)(PROVED);
  expect(proofs.find({ ...sender })).toMatchObject(PROVED);
  expect(proofs.find({ ...sender, ...basic(HUB_A) })).toBeUndefined();
  expect(proofs.find({ ...sender, remote: '192.0.2.2' })).toBeUndefined();
  expect(proofs.find({ ...sender, connection: {} })).toBeUndefined();
  vi.advanceTimersByTime(1_000);
  expect(proofs.find(sender)).toBeUndefined();
});

test('what was begun to be proved before everything was forgotten is not kept', () => {
  const proofs = new RecentProofs();
  const keep = proofs.keeper(sender);
  proofs.clear();
  keep(PROVED);
  expect(proofs.find(sender)).toBeUndefined();
});

describe('on the connection that proved it', () => {
  let world: AccessWorld;

  beforeEach(async () => {
    world = await AccessWorld.open();
    await world.put('team-a', { [SERVER]: OURS });
  });

  afterEach(() => world.close());

  it('a login is refused as soon as no Secret has it, and accepted as soon as one has', async () => {
    expect(await pulled(await world.as(OURS), HOSTED)).toMatchObject({ id: 'tenant:team-a' });
    await world.put('team-a', { [SERVER]: HUB_A });
    expect(await pulled(await world.as(OURS), HOSTED)).toBe('UNAUTHORIZED');
    await expect((await world.as(OURS)).admit()).rejects.toMatchObject({ code: 'UNAUTHORIZED' });
    await world.put('team-a', { [SERVER]: OURS });
    expect(await pulled(await world.as(OURS), HOSTED)).toMatchObject({ id: 'tenant:team-a' });
  });

  it('a token is refused when it expires, and when its Secret is gone', async () => {
    const { token, expiresInS } = await tokenOf(world, OURS, 'repository:team-a/app:pull');
    const ask = async () => pulled(await withToken(world, token), HOSTED);
    expect(await ask()).toMatchObject({ id: 'tenant:team-a' });
    await world.put('team-a', { [SERVER]: HUB_A });
    expect(await ask()).toBe('UNAUTHORIZED');
    await world.put('team-a', { [SERVER]: OURS });
    expect(await ask()).toMatchObject({ id: 'tenant:team-a' });
    world.clock.nowMs += expiresInS * 1_000;
    expect(await ask()).toBe('UNAUTHORIZED');
  });
});
