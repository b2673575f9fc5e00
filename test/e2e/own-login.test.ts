// An upstream that refuses Entrepot's own login: its password was changed there, and not here.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { codeOf, type Got, get } from '../support/client.ts';
import { type Image, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import type { FakeAuthOptions } from '../support/fake-upstream-auth.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { freePort, until } from '../support/programs.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import { getAs, type Login, writeSecret } from '../support/tenants.ts';

const UP = 'up.example';
const PHRASE = "upstream refused Entrepot's credentials";
const METRIC = `entrepot_upstream_credentials_refused{upstream="${UP}"}`;
const ALICE: Login = ['alice', 'alice-upstream'];
const TEAM: Login = ['team', 'password-of-team'];

const image = imageOf([randomBlob(100_000, 'held')]);
const other = imageOf([randomBlob(10_000, 'not held')]);
const secret = imageOf([randomBlob(10_000, "alice's")]);

let upstream: FakeUpstream;
let entrepot: Entrepot;
let folder: string;
let passwordFile: string;
let mirrorUser: { password: string; repositories: string[] };
let alice: { password: string; repositories: string[] };

async function start(auth: Partial<FakeAuthOptions>, config: object = {}, upstreamConfig: object = {}) {
  mirrorUser = { password: 'first-password', repositories: ['app', 'other'] };
  alice = { password: ALICE[1], repositories: ['secret'] };
  const users = { mirror: mirrorUser, alice };
  upstream = await FakeUpstream.start({ auth: { scheme: 'bearer', users, ...auth } });
  upstream.add('app', image, 'v1');
  upstream.add('other', other, 'v1');
  upstream.add('secret', secret, 'v1');
  passwordFile = join(folder, 'password');
  await writeFile(passwordFile, mirrorUser.password);
  const credentials = { username: 'mirror', passwordFile };
  const own = { url: upstream.url, credentials, openToAll: true, pullPolicy: 'Always', ...upstreamConfig };
  entrepot = await Entrepot.start(
    { upstreams: { [UP]: own }, log: { format: 'json' }, ...config },
    { folder },
  );
}

beforeEach(async () => {
  folder = await makeTempFolder('own-login');
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

/** Upstream has another password from now on, and ends the tokens that the old one got. */
function rotate(): void {
  mirrorUser.password = 'second';
  upstream.revokeTokens();
}

type Ask = (path: string) => Promise<Got>;

const anybody: Ask = path => get(`${entrepot.url}/v2/${UP}/${path}`);

async function pullWhole(
  ask: Ask,
  repository: string,
  { manifest, config, layers }: Image,
): Promise<string[]> {
  const manifests = [`${repository}/manifests/v1`, `${repository}/manifests/${manifest.digest}`];
  const blobs = [config, ...layers].map(({ digest }) => `${repository}/blobs/${digest}`);
  const answers: string[] = [];
  for (const path of [...manifests, ...blobs]) {
    const got = await ask(path);
    answers.push(
      got.complete && got.status === 200 ? String(got.headers['cache-status']) : String(got.status),
    );
  }
  return answers;
}

/** Pulls until all of it is kept, which a download ends with after its readers have had it. */
async function hold(ask: Ask, repository: string, whole: Image): Promise<void> {
  await until(`${repository} to be kept`, 20_000, async () => {
    const answers = await pullWhole(ask, repository, whole);
    expect(answers).toEqual(SERVED);
    return answers.every(answer => answer === HIT || answer === REVALIDATED);
  });
}

const readiness = async () => (await get(`${entrepot.ops}/readyz`)).text;

const linesAbout = (text: string) =>
  entrepot
    .logs()
    .split('\n')
    .filter(line => line.includes(text));

const SERVED = Array(4).fill(expect.stringMatching(/^entrepot;/));
const HIT = 'entrepot; hit';
const STALE = 'entrepot; fwd=stale; detail=upstream-failed';
const REVALIDATED = 'entrepot; fwd=stale; detail=revalidated';

const WAYS: readonly (readonly [string, Partial<FakeAuthOptions>])[] = [
  ['a token service that says 401', {}],
  ['a token service that says 403, as to who may not', { tokenWrongPassword: 403, tokenDenial: 403 }],
  ['Basic authentication', { scheme: 'basic' }],
];

describe.each(WAYS)("Entrepot's own credential, refused by %s", (_, auth) => {
  it('is reported until it is accepted again, while stored content is served and other requests get the reason', async () => {
    await start(auth);
    await hold(anybody, 'app', image);
    expect([await readiness(), await entrepot.metrics()]).toEqual([
      'ok\n',
      expect.stringContaining(`\n${METRIC} 0\n`),
    ]);
    rotate();
    for (let round = 0; round < 2; round += 1) {
      expect(await pullWhole(anybody, 'app', image)).toEqual([STALE, HIT, HIT, HIT]);
      const missing = await anybody('other/manifests/v1');
      expect([missing.status, codeOf(missing)]).toEqual([502, 'UPSTREAM_REFUSED']);
      expect(missing.text).toContain(PHRASE);
      const blob = await anybody(`other/blobs/${other.layers[0]?.digest}`);
      expect([blob.status, codeOf(blob)]).toEqual([502, 'UPSTREAM_REFUSED']);
    }
    expect(await readiness()).toContain(`${PHRASE} for ${UP}`);
    expect(await entrepot.metrics()).toContain(`\n${METRIC} 1\n`);
    await until('the log to say so', 60_000, async () => linesAbout(PHRASE).length > 0);
    const told = linesAbout(PHRASE).filter(line => line.includes('"level":"error"'));
    expect(told).toEqual([expect.stringContaining(UP)]);
    expect(entrepot.logs()).not.toContain('first-password');
    mirrorUser.password = 'first-password';
    await until('it to be good again', 60_000, async () => {
      await anybody('app/manifests/v1');
      return (await readiness()) === 'ok\n';
    });
    expect(await entrepot.metrics()).toContain(`\n${METRIC} 0\n`);
    await until(
      'the back-off to be over',
      60_000,
      async () => (await anybody('other/manifests/v1')).status === 200,
    );
  });
});

it('what it opened longer than verifyFor ago is served as stale, also by digest', async () => {
  await start({}, { verifyFor: '1s', staleGrantFor: '1h' });
  await hold(anybody, 'app', image);
  rotate();
  await new Promise(resolve => setTimeout(resolve, 1_500));
  expect(await pullWhole(anybody, 'app', image)).toEqual([STALE, STALE, STALE, STALE]);
});

it('a new password and SIGHUP fix it', async () => {
  await start({});
  await hold(anybody, 'app', image);
  rotate();
  expect((await anybody('other/manifests/v1')).status).toBe(502);
  await writeFile(passwordFile, mirrorUser.password);
  process.kill(entrepot.pid, 'SIGHUP');
  await until('the configuration to be reloaded', 20_000, async () => linesAbout('reloaded').length > 0);
  expect(await readiness()).toBe('ok\n');
  expect(await entrepot.metrics()).toContain(`\n${METRIC} 0\n`);
  expect((await anybody('other/manifests/v1')).status).toBe(200);
  await hold(anybody, 'app', image);
});

it('entrepot pull and refresh report what was refused', async () => {
  await start({});
  rotate();
  for (const command of ['pull', 'refresh']) {
    const { code, stdout, stderr } = await entrepot.command(command, `${UP}/other:v1`);
    expect([command, code, stdout + stderr]).toEqual([command, 1, expect.stringContaining(PHRASE)]);
    expect(stdout + stderr).not.toContain('manifest unknown');
  }
});

it('a repository that upstream withdraws from an accepted credential is no longer served', async () => {
  await start({ tokenDenial: 403 });
  await hold(anybody, 'app', image);
  mirrorUser.repositories = ['other'];
  upstream.revokeTokens();
  expect(await pullWhole(anybody, 'app', image)).toEqual(['404', '404', '404', '404']);
  expect(await readiness()).toBe('ok\n');
  expect(await entrepot.metrics()).toContain(`\n${METRIC} 0\n`);
});

describe("Entrepot's own credential, refused, and tenants", () => {
  let asTeam: Ask;

  async function startWithTenant(upstreamConfig: object): Promise<void> {
    const host = `127.0.0.1:${await freePort()}`;
    const secrets = join(folder, 'team.json');
    await writeSecret(secrets, { [host]: TEAM, [UP]: ALICE });
    const server = { listen: host, serverNames: [host] };
    await start({}, { server, tenants: [{ name: 'team', secrets }] }, upstreamConfig);
    asTeam = path => getAs(TEAM, `${entrepot.url}/v2/${UP}/${path}`);
  }

  it('what it opened to them is still served, and what their own login opened only to them', async () => {
    await startWithTenant({});
    await hold(asTeam, 'app', image);
    await hold(asTeam, 'secret', secret);
    rotate();
    expect(await pullWhole(asTeam, 'app', image)).toEqual([STALE, HIT, HIT, HIT]);
    expect(await pullWhole(asTeam, 'secret', secret)).toEqual([REVALIDATED, HIT, HIT, HIT]);
    // So it is to anybody, who is asked to log in for what it has not opened.
    expect(await pullWhole(anybody, 'app', image)).toEqual([STALE, HIT, HIT, HIT]);
    expect(await pullWhole(anybody, 'secret', secret)).toEqual(['401', '401', '401', '401']);
    const challenge = await anybody('other/manifests/v1');
    const both = `${PHRASE} for ${UP}; log in with a credential that may read it`;
    expect([challenge.status, challenge.text]).toEqual([401, expect.stringContaining(both)]);
    // Who has answered the challenge without a login has none, and hears what is wrong.
    const scope = `repository:${UP}/other:pull`;
    const { token } = JSON.parse((await get(`${entrepot.url}/token?scope=${scope}`)).text);
    const headers = { authorization: `Bearer ${token}` };
    const told = await get(`${entrepot.url}/v2/${UP}/other/manifests/v1`, { headers });
    expect([told.status, codeOf(told)]).toEqual([502, 'UPSTREAM_REFUSED']);
    expect(told.text).toContain(`${PHRASE} for ${UP}`);
    // What upstream may hide is still no more than a challenge to him.
    const hidden = await get(`${entrepot.url}/v2/${UP}/secret/manifests/v1`, { headers });
    expect(hidden.status).toBe(401);
    const missing = await asTeam('other/manifests/v1');
    expect([missing.status, codeOf(missing)]).toEqual([502, 'UPSTREAM_REFUSED']);
  });

  it('what their own login opened ends when upstream refuses that one too', async () => {
    await startWithTenant({ openToAll: false });
    await hold(asTeam, 'secret', secret);
    rotate();
    alice.password = 'changed';
    upstream.revokeTokens();
    expect(await pullWhole(asTeam, 'secret', secret)).toEqual(['502', '502', '502', '502']);
  });
});
