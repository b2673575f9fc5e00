import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { request } from 'node:https';
import { join } from 'node:path';
import { TLSSocket } from 'node:tls';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { codeOf, get, many } from '../support/client.ts';
import { bytesOf, type Content, imageOf, indexOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { freePort } from '../support/programs.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import { basic, challengeOf, getAs, type Login, tokenFor, writeSecret } from '../support/tenants.ts';

const UP = 'up.example';
const ALICE: Login = ['alice', 'alice-upstream'];
const BOB: Login = ['bob', 'bob-upstream'];
const TEAM_A: Login = ['a', 'password-of-a'];
const MIB = 1024 * 1024;

const layer = randomBlob(4 * MIB, 'layer');
const image = imageOf([layer]);

let upstream: FakeUpstream;
let entrepot: Entrepot | undefined;
let folder: string;
let host: string;
let users: Record<'alice' | 'bob', { password: string; repositories: string[] }>;

beforeEach(async () => {
  users = {
    alice: { password: ALICE[1], repositories: ['acme/private'] },
    bob: { password: BOB[1], repositories: ['acme/private'] },
  };
  upstream = await FakeUpstream.start({ auth: { scheme: 'bearer', users, public: ['library/open'] } });
  upstream.add('acme/private', image, '1');
  upstream.add('library/open', imageOf([randomBlob(1_000, 'open')]), '1');
  folder = await makeTempFolder('rules');
  host = `127.0.0.1:${await freePort()}`;
  await writeSecret(join(folder, 'a.json'), { [host]: TEAM_A, [UP]: ALICE });
  await writeSecret(join(folder, 'b.json'), { [UP]: BOB });
});

afterEach(async () => {
  await entrepot?.remove();
  entrepot = undefined;
  await upstream.stop();
});

interface Rules {
  /** Options of team-a. */
  readonly tenant?: Readonly<Record<string, unknown>>;
  readonly server?: Readonly<Record<string, unknown>>;
  readonly rest?: Readonly<Record<string, unknown>>;
}

async function start({ tenant = {}, server = {}, rest = {} }: Rules = {}): Promise<Entrepot> {
  entrepot = await Entrepot.start(
    {
      upstreams: { [UP]: { url: upstream.url } },
      tenants: [
        { name: 'team-a', secrets: join(folder, 'a.json'), ...tenant },
        { name: 'team-b', secrets: join(folder, 'b.json') },
      ],
      ...rest,
      server: { listen: host, serverNames: [host], ...server },
    },
    { folder },
  );
  return entrepot;
}

const manifest = (server: Entrepot) => `${server.url}/v2/acme/private/manifests/1?ns=${UP}`;
const blob = (server: Entrepot) => `${server.url}/v2/acme/private/blobs/${layer.digest}?ns=${UP}`;

describe('the rules of a tenant', () => {
  it('Always asks upstream for each of its tags; other tenants are served what is fresh', async () => {
    const server = await start({ tenant: { pullPolicy: 'Always' } });
    for (const login of [ALICE, BOB]) await get(manifest(server), { headers: basic(login) });
    upstream.requests.length = 0;
    await get(manifest(server), { headers: basic(BOB) });
    expect(upstream.count('manifest')).toBe(0);
    await get(manifest(server), { headers: basic(ALICE) });
    expect(upstream.count('manifest')).toBe(1);
  });

  it('forceAlways serves no tag without upstream, even if the right was proved a moment ago', async () => {
    const server = await start({ tenant: { forceAlways: true } });
    for (const login of [ALICE, BOB]) {
      expect((await get(manifest(server), { headers: basic(login) })).status).toBe(200);
    }
    await upstream.stop();
    expect((await get(manifest(server), { headers: basic(BOB) })).status).toBe(200);
    expect((await get(manifest(server), { headers: basic(ALICE) })).status).toBe(503);
  });

  it('restrict it to its upstreams and repositories', async () => {
    const server = await start({ tenant: { repositories: [`${UP}/library/**`] } });
    const refused = await get(manifest(server), { headers: basic(TEAM_A) });
    expect([refused.status, codeOf(refused)]).toEqual([403, 'DENIED']);
    const open = `${server.url}/v2/library/open/manifests/1?ns=${UP}`;
    expect((await get(open, { headers: basic(TEAM_A) })).status).not.toBe(404);
    expect(upstream.requests.filter(({ repository }) => repository === 'acme/private')).toEqual([]);
  });

  it('limit what it pushes, with a clear error', async () => {
    const server = await start({ tenant: { quotaBytes: '1MiB' } });
    const pushed = await get(`${server.url}/v2/team-a/app/blobs/uploads/?digest=${layer.digest}`, {
      method: 'POST',
      headers: basic(TEAM_A),
      body: Buffer.concat(Array.from(layer.slice())),
    });
    expect([pushed.status, codeOf(pushed)]).toEqual([403, 'DENIED']);
    expect(pushed.text).toContain('the quota of team-a is used up: its repositories may store 1MiB');
  });

  it('limit an image whose blobs each fit, and say how much is used and how much more was needed', async () => {
    const server = await start({ tenant: { quotaBytes: '1MiB' } });
    const push = (content: Content) =>
      get(`${server.url}/v2/team-a/app/blobs/uploads/?digest=${content.digest}`, {
        method: 'POST',
        headers: basic(TEAM_A),
        body: bytesOf(content),
      });
    expect((await push(randomBlob(786_432, 'most'))).status).toBe(201);
    const refused = await push(randomBlob(524_288, 'more'));
    expect([refused.status, codeOf(refused)]).toEqual([403, 'DENIED']);
    expect(refused.text).toContain('768 KiB is used; this needs 512 KiB, which is 256 KiB too much');
    expect(refused.text).toContain('the quota (quotaBytes) is too small for it');
  });

  it('limit what it pushes, and the use is shown', async () => {
    const server = await start({ tenant: { quotaBytes: '1MiB' } });
    // The second one counts as a block.
    for (const content of [randomBlob(258_048, 'large'), randomBlob(3, 'small')]) {
      const pushed = await get(`${server.url}/v2/team-a/app/blobs/uploads/?digest=${content.digest}`, {
        method: 'POST',
        headers: basic(TEAM_A),
        body: bytesOf(content),
      });
      expect(pushed.status).toBe(201);
    }
    const { stdout } = await server.command('tenants');
    expect(stdout).toMatch(/\n\nTENANT +STORED +QUOTA *\nteam-a +256 KiB +1\.0 MiB +25 %\n$/);
    const { tenants } = JSON.parse((await server.command('tenants', '--json')).stdout);
    expect(tenants).toMatchObject([
      { name: 'team-a', usedBytes: 262_144, quotaBytes: 1_048_576 },
      { name: 'team-b', usedBytes: 0, quotaBytes: null },
    ]);
    const samples = async () => (await server.metrics()).match(/^entrepot_tenant_\w+_bytes.*$/gm);
    expect(await samples()).toEqual([
      'entrepot_tenant_used_bytes{tenant="team-a"} 262144',
      'entrepot_tenant_quota_bytes{tenant="team-a"} 1048576',
    ]);
  });

  it('limit what is imported for it, too, and leave nothing of a refused import behind', async () => {
    const server = await start({ tenant: { quotaBytes: '1MiB' } });
    const bundle = join(folder, 'bundle.tar');
    await server.command('pull', `${UP}/acme/private:1`, '--tenant', 'team-a');
    await server.command('export', `${UP}/acme/private:1`, '-o', bundle);
    const importTo = (name: string) => server.command('import', bundle, '--rename', name);
    const refused = await importTo(`${host}/team-a/app:1`);
    expect([refused.code, refused.stderr]).toEqual([
      1,
      expect.stringContaining('the quota of team-a is used up'),
    ]);
    const listed = await get(`${server.url}/v2/team-a/app/tags/list`, { headers: basic(TEAM_A) });
    expect(listed.status).toBe(404);
    expect(await importTo(`${host}/team-b/app:1`)).toMatchObject({ code: 0 });
  });

  it('limit its transfers from upstream, in a queue of its own', async () => {
    const layers = ['1', '2', '3'].map(name => randomBlob(100_000, `layer ${name}`));
    const [slow, queued, free] = layers.map(({ digest }) => digest);
    upstream.add('acme/private', imageOf(layers), 'layers');
    upstream.misbehave({ kind: 'blob', reference: slow ?? '', bytesPerS: 2_000 });
    const server = await start({ tenant: { maxTransfers: 1 } });
    const pull = (login: Login, digest: string | undefined) =>
      get(`${server.url}/v2/acme/private/blobs/${digest}?ns=${UP}`, { headers: basic(login) });
    const fetched = () => upstream.downloads().map(({ reference }) => reference);
    for (const login of [ALICE, BOB]) {
      await get(`${server.url}/v2/acme/private/manifests/layers?ns=${UP}`, { headers: basic(login) });
    }
    const first = pull(ALICE, slow);
    await expect.poll(fetched).toEqual([slow]);
    const second = pull(ALICE, queued);
    expect((await pull(BOB, free)).status).toBe(200);
    expect(fetched()).toEqual([slow, free]);
    // Another who wants the same has a turn of his own to give, and both get it.
    expect((await pull(BOB, queued)).status).toBe(200);
    expect((await second).status).toBe(200);
    expect(fetched()).toEqual([slow, free, queued]);
    await server.kill();
    expect((await first).complete).toBe(false);
  });

  it('may forbid pushing', async () => {
    const server = await start({ tenant: { push: false } });
    const begun = await get(`${server.url}/v2/team-a/app/blobs/uploads/`, {
      method: 'POST',
      headers: basic(TEAM_A),
    });
    expect([begun.status, codeOf(begun)]).toEqual([403, 'DENIED']);
  });
});

describe('a port that belongs to an upstream', () => {
  it('accepts names without an upstream and an unknown login, as Docker sends both', async () => {
    const address = `127.0.0.1:${await freePort()}`;
    const server = await start({ server: { listen: [host, { address, upstream: UP }] } });
    const plain = `http://${address}/v2/library/open/manifests/1`;
    expect((await get(plain, { headers: basic(['somebody', 'at-hub']) })).status).toBe(200);
    expect((await getAs(['somebody', 'at-hub'], `http://${address}/v2/`)).status).toBe(200);
    expect((await getAs(['somebody', 'at-hub'], plain)).status).toBe(200);
    // The realm is on the same port, so that a token there means the same.
    expect((await getAs(ALICE, `http://${address}/v2/acme/private/manifests/1`)).status).toBe(200);
    expect((await getAs(['somebody', 'at-hub'], manifest(server))).status).toBe(401);
  });
});

describe('a download that one tenant began', () => {
  it("continues with the right of another that has joined, when upstream withdraws the first one's", async () => {
    const server = await start();
    for (const login of [ALICE, BOB]) await get(manifest(server), { headers: basic(login) });
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, bytesPerS: MIB / 2, cutAtByte: 2 * MIB });
    let joined: Promise<Awaited<ReturnType<typeof get>>> | undefined;
    const first = await get(blob(server), {
      headers: basic(ALICE),
      onFirstByte: () => {
        joined = get(blob(server), { headers: basic(BOB) });
        users.alice.repositories = [];
        upstream.revokeTokens();
      },
    });
    const second = await joined;
    expect([second?.status, `sha256:${second?.sha256}`]).toEqual([200, layer.digest]);
    // Who was admitted gets what it was promised.
    expect(first.complete ? `sha256:${first.sha256}` : 'broken off').toBe(layer.digest);
    expect(upstream.downloads().filter(({ status }) => status === 206)).toHaveLength(1);
  });
});

