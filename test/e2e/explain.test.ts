// entrepot explain where there are no tenants: what anybody who pulls would get, and why.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, type EntrepotConfig } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';
import { pushImage } from '../support/push-client.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import { keptBlobs } from '../support/test-storage.ts';

const UP = 'up.example';
const image = imageOf([randomBlob(1_000, 'explain')]);

let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  upstream.add('app', image, 'v1');
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

const config = (options: object = {}, more: EntrepotConfig = {}): EntrepotConfig => ({
  upstreams: { [UP]: { url: upstream.url, ...options } },
  ...more,
});
const pull = (path: string) => get(`${entrepot.url}/v2/${path}?ns=${UP}`);

async function explained(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await entrepot.command('explain', ...args);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return stdout;
}

/** Damages the layer, lets a scrub find that, and returns its digest. */
async function damagedLayer(): Promise<string> {
  const digest = image.layers[0]?.digest ?? '';
  const kept = await keptBlobs(join(entrepot.folder, 'store'));
  await kept.find(blob => blob.digest === digest)?.overwrite(Buffer.from('other bytes'));
  expect((await entrepot.command('scrub')).code).toBe(1);
  return digest;
}

it('says what upstream is asked for, what is stored and how long it is served without a check', async () => {
  entrepot = await Entrepot.start(config({ freshFor: '1h' }));
  const before = await explained(`${UP}/app:v1`);
  expect(before).toMatch(/^up\.example\/app for anybody, without a login\n/);
  expect(before).toContain('its answer decides, and no stored content is served without it');
  expect(before).toContain('- v1 is not stored: the next pull asks upstream for it\n');
  expect((await pull('app/manifests/v1')).status).toBe(200);
  const after = await explained(`${UP}/app:v1`);
  expect(after).toContain('public: valid, recorded');
  expect(after).toContain('- stored content is served without asking upstream who may pull it\n');
  expect(after).toMatch(
    new RegExp(`- v1 is stored as ${image.manifest.digest}, .* served as is for another (?:1h|59m)`),
  );
  expect(await explained(`${UP}/app@${image.manifest.digest}`)).toContain('is stored, and served as is');
  const json = JSON.parse(await explained(`${UP}/app:v1`, '--json'));
  expect(json).toMatchObject({ repository: `${UP}/app`, tenant: null, attempts: [{ secret: 'none' }] });
});

it('says that the next pull asks upstream, and why; that none does; and what failed a moment ago', async () => {
  entrepot = await Entrepot.start(
    config({ pullPolicy: 'Always', repositories: [{ match: 'still', pullPolicy: 'Never' }] }),
  );
  await pull('app/manifests/v1');
  expect(await explained(`${UP}/app:v1`)).toContain(
    'the next pull asks upstream what it refers to now (Always)',
  );
  expect(await explained(`${UP}/still:v1`)).toContain('v1 is not stored, and upstream is not asked (Never)');
  // It is remembered for ten seconds, which a command may take on a busy machine.
  await until('what has failed to be told', 60_000, async () => {
    expect((await pull('none/manifests/v1')).status).toBe(404);
    return /- upstream is not asked again for \d+s?: .*none/.test(await explained(`${UP}/none:v1`));
  });
});

it('says what anybody may do with a hosted repository, and what differs without a server', async () => {
  entrepot = await Entrepot.start(config({}, { hosted: { prefixes: ['team'], anonymous: 'pull' } }));
  const hosted = await explained('team/app');
  expect(hosted).toContain('- it is hosted here and belongs to no tenant\n- pull: yes\n- push: no (');
  await entrepot.stop();
  const { code, stdout, stderr } = await entrepot.command('explain', `${UP}/app:v1`);
  expect([code, stderr]).toEqual([0, expect.stringContaining('no server answers')]);
  expect(stdout).toContain('v1 is not stored');
});

