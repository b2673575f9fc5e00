import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../../test/support/temp-folder.ts';
import { silentLog } from '../../lib/log.ts';
import { SeenCluster, type SeenNamespace } from './seen-cluster.ts';

let folder: string;
let seen: SeenCluster;

beforeEach(async () => {
  folder = await makeTempFolder('seen');
  seen = await SeenCluster.open({ folder, log: silentLog });
});

afterEach(() => removeFolder(folder));

function namespace(password: string): SeenNamespace {
  const config = new Map([['reg.example', { username: 'u', password, email: '' }]]);
  return {
    uid: 'uid',
    accountsMayPush: true,
    accounts: ['account'],
    secrets: [
      { name: 's', source: 'kubernetes', result: { state: 'loaded', secret: { name: 's', config } } },
      { name: 'm', source: 'kubernetes', result: { state: 'malformed', reason: 'why' }, isUnnamed: true },
    ],
  };
}

/** What the next process would find. */
async function recall() {
  await seen.flush();
  return (await SeenCluster.open({ folder, log: silentLog })).recall();
}

describe('the saved state of a cluster', () => {
  it('is kept completely, with the issuer of its tokens, until it is removed', async () => {
    const issuer = { issuer: 'https://issuer.example', keys: [{ kty: 'RSA' }] };
    seen.keep('team-a', namespace('one'));
    seen.keep('team-b', namespace('two'));
    seen.keepIssuer(issuer);
    expect(await recall()).toMatchObject({
      issuer,
      namespaces: new Map([
        ['team-a', namespace('one')],
        ['team-b', namespace('two')],
      ]),
    });
    seen.forget('team-a');
    seen.keep('team-b', namespace('three'));
    expect((await recall()).namespaces).toEqual(new Map([['team-b', namespace('three')]]));
  });

  it('is written only if it has changed', async () => {
    seen.keep('team-a', namespace('one'));
    await seen.flush();
    const before = await readFile(join(folder, 'team-a'));
    const next = await SeenCluster.open({ folder, log: silentLog });
    await next.recall();
    next.keep('team-a', namespace('one'));
    await next.flush();
    expect(await readFile(join(folder, 'team-a'))).toEqual(before);
  });

  it('shows no password, and is accessible to its owner only', async () => {
    seen.keep('team-a', namespace('open-sesame'));
    await seen.flush();
    for (const name of await readdir(folder)) {
      expect((await readFile(join(folder, name))).includes('open-sesame')).toBe(false);
      expect((await stat(join(folder, name))).mode & 0o777).toBe(0o600);
    }
  });

  it('is decrypted only with its own name and key, and if complete', async () => {
    seen.keep('team-a', namespace('one'));
    await seen.flush();
    await rename(join(folder, 'team-a'), join(folder, 'team-b'));
    expect((await recall()).namespaces.size).toBe(0);
    await rename(join(folder, 'team-b'), join(folder, 'team-a'));
    expect((await recall()).namespaces.size).toBe(1);
    const sealed = await readFile(join(folder, 'team-a'));
    await writeFile(join(folder, 'team-a'), sealed.subarray(0, -1));
    expect((await recall()).namespaces.size).toBe(0);
    await writeFile(join(folder, 'team-a'), sealed);
    await rm(join(folder, '.key'));
    expect((await recall()).namespaces.size).toBe(0);
  });

  it('is gone rather than outdated where it cannot be saved', async () => {
    seen.keep('team-a', namespace('one'));
    await seen.flush();
    const inTheWay = join(folder, `team-a.${process.pid}.partial`);
    await mkdir(inTheWay);
    seen.keep('team-a', namespace('two'));
    expect((await recall()).namespaces.size).toBe(0);
    await rm(inTheWay, { recursive: true });
    seen.keep('team-a', namespace('two'));
    expect((await recall()).namespaces).toEqual(new Map([['team-a', namespace('two')]]));
  });

  it('excludes a namespace that is too large', async () => {
    seen.keep('team-a', namespace('one'));
    seen.keep('team-a', namespace('x'.repeat(3 * 2 ** 20)));
    expect((await recall()).namespaces.size).toBe(0);
  });
});