describe('a rotation of secrets', () => {
  it('refuses no valid credential, while twenty clients pull', async () => {
    const server = await start();
    const rotated: Login = ['a2', 'next-password-of-a'];
    await get(manifest(server), { headers: basic(TEAM_A) });
    const pulls = { areOver: false };
    const refused: number[] = [];
    const pulling = many(20, async () => {
      while (!pulls.areOver) {
        const got = await getAs(TEAM_A, manifest(server));
        if (got.status !== 200) refused.push(got.status);
      }
    });
    // With an overlap, as `entrepot tenant rotate` makes one: both count, then only the new one.
    for (let turn = 0; turn < 5; turn += 1) {
      await writeSecret(join(folder, 'a.json'), { [`${host}/acme`]: rotated, [host]: TEAM_A, [UP]: ALICE });
      await new Promise(resolve => setTimeout(resolve, 200));
      await writeSecret(join(folder, 'a.json'), { [host]: TEAM_A, [UP]: ALICE });
      await new Promise(resolve => setTimeout(resolve, 200));
    }
    pulls.areOver = true;
    await pulling;
    expect(refused).toEqual([]);
  });
});

describe('an upstream that never responds', () => {
  it('proves nothing: without a Grant a client is refused in time, and with a recently expired one it is served', async () => {
    const server = await start({ rest: { verifyFor: '1s', staleGrantFor: '1h' } });
    await get(manifest(server), { headers: basic(ALICE) });
    await get(blob(server), { headers: basic(ALICE) });
    await new Promise(resolve => setTimeout(resolve, 1_100));
    upstream.misbehave({ hang: true });
    const served = await get(blob(server), { headers: basic(ALICE) });
    expect([served.status, served.headers['cache-status']]).toEqual([
      200,
      'entrepot; fwd=stale; detail=upstream-failed',
    ]);
    expect((await get(blob(server), { headers: basic(BOB) })).status).toBe(503);
  });
});

