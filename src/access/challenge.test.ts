import { afterEach, describe, expect, it } from 'vitest';
import { AccessWorld, type AccessWorldOptions, SERVER } from '../../test/support/access-world.ts';
import { KeptLog } from '../http/server.fixture.ts';
import { OciError } from '../oci/errors.ts';
import { ANONYMOUSLY, HOSTED, HUB_A, NGINX, OURS, pulled, tokenOf, withToken } from './access.fixture.ts';
import type { Subject } from './subject.ts';

let world: AccessWorld;

async function open(options: AccessWorldOptions = {}): Promise<void> {
  world = await AccessWorld.open(options);
}

afterEach(() => world.close());

describe('a challenge', () => {
  it('is never sent over plain HTTP beyond loopback; the log says why, and everything is as if nobody could log in', async () => {
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

  it('is not needed to pull with a password over plain HTTP, but pushing is refused', async () => {
    await open();
    await world.put('team-a', { [SERVER]: OURS });
    for (const [sender, outcome] of [
      [{ secure: false, loopback: false }, 'DENIED'],
      [{ secure: false, loopback: true }, undefined],
      [{ secure: true, loopback: false }, undefined],
    ] as const) {
      const subject = await world.as(OURS, sender);
      expect(await pulled(subject, HOSTED)).toMatchObject({ id: 'tenant:team-a' });
      const pushed = subject.authorize(HOSTED, 'push').then(
        () => undefined,
        (error: unknown) => (error instanceof OciError ? error.code : error),
      );
      expect(await pushed).toBe(outcome);
    }
  });

  it('says what was wrong with the credentials; why they are needed only the log says', async () => {
    await open();
    await world.put('team-a', { [SERVER]: OURS });
    const { token } = await tokenOf(world, OURS, 'repository:team-a/other:pull');
    const { token: nobodys } = await tokenOf(world, undefined, '');
    expect([
      await heard(world.as(undefined)),
      await heard(withToken(world, nobodys)),
      await heard(world.as(['robot', 'mistyped'])),
      await heard(withToken(world, `${token}x`)),
      await heard(withToken(world, token)),
    ]).toEqual([
      `UNAUTHORIZED: authentication required ${OF_TEAM_A}`,
      `UNAUTHORIZED: authentication required ${OF_TEAM_A}`,
      'UNAUTHORIZED: the user name or password is wrong',
      'UNAUTHORIZED: the token is invalid or has expired',
      'UNAUTHORIZED: the token does not cover repository:team-a/app:pull (the token was requested without it)',
    ]);
  });

  it('is sent over plain HTTP if that is allowed', async () => {
    await open({ allowPlainCredentials: true, configured: { 'team-a': {} } });
    await expect((await world.as(undefined, { secure: false })).admit()).rejects.toMatchObject({
      status: 401,
    });
  });

  it('does not repeat an invalid Host header', async () => {
    await open({ configured: { 'team-a': {} } });
    for (const host of ['a"b', 'evil.example/x', undefined]) {
      const subject = await world.as(undefined, { host });
      expect(await subject.admit()).toBeUndefined();
    }
  });

  it('is not sent while nobody can log in, and credentials are ignored', async () => {
    await open();
    const subject = await world.as(HUB_A);
    await subject.admit();
    expect(await pulled(subject)).toMatchObject(ANONYMOUSLY);
    await expect(subject.authorize(HOSTED, 'pull')).rejects.toMatchObject({ code: 'NAME_UNKNOWN' });
    await expect(tokenOf(world, undefined, '')).rejects.toMatchObject({ code: 'NAME_UNKNOWN' });
  });
});

/** For the log, not for the client. */
const OF_TEAM_A = '(it belongs to team-a, so a login of team-a is needed to pull)';

/** The code and the text of the refusal, as in the log. */
async function heard(subject: Promise<Subject>): Promise<unknown> {
  try {
    await (await subject).authorize(HOSTED, 'pull');
    return undefined;
  } catch (error) {
    return error instanceof OciError ? error.reason : error;
  }
}
