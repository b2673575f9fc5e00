import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { codeOf, type GetOptions, type Got, get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { freePort } from '../support/programs.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import {
  basic,
  challengeOf,
  getAs,
  type Login,
  secretManifest,
  tokenFor,
  writeSecret,
} from '../support/tenants.ts';

const UP = 'up.example';
/** Upstream users: what the tenants' Secrets hold for it. */
const ALICE: Login = ['alice', 'alice-upstream'];
const WEAK: Login = ['weak', 'weak-upstream'];
const BOB: Login = ['bob', 'bob-upstream'];
/** Logins to Entrepot itself. */
const TEAM_A: Login = ['a', 'password-of-a'];
const TEAM_B: Login = ['b', 'password-of-b'];
const SHARED: Login = ['common', 'in-two-secrets'];

const secretLayer = randomBlob(300_000, 'secret layer');
const image = imageOf([secretLayer]);
/** So that the layer takes minutes: far longer than all questions together. */
const TRICKLE_BYTES_PER_S = 2_000;
const openImage = imageOf([randomBlob(10_000, 'open')]);

const users = {
  alice: { password: ALICE[1], repositories: ['acme/private'] },
  weak: { password: WEAK[1], repositories: [] as string[] },
  bob: { password: BOB[1], repositories: [] as string[] },
};

let upstream: FakeUpstream;
let entrepot: Entrepot;
let folder: string;
let host: string;

async function start(config: Readonly<Record<string, unknown>> = {}): Promise<void> {
  const tenants = ['team-a', 'team-b', 'team-c'].map(name => ({
    name,
    secrets: join(folder, `${name}.json`),
  }));
  entrepot = await Entrepot.start(
    {
      upstreams: { [UP]: { url: upstream.url } },
      tenants,
      ...config,
      server: { listen: host, serverNames: [host], ...(config['server'] as object) },
    },
    { folder },
  );
}