describe('the verification policy', () => {
  it('is the general one unless an upstream has its own, and its allow-list names repositories', async () => {
    const upstreams = ['strict.example', 'lax.example', 'listed.example', 'unlisted.example'];
    for (const [file, login] of [
      ['a.json', ALICE],
      ['b.json', BOB],
    ] as const) {
      await writeSecret(join(folder, file), Object.fromEntries(upstreams.map(name => [name, login])));
    }
    const { url } = upstream;
    const allowlisted = { url, imagePullCredentialsVerificationPolicy: 'NeverVerifyAllowListedImages' };
    const server = await start({
      rest: {
        imagePullCredentialsVerificationPolicy: 'AlwaysVerify',
        preloadedImagesVerificationAllowlist: ['listed.example/acme/private'],
        upstreams: {
          'strict.example': { url },
          'lax.example': { url, imagePullCredentialsVerificationPolicy: 'NeverVerify' },
          'listed.example': allowlisted,
          'unlisted.example': allowlisted,
        },
      },
    });
    users.bob.repositories = [];
    const statuses = async (login: Login) =>
      Promise.all(
        upstreams.map(async name => {
          const held = `${server.url}/v2/acme/private/manifests/1?ns=${name}`;
          return (await get(held, { headers: basic(login) })).status;
        }),
      );
    expect(await statuses(ALICE)).toEqual([200, 200, 200, 200]);
    expect(await statuses(BOB)).toEqual([404, 200, 200, 404]);
  });
});