it('says what is stored of a hosted image, and what is damaged', async () => {
  entrepot = await Entrepot.start(config({}, { hosted: { prefixes: ['team'], anonymous: 'push' } }));
  expect(await explained('team/app:v1')).toContain('- v1 is not stored: a pull fails\n');
  await pushImage(entrepot.url, 'team/app', 'v1', image);
  const { digest } = image.manifest;
  expect(await explained('team/app:v1')).toContain(`- v1 is stored as ${digest}\n`);
  expect(await explained(`team/app@${digest}`)).toContain(`- ${digest} is stored\n`);
  const layer = await damagedLayer();
  expect(await explained('team/app:v1')).toContain(
    `- v1 is stored as ${digest}, but ${layer} is damaged: a pull that needs it fails until it is pushed again\n`,
  );
});

it('says that no upstream is asked while offline', async () => {
  entrepot = await Entrepot.start(config({}, { offline: true }));
  expect(await explained(`${UP}/app:v1`)).toContain('v1 is not stored, and upstream is not asked (offline)');
});

it('says that a refused client is asked to log in if somebody can', async () => {
  entrepot = await Entrepot.start(config({}, { tenants: [{ name: 'team-a' }] }));
  expect(await explained(`${UP}/app:v1`)).toContain(
    'if upstream refuses an anonymous client, the client is asked to log in',
  );
  const { code, stderr } = await entrepot.command('explain', `${UP}/app:v1`, '--tenant', 'team-z');
  expect([code, stderr]).toEqual([1, expect.stringContaining('there is no tenant named team-z')]);
});

describe('an imported image', () => {
  const island = async (more: EntrepotConfig) => {
    entrepot = await Entrepot.start(config());
    expect((await entrepot.command('pull', `${UP}/app:v1`)).code).toBe(0);
    const bundle = join(entrepot.folder, 'bundle.tar');
    expect((await entrepot.command('export', `${UP}/app:v1`, '-o', bundle)).code).toBe(0);
    const far = await Entrepot.start(config({ freshFor: '1h' }, more));
    expect((await far.command('import', bundle)).code).toBe(0);
    await entrepot.remove();
    entrepot = far;
  };

  it('is described as served because of its import', async () => {
    await island({});
    const asked = upstream.requests.length;
    const told = await explained(`${UP}/app:v1`);
    expect(told).toContain('imported for all: valid');
    expect(told).toContain('- it was imported, and is served without asking upstream who may pull it\n');
    expect(told).toMatch(/- v1 is stored as .*; it is served as is for another/);
    expect(told).not.toContain('no stored content is served');
    expect(await explained(`${UP}/app@${image.manifest.digest}`)).toContain('is stored, and served as is');
    expect((await pull('app/manifests/v1')).status).toBe(200);
    expect(upstream.requests.length).toBe(asked);
    // Of what was not imported the import says nothing.
    const other = await explained(`${UP}/app:v2`);
    expect(other).toContain('- v2 is not stored: the next pull asks upstream for it\n');
    expect(other).toContain('its answer decides');
  });

  it('is described as served without upstream while offline, and nothing else is', async () => {
    await island({ offline: true });
    const told = await explained(`${UP}/app:v1`);
    expect(told).toContain('it is served as is, and upstream is not asked (offline)');
    expect(told).not.toMatch(/upstream is asked|is fetched/);
    expect(told).toContain('- nothing is missing\n');
    expect((await pull('app/manifests/v1')).status).toBe(200);
    const layer = await damagedLayer();
    expect(await explained(`${UP}/app:v1`)).toContain(
      `- ${layer} is damaged, and upstream is not asked (offline): a pull that needs it fails\n`,
    );
    const other = await explained(`${UP}/app:v2`);
    expect(other).toContain('- v2 is not stored, and upstream is not asked (offline): the pull fails\n');
    expect(other).not.toMatch(/upstream is asked|is fetched/);
    expect((await pull('app/manifests/v2')).status).toBe(404);
  });
});