beforeEach(async () => {
  users.bob.repositories = [];
  users.alice.repositories = ['acme/private'];
  upstream = await FakeUpstream.start({ auth: { scheme: 'bearer', users, public: ['open'] } });
  upstream.add('acme/private', image, '1');
  upstream.add('open', openImage, '1');
  folder = await makeTempFolder('tenants');
  host = `127.0.0.1:${await freePort()}`;
  await writeSecret(join(folder, 'team-a.json'), { [host]: TEAM_A, [UP]: ALICE, [`${UP}/other`]: WEAK });
  await writeSecret(join(folder, 'team-b.json'), { [host]: TEAM_B, [UP]: BOB, [`${host}/x`]: SHARED });
  await writeSecret(join(folder, 'team-c.json'), { [host]: SHARED });
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

const url = (rest: string) => `${entrepot.url}/v2/${rest}`;
const byNs = (name: string, rest: string) => url(`${name}/${rest}?ns=${UP}`);
const byPrefix = (name: string, rest: string) => url(`${UP}/${name}/${rest}`);

const WAIT = /upstream is not asked again for \d+s: /g;

/** An answer without what may differ from one request to the next: the time, how long to wait, and how an upload is called. */
function bare({ status, phrase, headers, text }: Got, name: string): object {
  const { date: _date, location: _location, 'docker-upload-uuid': _upload, ...others } = headers;
  const wait = headers['retry-after']?.replace(/^\d+$/, 'seconds');
  const rest = wait === undefined ? others : { ...others, 'retry-after': wait };
  const answer = JSON.stringify({ status, phrase, rest, text });
  return JSON.parse(answer.replaceAll(name, 'NAME').replaceAll(WAIT, ''));
}

describe('a tenant', () => {
  it("pulls a private image with its pods' secret for the upstream, and with its own login", async () => {
    await start();
    for (const login of [ALICE, TEAM_A]) {
      for (const place of [byNs, byPrefix]) {
        const manifest = await getAs(login, place('acme/private', 'manifests/1'));
        expect([login[0], manifest.status]).toEqual([login[0], 200]);
        const blob = await getAs(login, place('acme/private', `blobs/${secretLayer.digest}`));
        expect(`sha256:${blob.sha256}`).toBe(secretLayer.digest);
      }
      const direct = await get(byNs('acme/private', 'manifests/1'), { headers: basic(login) });
      expect(direct.status).toBe(200);
    }
    expect(upstream.requests.filter(({ kind, status }) => kind === 'blob' && status === 200)).toHaveLength(1);
  });

  it('is asked to log in by GET /v2/, with one Bearer challenge with the full name', async () => {
    await start();
    const base = await get(`${entrepot.url}/v2/`);
    expect([base.status, challengeOf(base)]).toEqual([
      401,
      { realm: `${entrepot.url}/token`, service: host },
    ]);
    const hidden = await get(byNs('acme/private', 'manifests/1'));
    expect([hidden.status, challengeOf(hidden)['scope']]).toEqual([
      401,
      `repository:${UP}/acme/private:pull`,
    ]);
    const { token }: { token: string } = JSON.parse((await tokenFor(challengeOf(base), TEAM_A)).text);
    expect((await get(`${entrepot.url}/v2/`, { headers: { authorization: `Bearer ${token}` } })).status).toBe(
      200,
    );
  });

  it('is asked with a scope without a port, which covers that repository and nothing else', async () => {
    const ported = `${UP}:5000`;
    await writeSecret(join(folder, 'team-a.json'), { [host]: TEAM_A, [ported]: ALICE });
    await start({ upstreams: { [ported]: { url: upstream.url, aliases: ['alias.example'] } } });
    upstream.add('acme/other', image, '1');
    for (const place of [
      (name: string) => url(`alias.example/${name}/manifests/1`),
      (name: string) => url(`${ported}/${name}/manifests/1`),
      (name: string) => url(`${name}/manifests/1?ns=${ported}`),
    ]) {
      const asked = challengeOf(await get(place('acme/private')));
      // skopeo takes a scope of three parts alone.
      expect(asked['scope']).toBe('repository:alias.example/acme/private:pull');
      for (const login of [ALICE, TEAM_A]) {
        expect((await getAs(login, place('acme/private'))).status).toBe(200);
        const { token } = JSON.parse((await tokenFor(asked, login)).text) as { readonly token: string };
        const headers = { authorization: `Bearer ${token}` };
        expect((await get(place('acme/private'), { headers })).status).toBe(200);
        const other = await get(place('acme/other'), { headers });
        expect([other.status, challengeOf(other)['error']]).toEqual([401, 'insufficient_scope']);
      }
      expect((await getAs(TEAM_B, place('acme/private'))).status).not.toBe(200);
    }
    // What a scope asks for under the alias is given for the repository, where it allows nothing but pulls.
    const scope = 'repository:alias.example/acme/private:pull,push,delete';
    const { token } = JSON.parse(
      (await tokenFor({ ...challengeOf(await get(`${entrepot.url}/v2/`)), scope }, TEAM_A)).text,
    ) as { readonly token: string };
    const claims = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as object;
    expect(claims).toMatchObject({
      access: [{ type: 'repository', name: `${ported}/acme/private`, actions: ['pull', 'push', 'delete'] }],
    });
    const headers = { authorization: `Bearer ${token}` };
    const uploads = await get(url(`alias.example/acme/private/blobs/uploads/`), { method: 'POST', headers });
    expect([uploads.status, uploads.text]).toEqual([405, expect.stringContaining('can only be pulled')]);
    // Clients look at what is there before they push it.
    const look = url(`alias.example/acme/private/blobs/sha256:${'0'.repeat(64)}`);
    await upstream.stop();
    expect((await get(look, { method: 'HEAD', headers })).status).toBe(405);
    expect((await getAs(TEAM_A, look)).status).toBe(503);
  });

  it('gets public content without logging in', async () => {
    await start();
    expect((await getAs(undefined, byNs('open', 'manifests/1'))).status).toBe(200);
    expect((await get(byNs('open', 'manifests/1'))).status).toBe(200);
  });

  it('is refused at the token endpoint with a wrong password, even for stored content', async () => {
    await start();
    await getAs(ALICE, byNs('acme/private', 'manifests/1'));
    for (const wrong of [
      ['alice', 'guess'],
      ['nobody', 'x'],
    ] as const) {
      const got = await getAs(wrong, byNs('acme/private', 'manifests/1'));
      expect([got.status, codeOf(got)]).toEqual([401, 'UNAUTHORIZED']);
      expect((await get(byNs('acme/private', 'manifests/1'), { headers: basic(wrong) })).status).toBe(401);
    }
    expect(upstream.requests.some(({ username }) => username === 'nobody')).toBe(false);
  });

  it('is not identified by an empty user name or password', async () => {
    await start();
    await getAs(ALICE, byNs('acme/private', 'manifests/1'));
    for (const empty of [
      ['', ''],
      ['alice', ''],
      ['', 'alice-upstream'],
    ] as const) {
      expect((await getAs(empty, byNs('acme/private', 'manifests/1'))).status).toBe(401);
    }
  });

  it('cannot combine rights: one of its upstream credentials is not served by the right of another', async () => {
    await start();
    await writeSecret(join(folder, 'team-a.json'), { [host]: TEAM_A, [UP]: ALICE, [`${UP}/acme`]: WEAK });
    await until(
      async () => (await get(byNs('acme/private', 'manifests/1'), { headers: basic(WEAK) })).status === 404,
    );
    expect((await getAs(ALICE, byNs('acme/private', 'manifests/1'))).status).toBe(200);
    expect((await getAs(WEAK, byNs('acme/private', 'manifests/1'))).status).toBe(404);
    expect((await getAs(WEAK, byNs('acme/private', `blobs/${secretLayer.digest}`))).status).toBe(404);
    // With a login of ours both are tried, whichever stands first.
    expect((await getAs(TEAM_A, byNs('acme/private', 'manifests/1'))).status).toBe(200);
  });

  it('is not identified by a login to this registry that two tenants have', async () => {
    await start();
    const got = await get(url('team-c/app/manifests/1'), { headers: basic(SHARED) });
    expect(got.status).toBe(401);
    await until(async () => entrepot.logs().includes('is in the Secrets of several tenants'));
  });
});

/** Every question that could give away something of what another tenant holds. */
function questions(name: string, digest: string, blob: string): [string, string, GetOptions][] {
  const mounts = [`${UP}/${name}`, name].map((from): [string, string, GetOptions] => [
    `mount from ${from === name ? 'its bare name' : 'its full name'}`,
    url(`team-b/app/blobs/uploads/?mount=${blob}&from=${from}`),
    { method: 'POST' },
  ]);
  const reads = [byNs, byPrefix].flatMap(place =>
    ['GET', 'HEAD'].flatMap((method): [string, string, GetOptions][] => [
      ['tag', place(name, 'manifests/1'), { method }],
      ['digest', place(name, `manifests/${digest}`), { method }],
      ['layer', place(name, `blobs/${blob}`), { method }],
      ['config', place(name, `blobs/${image.config.digest}`), { method }],
      ['range', place(name, `blobs/${blob}`), { method, headers: { range: 'bytes=0-9' } }],
      ['manifest as blob', place(name, `blobs/${digest}`), { method }],
      ['referrers', place(name, `referrers/${digest}`), { method }],
      ['tags', place(name, 'tags/list'), { method }],
      ['known etag', place(name, `blobs/${blob}`), { method, headers: { 'if-none-match': `"${blob}"` } }],
    ]),
  );
  return [...reads, ...mounts];
}

/** As many of what lives here. */
function hostedQuestions(name: string): [string, string, GetOptions][] {
  const blob = secretLayer.digest;
  return ['', `?ns=${host}`].flatMap((query): [string, string, GetOptions][] => [
    ['manifest', url(`${name}/manifests/1${query}`), {}],
    ['manifest head', url(`${name}/manifests/1${query}`), { method: 'HEAD' }],
    ['manifest put', url(`${name}/manifests/1${query}`), { method: 'PUT', body: '{}' }],
    ['manifest delete', url(`${name}/manifests/1${query}`), { method: 'DELETE' }],
    ['layer', url(`${name}/blobs/${blob}${query}`), {}],
    ['layer head', url(`${name}/blobs/${blob}${query}`), { method: 'HEAD' }],
    ['layer delete', url(`${name}/blobs/${blob}${query}`), { method: 'DELETE' }],
    ['tags', url(`${name}/tags/list${query}`), {}],
    ['referrers', url(`${name}/referrers/${blob}${query}`), {}],
    ['upload', url(`${name}/blobs/uploads/${query}`), { method: 'POST' }],
    ['upload state', url(`${name}/blobs/uploads/x${query}`), {}],
    ['mount', url(`team-b/app/blobs/uploads/?mount=${blob}&from=${name}`), { method: 'POST' }],
    ['token', `${entrepot.url}/token?service=${host}&scope=repository:${name}:pull,push`, { method: 'HEAD' }],
  ]);
}

/** The login with the request itself. */
function sent(login: Login | undefined): { headers?: Readonly<Record<string, string>> } {
  return login === undefined ? {} : { headers: basic(login) };
}

/** What gives content away: the whole, a part, that it is as the client has it, or that it was mounted. */
const GIVES_CONTENT: ReadonlySet<number> = new Set([200, 201, 206, 304]);

/** No error is so long. A body that is longer is left, for it may trickle in for minutes. */
const LONGER_THAN_ERRORS = 2_000;

/** Asks everything about what is private, and as much about what does not exist: the answers must be the same. */
async function expectHidden(login: Login | undefined): Promise<void> {
  const { digest } = image.manifest;
  const absent = questions('acme/nothing', digest, secretLayer.digest);
  for (const [index, [what, address, options]] of questions(
    'acme/private',
    digest,
    secretLayer.digest,
  ).entries()) {
    const [, other, otherOptions] = absent[index] ?? ['', '', {}];
    const leaveAtByte = LONGER_THAN_ERRORS;
    const askBoth = async () =>
      [
        await getAs(login, address, { ...options, leaveAtByte }),
        await getAs(login, other, { ...otherOptions, leaveAtByte }),
      ] as const;
    let [refused, unknown] = await askBoth();
    const answers = () => [bare(refused, 'acme/private'), bare(unknown, 'acme/nothing')] as const;
    // What is remembered of an upstream that is away may end between the two, which then say so in other words.
    for (let again = 0; again < 2 && refused.status === 503; again += 1)
      if (!isDeepStrictEqual(...answers())) [refused, unknown] = await askBoth();
    const [one, another] = answers();
    expect([what, one]).toEqual([what, another]);
    const given = [GIVES_CONTENT.has(refused.status), refused.headers['cache-status']];
    expect([what, ...given]).toEqual([what, false, undefined]);
  }
}

/** All that is asked for but the layer, so that it is held, lists too. */
async function fetchAs(login: Login): Promise<void> {
  const { digest } = image.manifest;
  for (const rest of ['manifests/1', 'tags/list', `referrers/${digest}`, `blobs/${image.config.digest}`]) {
    const got = await getAs(login, byNs('acme/private', rest));
    expect([rest, got.status]).toEqual([rest, 200]);
  }
}

describe('content that a tenant has fetched', () => {
  const strangers: [string, Login | undefined][] = [
    ['another tenant by its upstream credential', BOB],
    ['another tenant by its login', TEAM_B],
    ['nobody', undefined],
  ];

  it.each(strangers)(
    'is for %s exactly like something that does not exist, while it is fetched',
    async (_who, login) => {
      await start();
      await fetchAs(ALICE);
      upstream.misbehave({ kind: 'blob', reference: secretLayer.digest, bytesPerS: TRICKLE_BYTES_PER_S });
      let received = 0;
      const blob = byNs('acme/private', `blobs/${secretLayer.digest}`);
      const onData = (bytes: number) => void (received = bytes);
      let pull: Promise<Got> | undefined;
      await new Promise<void>(onFirstByte => {
        pull = get(blob, { headers: basic(ALICE), onFirstByte, onData });
      });
      await expectHidden(login);
      expect(received).toBeLessThan(secretLayer.size);
      await entrepot.kill();
      expect(await pull).toMatchObject({ status: 200, complete: false });
    },
    120_000,
  );

  it.each(strangers)(
    'is for %s exactly like something that does not exist, when it is stored and with upstream stopped',
    async (_who, login) => {
      await start();
      await fetchAs(ALICE);
      const layer = byNs('acme/private', `blobs/${secretLayer.digest}`);
      expect((await getAs(ALICE, layer)).status).toBe(200);
      await expectHidden(login);
      await upstream.stop();
      // What upstream has just refused is answered for a while without asking: a new process asks everything anew.
      await entrepot.stop();
      entrepot = await entrepot.startAgain();
      await expectHidden(login);
    },
    120_000,
  );

  it('is served to another tenant once upstream allows it: after one HEAD, and without fetching a blob again', async () => {
    await start();
    const manifest = byNs('acme/private', 'manifests/1');
    const blob = byNs('acme/private', `blobs/${secretLayer.digest}`);
    await getAs(ALICE, manifest);
    await until(async () => (await getAs(ALICE, blob)).headers['cache-status'] === 'entrepot; hit');
    users.bob.repositories = ['acme/private'];
    upstream.requests.length = 0;
    // Without the anonymous attempt of most clients, which upstream is asked about again after a while.
    expect((await get(manifest, { headers: basic(BOB) })).status).toBe(200);
    expect((await get(blob, { headers: basic(BOB) })).status).toBe(200);
    expect(upstream.count('blob')).toBe(0);
    expect(upstream.requests.filter(({ kind }) => kind === 'manifest').map(({ method }) => method)).toEqual([
      'HEAD',
    ]);
  });

  it('is refused after verifyFor if upstream has withdrawn the right, and at once when that is known', async () => {
    await start({ verifyFor: '1s', staleGrantFor: '1h' });
    const blob = byNs('acme/private', `blobs/${secretLayer.digest}`);
    await getAs(ALICE, byNs('acme/private', 'manifests/1'));
    expect((await getAs(ALICE, blob)).status).toBe(200);
    users.alice.repositories = [];
    upstream.revokeTokens();
    await until(async () => (await get(blob, { headers: basic(ALICE) })).status === 404);
    await upstream.stop();
    // It has ended: that upstream cannot be reached now does not bring it back.
    expect((await get(blob, { headers: basic(ALICE) })).status).not.toBe(200);
  });

  it.each([[{ status: 500 }], [{ status: 429 }], [{ reset: true }]])(
    'needs a proof: if upstream answers %o there is no new one, and an old one is valid for staleGrantFor',
    async misbehaviour => {
      await start({ verifyFor: '1s', staleGrantFor: '1h' });
      const blob = byNs('acme/private', `blobs/${secretLayer.digest}`);
      await getAs(ALICE, byNs('acme/private', 'manifests/1'));
      expect((await getAs(ALICE, blob)).status).toBe(200);
      users.bob.repositories = ['acme/private'];
      upstream.misbehave({ ...misbehaviour });
      await new Promise(resolve => setTimeout(resolve, 1_100));
      expect((await get(blob, { headers: basic(ALICE) })).status).toBe(200);
      expect((await get(blob, { headers: basic(BOB) })).status).toBeGreaterThanOrEqual(429);
    },
  );
});

describe('hosted repositories', () => {
  it('belong to the tenant of their first component, for pull and push', async () => {
    await start();
    expect((await push('team-a/app', basic(TEAM_A))).status).toBe(201);
    const blob = url(`team-a/app/blobs/${secretLayer.digest}`);
    expect((await getAs(TEAM_A, blob)).status).toBe(200);
    for (const login of [TEAM_B, ALICE]) {
      const refused = await getAs(login, blob);
      expect(refused.status).toBeGreaterThanOrEqual(401);
      expect((await push('team-a/app', basic(login))).status).toBeGreaterThanOrEqual(401);
    }
    expect((await get(blob)).status).toBe(401);
    const mounted = await get(url(`team-b/app/blobs/uploads/?mount=${secretLayer.digest}&from=team-a/app`), {
      method: 'POST',
      headers: basic(TEAM_B),
    });
    expect(mounted.status).toBe(202);
  });

  it('are for all others exactly like a name that no tenant has', async () => {
    await start();
    expect((await push('team-a/app', basic(TEAM_A))).status).toBe(201);
    for (const login of [TEAM_B, ALICE, undefined]) {
      // As long as the real one: the length of the answer tells no more.
      for (const absent of ['team-a/non', 'nobody/app']) {
        const nothing = hostedQuestions(absent);
        for (const [index, [what, address, options]] of hostedQuestions('team-a/app').entries()) {
          const [, other, otherOptions] = nothing[index] ?? ['', '', {}];
          const refused = bare(await getAs(login, address, options), 'team-a/app');
          expect([what, refused]).toEqual([what, bare(await getAs(login, other, otherOptions), absent)]);
          const direct = bare(await get(address, { ...options, ...sent(login) }), 'team-a/app');
          const unknown = bare(await get(other, { ...otherOptions, ...sent(login) }), absent);
          expect([what, direct]).toEqual([what, unknown]);
        }
      }
    }
  });

  it('may be shared with other tenants, for pulling', async () => {
    await start({ hosted: { shared: ['team-a/base/**'] } });
    await push('team-a/base/os', basic(TEAM_A));
    const blob = url(`team-a/base/os/blobs/${secretLayer.digest}`);
    expect((await getAs(TEAM_B, blob)).status).toBe(200);
    expect((await get(blob)).status).toBe(401);
    expect((await push('team-a/base/os', basic(TEAM_B))).status).toBeGreaterThanOrEqual(403);
  });

  it('are listed only to who may pull them', async () => {
    await start();
    await push('team-a/app', basic(TEAM_A));
    expect(await listed(basic(TEAM_A))).toEqual({ repositories: ['team-a/app'] });
    expect(await listed(basic(TEAM_B))).toEqual({ repositories: [] });
    expect(await listed()).toEqual({ repositories: [] });
  });
});

describe('a secret', () => {
  it('counts within seconds of being written, and its Grants end when it is removed', async () => {
    await start();
    const manifest = byNs('acme/private', 'manifests/1');
    expect((await getAs(ALICE, manifest)).status).toBe(200);
    await writeSecret(join(folder, 'team-a.json'), { [host]: TEAM_A });
    await until(async () => (await get(manifest, { headers: basic(ALICE) })).status === 401);
    expect((await getAs(TEAM_A, manifest)).status).toBe(404);
    await writeSecret(join(folder, 'team-a.json'), { [host]: TEAM_A, [UP]: ALICE });
    await until(async () => (await get(manifest, { headers: basic(ALICE) })).status === 200);
  });

  it("that is malformed makes its tenant's pulls fail with the reason, and nobody else's, until it is corrected", async () => {
    const good = join(folder, 'team-b.json');
    const bad = join(folder, 'team-b-more.json');
    const text = secretManifest('broken-pull', { 'other.example': BOB });
    await writeFile(bad, text.replace(/"\.dockerconfigjson":"[^"]*"/, '".dockerconfigjson":"bm90IEpTT04="'));
    await start({
      tenants: [
        { name: 'team-a', secrets: join(folder, 'team-a.json') },
        { name: 'team-b', secrets: [good, bad] },
      ],
    });
    const open = byNs('open', 'manifests/1');
    const failed = await get(open, { headers: basic(TEAM_B) });
    expect([failed.status, codeOf(failed)]).toEqual([503, 'UNAVAILABLE']);
    expect(failed.text).toMatch(/team-b: the Secret \S*broken-pull\S* is malformed/);
    expect((await getAs(ALICE, byNs('acme/private', 'manifests/1'))).status).toBe(200);
    expect((await get(open, { headers: basic(TEAM_A) })).status).toBe(200);
    expect((await get(open)).status).toBe(200);
    expect((await entrepot.command('tenants')).stdout).toMatch(/broken-pull.*malformed/);
    await writeFile(bad, text);
    await until(async () => (await get(open, { headers: basic(TEAM_B) })).status === 200);
  });
});

describe('entrepot explain', () => {
  const explained = async (...args: string[]) => {
    const result = await entrepot.command('explain', ...args, '--tenant', 'team-a');
    return `${result.stdout}${result.stderr}`;
  };

  it('lists which credentials match in which order, what is proved, and what would happen', async () => {
    await start();
    const before = await explained(`${UP}/acme/private:1`);
    expect(before).toMatch(/1\. [0-9a-f]{12} +alice +pull +file +up\.example +none/);
    expect(before).toContain('its answer decides, and no stored content is served without it');
    await getAs(ALICE, byNs('acme/private', 'manifests/1'));
    expect(await explained(`${UP}/acme/private:1`)).toMatch(
      /alice .* valid, recorded .*\n\n- stored content is served/,
    );
    expect(await explained(`${host}/team-b/app`)).toContain('belongs to team-b\n- pull, push, delete: no');
    expect(await explained(`${host}/team-a/app`)).toContain('- pull, push, delete: yes');
    expect(await explained('no.example/app')).toContain('not a configured upstream');
    await entrepot.stop();
    expect(await explained(`${UP}/acme/private:1`)).toMatch(
      /no server answers[^]*valid, recorded|valid, recorded[^]*no server answers/,
    );
  });
});

async function until(check: () => Promise<boolean>): Promise<void> {
  const deadlineMs = Date.now() + 60_000;
  while (!(await check())) {
    if (Date.now() > deadlineMs) throw new Error('it never came true');
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}

async function push(name: string, headers: Readonly<Record<string, string>>): Promise<Got> {
  return get(url(`${name}/blobs/uploads/?digest=${secretLayer.digest}`), {
    method: 'POST',
    headers: { ...headers, 'content-length': String(secretLayer.size) },
    body: Buffer.concat(Array.from(secretLayer.slice())),
  });
}

async function listed(headers: Readonly<Record<string, string>> = {}): Promise<unknown> {
  return JSON.parse((await get(url('_catalog'), { headers })).text);
}