describe('unknown credentials', () => {
  it('are tried upstream with unknownCredentials: verify, for requests that name the upstream', async () => {
    const server = await start({ rest: { unknownCredentials: 'verify', tenants: [] } });
    expect((await getAs(ALICE, manifest(server))).status).toBe(200);
    expect((await getAs(['alice', 'wrong'], manifest(server))).status).toBe(404);
    users.bob.repositories = [];
    expect((await getAs(BOB, blob(server))).status).toBe(404);
    expect((await getAs(ALICE, `${server.url}/v2/${UP}/acme/private/manifests/1`)).status).toBe(401);
  });
});

describe('two processes on one store', () => {
  it('accept the token that the other one made for an unknown credential', async () => {
    const rest = { unknownCredentials: 'verify', tenants: [] };
    const first = await start({ rest });
    const second = await Entrepot.start({
      upstreams: { [UP]: { url: upstream.url } },
      storage: { path: join(folder, 'store') },
      server: { serverNames: [host] },
      ...rest,
    });
    try {
      const answered = await tokenFor(challengeOf(await get(manifest(first))), ALICE);
      const { token }: { token: string } = JSON.parse(answered.text);
      const headers = { authorization: `Bearer ${token}` };
      expect((await get(manifest(second), { headers })).status).toBe(200);
    } finally {
      await second.remove();
    }
  });
});