it('says to whom a private image is served while upstream may not be asked, and to whom not', async () => {
  await upstream.stop();
  const users = { mirror: { password: 'first', repositories: ['app'] } };
  upstream = await FakeUpstream.start({ auth: { scheme: 'basic', users } });
  upstream.add('app', image, 'v1');
  const folder = await makeTempFolder('explain');
  const passwordFile = join(folder, 'password');
  await writeFile(passwordFile, 'first');
  const own = { credentials: { username: 'mirror', passwordFile } };
  entrepot = await Entrepot.start(config(own), { folder });
  expect((await entrepot.command('pull', `${UP}/app:v1`)).code).toBe(0);
  const withheld = '- the configured credentials are not used for clients without a login: set openToAll';
  expect(await explained(`${UP}/app:v1`)).toContain(withheld);
  entrepot = await (await stopped(entrepot)).startAgain(config({ ...own, openToAll: true }));
  expect((await pull('app/manifests/v1')).status).toBe(200);
  expect(await explained(`${UP}/app:v1`)).not.toContain(withheld);
  // Also of an image for which no back-off runs, since nobody asked for it.
  users.mirror.password = 'second';
  expect((await pull('app/manifests/v2')).status).toBe(502);
  expect(await explained(`${UP}/other:v1`)).toContain(
    `- upstream refused Entrepot's credentials for ${UP}: `,
  );
  entrepot = await (await stopped(entrepot)).startAgain(config(own, { offline: true }));
  expect(await explained(`${UP}/app:v1`)).toContain(
    'but no right to pull it is proved, and upstream is not asked (offline): the pull fails\n',
  );
  expect((await pull('app/manifests/v1')).status).toBe(404);
});

it('says that stored content is served while upstream does not respond, and that the rest fails', async () => {
  entrepot = await Entrepot.start(config({ pullPolicy: 'Always' }));
  expect((await pull('app/manifests/v1')).status).toBe(200);
  await upstream.stop();
  for (const [tag, status, end] of [
    ['v1', 200, 'stored content is served\n'],
    ['v2', 503, 'the pull fails (UNAVAILABLE)\n'],
  ] as const) {
    // The first back-offs are shorter than a command takes on a busy machine.
    let told = '';
    await until(`${tag} to be told of`, 60_000, async () => {
      expect((await pull(`app/manifests/${tag}`)).status).toBe(status);
      told = await explained(`${UP}/app:${tag}`);
      return told.includes(`until then ${end}`) && /- upstream is not asked again for \d+s?: /.test(told);
    });
    expect(told).not.toMatch(/next pull asks upstream|is fetched/);
  }
});

it('says that upstream wants no requests for now, also of what nobody has asked for yet', async () => {
  entrepot = await Entrepot.start(config({ freshFor: '1h' }));
  expect((await pull('app/manifests/v1')).status).toBe(200);
  const before = await explained(`${UP}/app:v2`);
  expect(before).toContain('- v2 is not stored: the next pull asks upstream for it\n');
  upstream.misbehave({ kind: 'manifest', status: 429, headers: { 'Retry-After': '3600' } });
  expect((await pull('other/manifests/v1')).status).toBe(429);
  const limited = new RegExp(`upstream is not asked again for (?:1h|59m\\d*s?): ${UP} limits the rate`);
  const asked = upstream.requests.length;
  const told = await explained(`${UP}/app:v2`);
  expect(told).toMatch(limited);
  expect(told).toContain('until then the pull fails (TOOMANYREQUESTS)');
  expect(told).not.toMatch(/next pull asks upstream|is fetched/);
  expect((await pull('app/manifests/v2')).status).toBe(429);
  const stored = await explained(`${UP}/app:v1`);
  expect(stored).toMatch(/- v1 is stored as .*; it is served as is for another/);
  expect(stored).toMatch(new RegExp(`are missing: a pull that needs it fails, since ${limited.source}`));
  expect((await get(`${entrepot.url}/v2/app/blobs/${image.layers[0]?.digest}?ns=${UP}`)).status).toBe(429);
  expect(upstream.requests.length).toBe(asked);
});