describe('on the command line', () => {
  it("a pull for a tenant proves its right, and nobody else's", async () => {
    const server = await start();
    users.bob.repositories = [];
    const pulled = await server.command('pull', `${UP}/acme/private:1`, '--tenant', 'team-a');
    expect([pulled.code, pulled.stderr]).toEqual([0, expect.stringContaining('1 of 1 images are stored')]);
    upstream.requests.length = 0;
    expect((await get(blob(server), { headers: basic(TEAM_A) })).status).toBe(200);
    expect(upstream.requests).toEqual([]);
    expect((await get(blob(server), { headers: basic(BOB) })).status).toBe(404);
    expect((await server.command('pull', `${UP}/acme/private:1`, '--tenant', 'nobody')).code).not.toBe(0);
  });

  it('an import for a tenant is for that tenant only, with and without upstream', async () => {
    const server = await start();
    const bundle = join(folder, 'bundle.tar');
    await server.command('pull', `${UP}/acme/private:1`, '--tenant', 'team-a');
    const exported = await server.command('export', `${UP}/acme/private:1`, '-o', bundle);
    expect(exported.code).toBe(0);
    await server.command('rm', `${UP}/acme/private`);
    await upstream.stop();
    expect((await get(blob(server), { headers: basic(TEAM_A) })).status).not.toBe(200);
    const refused = await server.command('import', bundle);
    expect([refused.code, refused.stderr]).toEqual([
      1,
      expect.stringContaining('grant it to one tenant with --tenant'),
    ]);
    const imported = await server.command('import', bundle, '--tenant', 'team-a');
    expect([imported.code, imported.stderr]).toEqual([0, expect.any(String)]);
    for (const login of [TEAM_A, ALICE]) {
      expect((await get(blob(server), { headers: basic(login) })).status).toBe(200);
    }
    expect((await get(blob(server), { headers: basic(BOB) })).status).not.toBe(200);
    expect((await get(blob(server))).status).not.toBe(200);
    expect((await server.command('import', bundle, '--public')).code).toBe(0);
    expect((await get(blob(server))).status).toBe(200);
  });

  it('an export of what was imported for everybody is private if a part of it was imported for a tenant', async () => {
    const platform = { os: 'linux', architecture: 'arm64' };
    const [arm, signature] = [randomBlob(1_000, 'arm64'), randomBlob(100, 'signature')];
    const both = indexOf([image, imageOf([arm], { platform })]);
    upstream.add('library/open', both, 'both');
    upstream.add('library/open', imageOf([signature], { subject: both.manifest }), 'signature');
    const reference = `${UP}/library/open:both`;
    const server = await start();
    await server.command('pull', reference, '--all-platforms', '--tenant', 'team-a');
    await server.command('pull', `${UP}/library/open:signature`, '--tenant', 'team-a');
    const exported = async (name: string, ...more: string[]) => {
      const file = join(folder, name);
      expect(await server.command('export', reference, '-o', file, ...more)).toMatchObject({ code: 0 });
      return file;
    };
    const open = await exported('open.tar', '--platform', 'linux/amd64');
    const whole = await exported('whole.tar', '--all-platforms', '--referrers');
    await server.command('rm', `${UP}/library/open`);
    expect(await server.command('import', open, '--public')).toMatchObject({ code: 0 });
    expect(await server.command('import', whole, '--tenant', 'team-a')).toMatchObject({ code: 0 });
    const isOpen = async (...options: string[]) => {
      const file = await exported('again.tar', ...options);
      const { code, stderr } = await server.command('import', '--dry-run', file);
      expect(code === 0).toBe(!stderr.includes('is marked as private'));
      return code === 0;
    };
    expect(await isOpen('--platform', 'linux/amd64')).toBe(true);
    expect(await isOpen('--platform', 'linux/amd64', '--referrers')).toBe(false);
    expect(await isOpen('--all-platforms')).toBe(false);
  });

  it('an export of a tenant’s own repository is private, whatever anonymous clients may do elsewhere', async () => {
    const server = await start({ rest: { hosted: { prefixes: ['tools'], anonymous: 'pull' } } });
    const [file, reference] = [join(folder, 'own.tar'), 'team-a/app:1'];
    const named = `${UP}/acme/private:1`;
    await server.command('pull', named, '--tenant', 'team-a');
    await server.command('export', named, '-o', file);
    const placed = await server.command('import', file, '--rename', `${named}=${reference}`);
    expect(placed).toMatchObject({ code: 0 });
    expect((await get(`${server.url}/v2/team-a/app/manifests/1`)).status).not.toBe(200);
    expect(await server.command('export', reference, '-o', file)).toMatchObject({
      code: 0,
      stderr: expect.stringContaining('; 1 marked as private'),
    });
    const copied = await server.command('import', file, '--rename', `team-a/app=${UP}/acme/copy`);
    expect(copied).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('is marked as private'),
    });
  });

  it('a pull for a tenant uses the platforms of the tenant', async () => {
    const platform = { os: 'linux', architecture: 'arm64' };
    const both = indexOf([image, imageOf([randomBlob(1_000, 'arm64')], { platform })]);
    upstream.add('acme/private', both, '2');
    const server = await start({ tenant: { platforms: 'linux/arm64' } });
    const reference = `${UP}/acme/private:2`;
    expect((await server.command('pull', reference, '--tenant', 'team-a')).code).toBe(0);
    const isHeld = async (name: string) =>
      (await server.command('check', reference, '--platform', name)).code === 0;
    expect([await isHeld('linux/arm64'), await isHeld('linux/amd64')]).toEqual([true, false]);
  });
});

describe('the audit log', () => {
  it('says who did what, with which result and why, and contains no secret', async () => {
    const auditFile = join(folder, 'audit.jsonl');
    const server = await start({ rest: { audit: { output: 'file', auditFile } } });
    await getAs(ALICE, manifest(server));
    await get(`${server.url}/v2/`);
    await get(`${server.url}/v2/`, { headers: basic(['alice', 'wrong-at-the-base']) });
    await getAs(['alice', 'wrong-password'], manifest(server));
    await get(manifest(server), { headers: basic(['alice', 'wrong-password']) });
    await get(`${server.url}/v2/team-a/app/manifests/1`, { headers: basic(TEAM_A) });
    await get(`${server.url}/token`, {
      method: 'POST',
      body: 'grant_type=password&username=alice&password=wrong-password',
    });
    await server.stop();
    const text = await readFile(auditFile, 'utf8');
    const lines = text
      .trim()
      .split('\n')
      .map((line): unknown => JSON.parse(line));
    expect(lines).toContainEqual(
      expect.objectContaining({
        tenant: 'team-a',
        credentialId: expect.stringMatching(/^[0-9a-f]{32}$/),
        action: 'pull',
        repository: `${UP}/acme/private`,
        reference: '1',
        outcome: 'allowed',
        time: expect.any(String),
      }),
    );
    const refused = { outcome: 'refused', reason: expect.stringContaining('password is wrong') };
    const refusals = lines.filter(line => expect.objectContaining(refused).asymmetricMatch(line));
    // At /v2/, at /token, with the pull itself, and at /token by a form; who merely asks whether he has to log in has done nothing.
    expect(refusals).toEqual(
      ['login', 'login', 'pull', 'login'].map(action =>
        expect.objectContaining({ action, username: 'alice', remote: '127.0.0.1' }),
      ),
    );
    expect(lines).toContainEqual(expect.objectContaining({ repository: 'team-a/app', outcome: 'refused' }));
    for (const [, password] of [ALICE, TEAM_A]) expect(text).not.toContain(password);
    expect(text).not.toMatch(/wrong-password|wrong-at-the-base/);
  });
});