it('says what the client is told, in the same words', async () => {
  const withoutWait = (text: string) => text.replaceAll(/asked again for \d+s: /g, 'asked again: ');
  entrepot = await Entrepot.start(config({ pullPolicy: 'Always' }));
  await upstream.stop();
  await until('the failure to be remembered', 60_000, async () => {
    const { text, headers, phrase } = await pull('app/manifests/v2');
    const { message }: { message: string } = JSON.parse(text).errors[0];
    expect(phrase).toBe(`Service Unavailable: ${message}`);
    expect(headers['warning']).toBe(`299 - "${message}"`);
    const isRemembered = message.startsWith('upstream is not asked again for ');
    return isRemembered && withoutWait(await explained(`${UP}/app:v2`)).includes(withoutWait(message));
  });
});

async function stopped(one: Entrepot): Promise<Entrepot> {
  await one.stop();
  return one;
}

describe('a hosted prefix that is not open to anonymous clients (hosted.anonymous: none)', () => {
  const hosted = { prefixes: ['tools'], anonymous: 'none', shared: ['tools/base/**'] };
  const NOBODY = 'nobody may pull this: hosted.anonymous is none';
  const TENANTS = 'only tenants that are logged in may pull this (hosted.shared)';
  const heard = async (name: string, options = {}) => {
    const { status, text, headers } = await get(`${entrepot.url}/v2/${name}/manifests/v1`, options);
    return { status, body: text, asks: headers['www-authenticate'] !== undefined };
  };

  it('is described as such if nobody can log in', async () => {
    entrepot = await Entrepot.start(config({}, { hosted }));
    expect(await explained('tools/app')).toContain(`- pull: no (${NOBODY}`);
    expect(await heard('tools/app')).toEqual({
      status: 403,
      body: expect.stringContaining(NOBODY),
      asks: false,
    });
  });

  it('requires a login if somebody can log in, and says what a login gives access to', async () => {
    const server = { serverNames: ['registry.example:5000'] };
    entrepot = await Entrepot.start(config({}, { hosted, server, tenants: [{ name: 'team-a' }] }));
    expect(await explained('tools/base/os')).toContain(`- pull: no (${TENANTS})`);
    expect(await explained('tools/app')).toContain(`- pull: no (${NOBODY}`);
    expect(await explained('tools/base/os', '--tenant', 'team-a')).toContain('- pull: yes');
    expect(await heard('tools/base/os')).toEqual({
      status: 401,
      body: expect.stringContaining(TENANTS),
      asks: true,
    });
    const { stdout } = await entrepot.command('tenant', 'secret', 'team-a', '--json');
    const secret = JSON.parse(JSON.parse(stdout).stringData['.dockerconfigjson']);
    const [login] = Object.values<{ auth: string }>(secret.auths);
    const authorization = `Basic ${login?.auth}`;
    expect(await heard('tools/app', { headers: { authorization } })).toMatchObject({
      status: 403,
      body: expect.stringContaining(NOBODY),
    });
    expect((await heard('tools/base/os', { headers: { authorization } })).status).toBe(404);
  });
});

it('says which tenant owns a repository, and what others may do', async () => {
  const tenants = [{ name: 'team-a' }, { name: 'team-b' }];
  entrepot = await Entrepot.start(config({}, { tenants, hosted: { shared: ['team-a/base/**'] } }));
  const own = '- it is hosted here and belongs to team-a\n';
  expect(await explained('team-a/app')).toContain(
    `${own}- pull, push, delete: no (only team-a may, with its own login)\n`,
  );
  expect(await explained('team-a/base/os')).toContain(
    `${own}- pull: no (only tenants that are logged in may pull this (hosted.shared))\n- push, delete: no (only team-a`,
  );
  expect(await explained('team-a/base/os', '--tenant', 'team-b')).toContain(
    '- pull: yes\n- push, delete: no',
  );
});