describe('a push that a token does not cover', () => {
  it('has its reason in the log; the client hears no more than it may know', async () => {
    const server = await start({ rest: { hosted: { prefixes: ['tools'] } } });
    const issued = async (...options: string[]): Promise<Login> => {
      const { stdout } = await server.command('tenant', 'secret', 'team-a', '--json', ...options);
      const secret = JSON.parse(JSON.parse(stdout).stringData['.dockerconfigjson']);
      const [login] = Object.values<{ auth: string }>(secret.auths);
      const [name = '', password = ''] = Buffer.from(login?.auth ?? '', 'base64')
        .toString()
        .split(':');
      return [name, password];
    };
    const readOnly = await issued('--read-only');
    const ofApp = await issued('--server', `${host}/team-a/app`);
    const push = async (login: Login, repository: string) => {
      const path = `/v2/${repository}/blobs/uploads/`;
      const { status, text } = await getAs(login, server.url + path, { method: 'POST' });
      const { message }: { message: string } = JSON.parse(text).errors[0];
      return { status, message };
    };
    const logged = (repository: string): string | undefined => {
      const lines = server
        .logs()
        .split('\n')
        .filter(line => line.includes(`"repository":"${repository}"`));
      return lines.map((line): { reason?: string } => JSON.parse(line)).at(-1)?.reason;
    };
    const beyond = (repository: string) => `the token does not cover repository:${repository}:pull,push`;
    const unknown = (repository: string) =>
      `${beyond(repository)}: ${repository} is not known here: hosted repositories begin with a tenant's name or one of ` +
      'hosted.prefixes, and mirrored ones are requested as /v2/<upstream>/<repository>, with ?ns=<upstream>, or at a port ' +
      'or host name of their upstream';
    const told = 'this credential may not push, only pull';
    const nobody = 'nobody may push here: set hosted.anonymous to push to allow it';
    for (const [login, repository, message, hidden] of [
      [readOnly, 'team-a/app', `${beyond('team-a/app')}: ${told}`, undefined],
      [TEAM_A, 'tools/app', `${beyond('tools/app')}: ${nobody}`, undefined],
      [
        TEAM_A,
        'team-b/app',
        unknown('team-b/app'),
        'it belongs to team-b, so a login of team-b is needed to push',
      ],
      [
        TEAM_A,
        'team-c/app',
        unknown('team-c/app'),
        'team-c is neither a tenant nor listed in hosted.prefixes',
      ],
      [
        ofApp,
        'team-a/other',
        unknown('team-a/other'),
        'it belongs to team-a, which this login does not cover',
      ],
    ] as const) {
      expect(await push(login, repository)).toEqual({ status: 401, message });
      const reason = `UNAUTHORIZED: ${message}${hidden === undefined ? '' : ` (${hidden})`}`;
      await expect.poll(() => logged(repository), { timeout: 10_000 }).toBe(reason);
    }
  });

  it('of a login without a token is refused with the reason in the log, too', async () => {
    const server = await start();
    for (const [repository, reason] of [
      ['team-b/app', 'it belongs to team-b'],
      ['team-c/app', 'team-c is neither a tenant nor listed in hosted.prefixes'],
    ] as const) {
      const path = `/v2/${repository}/blobs/uploads/`;
      const { status, text } = await get(server.url + path, { method: 'POST', headers: basic(TEAM_A) });
      expect([status, text]).toEqual([404, expect.not.stringContaining('team-b is')]);
      expect(text).not.toContain(reason);
      await expect.poll(() => server.logs(), { timeout: 10_000 }).toContain(`(${reason}`);
    }
  });
});

describe('TLS on the port itself', () => {
  /** The subject of the certificate that the port shows, and the challenge that it answers with. */
  const shown = (): Promise<{ readonly subject: string; readonly challenge: string | undefined }> =>
    new Promise((resolve, reject) => {
      request(`https://${host}/v2/`, { rejectUnauthorized: false, agent: false }, response => {
        const { socket } = response;
        const subject = socket instanceof TLSSocket ? String(socket.getPeerCertificate().subject.CN) : '';
        resolve({ subject, challenge: response.headers['www-authenticate'] });
        response.resume();
      })
        .on('error', reject)
        .end();
    });

  it('serves HTTPS, challenges with an https realm, and uses a new certificate without a restart', async () => {
    const [certFile, keyFile] = [join(folder, 'tls.crt'), join(folder, 'tls.key')];
    const makePair = (name: string) => {
      const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
      const out = ['-subj', `/CN=${name}`, '-keyout', keyFile, '-out', certFile];
      execFileSync('openssl', ['req', '-x509', ...key, '-days', '30', ...out], { stdio: 'ignore' });
    };
    makePair('first');
    await start({ server: { tls: { certFile, keyFile } } });
    const challenge = `Bearer realm="https://${host}/token",service="${host}"`;
    expect(await shown()).toEqual({ subject: 'first', challenge });
    makePair('second');
    await expect.poll(shown, { timeout: 20_000 }).toEqual({ subject: 'second', challenge });
  });
});
