// Every operation of the API × everybody who might try it. A route that is added without a rule here fails the test.
import { join } from 'node:path';
import { SignJWT, UnsecuredJWT } from 'jose';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OPERATIONS } from '../../src/http/operations.ts';
import { silentLog } from '../../src/lib/log.ts';
import type { MetadataStore } from '../../src/metadata/metadata-store.ts';
import { openSqliteMetadataStore } from '../../src/metadata/sqlite-metadata-store.ts';
import { OCI_MANIFEST } from '../../src/oci/media-types.ts';
import { Issuer } from '../../src/tenants/issuer.ts';
import { get, type Got } from '../support/client.ts';
import { contentOf, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { freePort } from '../support/programs.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import { basic, challengeOf, type Login, tokenFor, writeSecret } from '../support/tenants.ts';

const UP = 'up.example';
const TEAM_A: Login = ['a', 'password-of-a'];
const TEAM_B: Login = ['b', 'password-of-b'];
const ALICE: Login = ['alice', 'alice-upstream'];
const HOSTED = 'team-a/app';
const MIRRORED = `${UP}/acme/private`;

const layer = randomBlob(20_000, 'layer');
const image = imageOf([layer]);
const manifestText = Buffer.concat(Array.from(image.manifest.slice())).toString();

type Headers = Readonly<Record<string, string>>;

interface Operation {
  readonly kind: string;
  readonly method: string;
}

let upstream: FakeUpstream;
let entrepot: Entrepot;
let metadata: MetadataStore;
let host: string;
let readOnly: Login;
let tokens: Readonly<Record<string, string>>;

const operations: readonly Operation[] = Object.entries(OPERATIONS).flatMap(([kind, methods]) =>
  Object.keys(methods)
    .flatMap(method => (method === 'GET' ? ['GET', 'HEAD'] : [method]))
    .map(method => ({ kind, method })),
);

/** What the owner gets, for a repository that lives here and for a mirrored one; `undefined` is not asked. */
const RULES: Readonly<Record<string, { hosted: number; mirrored: number; writes: boolean } | 'open'>> = {
  'uploads POST': { hosted: 202, mirrored: 405, writes: true },
  'upload GET': { hosted: 204, mirrored: 405, writes: true },
  'upload HEAD': { hosted: 204, mirrored: 405, writes: true },
  'upload PATCH': { hosted: 202, mirrored: 405, writes: true },
  'upload PUT': { hosted: 201, mirrored: 405, writes: true },
  'upload DELETE': { hosted: 204, mirrored: 405, writes: true },
  'manifest PUT': { hosted: 201, mirrored: 405, writes: true },
  'manifest GET': { hosted: 200, mirrored: 200, writes: false },
  'manifest HEAD': { hosted: 200, mirrored: 200, writes: false },
  'blob GET': { hosted: 200, mirrored: 200, writes: false },
  'blob HEAD': { hosted: 200, mirrored: 200, writes: false },
  'tags GET': { hosted: 200, mirrored: 200, writes: false },
  'tags HEAD': { hosted: 200, mirrored: 200, writes: false },
  'referrers GET': { hosted: 200, mirrored: 200, writes: false },
  'referrers HEAD': { hosted: 200, mirrored: 200, writes: false },
  'blob DELETE': { hosted: 202, mirrored: 405, writes: true },
  'manifest DELETE': { hosted: 202, mirrored: 405, writes: true },
  // These name no repository: what they answer depends on who asks, and is tested below.
  'base GET': 'open',
  'base HEAD': 'open',
  'token GET': 'open',
  'token HEAD': 'open',
  'token POST': 'open',
  'catalog GET': 'open',
  'catalog HEAD': 'open',
};

const repositoryRules = Object.entries(RULES).flatMap(([name, rule]) => {
  const [kind = '', method = ''] = name.split(' ');
  return rule === 'open' ? [] : [{ name, kind, method, ...rule }];
});

beforeAll(async () => {
  const users = { alice: { password: ALICE[1], repositories: ['acme/private'] } };
  upstream = await FakeUpstream.start({ auth: { scheme: 'bearer', users } });
  upstream.add('acme/private', image, '1');
  const folder = await makeTempFolder('routes');
  host = `127.0.0.1:${await freePort()}`;
  await writeSecret(join(folder, 'a.json'), { [host]: TEAM_A, [UP]: ALICE });
  await writeSecret(join(folder, 'b.json'), { [host]: TEAM_B });
  entrepot = await Entrepot.start(
    {
      upstreams: { [UP]: { url: upstream.url } },
      tenants: [
        { name: 'team-a', secrets: join(folder, 'a.json') },
        { name: 'team-b', secrets: join(folder, 'b.json') },
      ],
      server: { listen: host, serverNames: [host] },
    },
    { folder },
  );
  metadata = await openSqliteMetadataStore(join(folder, 'store', 'index.db'), { log: silentLog });
  await fill();
  readOnly = await issueReadOnly();
  tokens = await makeTokens();
});

afterAll(async () => {
  await metadata.close();
  await entrepot.remove();
  await upstream.stop();
});

/** Content of team-a on both sides, so that a door left open would show it. */
async function fill(): Promise<void> {
  for (const blob of [image.config, layer]) await push(blob.digest, Buffer.concat(Array.from(blob.slice())));
  expect((await send({ kind: 'manifest', method: 'PUT' }, HOSTED, basic(TEAM_A))).status).toBe(201);
  for (const kind of ['manifest', 'blob']) {
    expect((await send({ kind, method: 'GET' }, MIRRORED, basic(TEAM_A))).status).toBe(200);
  }
}

async function push(digest: string, body: Uint8Array): Promise<void> {
  const url = `${entrepot.url}/v2/${HOSTED}/blobs/uploads/?digest=${digest}`;
  expect((await get(url, { method: 'POST', headers: basic(TEAM_A), body })).status).toBe(201);
}

async function issueReadOnly(): Promise<Login> {
  const credentialKey = (await metadata.readSetting('credential-key')) ?? '';
  const issuer = new Issuer({ store: metadata, credentialKey, nameProblem: () => undefined });
  const { username, password } = await issuer.issue({ tenant: 'team-a', server: host, readOnly: true });
  const login: Login = [username, password];
  // The server hears of it from the store, within about a second.
  for (let tries = 0; tries < 100; tries += 1) {
    const got = await send({ kind: 'manifest', method: 'HEAD' }, HOSTED, basic(login));
    if (got.status === 200) return login;
    await new Promise(resolve => setTimeout(resolve, 50));
  }
  throw new Error('the credential that was issued never counted');
}

/** Tokens that were, or might have been, made here, and are not good for what is asked. */
async function makeTokens(): Promise<Readonly<Record<string, string>>> {
  const base = await get(`${entrepot.url}/v2/`);
  const scope = `repository:${HOSTED}:pull,push,delete`;
  const issued = await tokenFor({ ...challengeOf(base), scope }, TEAM_A);
  const { token }: { token: string } = JSON.parse(issued.text);
  const elsewhere = await tokenFor(
    { ...challengeOf(base), scope: 'repository:team-a/other:pull,push,delete' },
    TEAM_A,
  );
  const { token: otherScope }: { token: string } = JSON.parse(elsewhere.text);
  const [head = '', payload = ''] = token.split('.');
  const { kid }: { kid: string } = JSON.parse(Buffer.from(head, 'base64url').toString());
  const claims: Record<string, unknown> = JSON.parse(Buffer.from(payload, 'base64url').toString());
  const key = Buffer.from((await metadata.readSetting(`token-key-${kid}`)) ?? '', 'hex');
  const sign = (changes: object, by: Uint8Array = key) =>
    new SignJWT({ ...claims, ...changes }).setProtectedHeader({ alg: 'HS256', typ: 'JWT', kid }).sign(by);
  // The forging itself works: the same claims under the same key are as good as the original.
  const twin = await sign({});
  expect((await send({ kind: 'manifest', method: 'GET' }, HOSTED, bearer(twin))).status).toBe(200);
  const nowS = Math.floor(Date.now() / 1000);
  return {
    'an expired token': await sign({ iat: nowS - 900, exp: nowS - 600 }),
    'a token of another service': await sign({ aud: 'other.example', iss: 'other.example' }),
    'a token of another key': await sign({}, Buffer.alloc(32, 7)),
    'a token with alg none': new UnsecuredJWT(claims).encode(),
    'a token without a signature': `${token.split('.').slice(0, 2).join('.')}.`,
    'no token at all': 'junk',
    'a token of another scope': otherScope,
  };
}

function bearer(token: string): Headers {
  return { authorization: `Bearer ${token}` };
}

async function startUpload(): Promise<string> {
  const begun = await get(`${entrepot.url}/v2/${HOSTED}/blobs/uploads/`, {
    method: 'POST',
    headers: basic(TEAM_A),
  });
  return begun.headers['docker-upload-uuid']?.toString() ?? '';
}

async function send({ kind, method }: Operation, name: string, headers: Headers, upload = 'x'): Promise<Got> {
  const paths: Readonly<Record<string, string>> = {
    base: '/v2/',
    catalog: '/v2/_catalog',
    token: '/token',
    manifest: `/v2/${name}/manifests/1`,
    blob: `/v2/${name}/blobs/${layer.digest}`,
    tags: `/v2/${name}/tags/list`,
    referrers: `/v2/${name}/referrers/${image.manifest.digest}`,
    uploads: `/v2/${name}/blobs/uploads/`,
    upload: `/v2/${name}/blobs/uploads/${upload}`,
  };
  const rest = contentOf('some bytes', 'text/plain');
  const isManifest = kind === 'manifest' && method === 'PUT';
  const isUpload = kind === 'upload' && (method === 'PUT' || method === 'PATCH');
  const query = kind === 'upload' && method === 'PUT' ? `?digest=${rest.digest}` : '';
  return get(`${entrepot.url}${paths[kind]}${query}`, {
    method,
    headers: { ...headers, ...(isManifest ? { 'content-type': OCI_MANIFEST } : {}) },
    ...(isManifest ? { body: manifestText } : isUpload ? { body: 'some bytes' } : {}),
  });
}

it('has a rule here for every operation of the API', () => {
  expect(Object.keys(RULES).sort()).toEqual(operations.map(({ kind, method }) => `${kind} ${method}`).sort());
});

describe.each(repositoryRules)('$name', ({ kind, method, mirrored, writes }) => {
  const operation = { kind, method };

  it('is refused to an anonymous client with a challenge, whether there is such a repository or not', async () => {
    const upload = kind === 'upload' ? await startUpload() : 'x';
    for (const name of [HOSTED, 'team-a/nothing']) {
      const got = await send(operation, name, {}, upload);
      expect([name, got.status, challengeOf(got)['error']]).toEqual([name, 401, undefined]);
    }
    expect((await send(operation, MIRRORED, {})).status).toBe(writes ? 405 : 401);
  });

  it('is refused to another tenant like something that does not exist', async () => {
    const upload = kind === 'upload' ? await startUpload() : 'x';
    const got = await send(operation, HOSTED, basic(TEAM_B), upload);
    const none = await send(operation, 'team-a/nothing', basic(TEAM_B), upload);
    expect([got.status, got.text.replaceAll(HOSTED, 'team-a/nothing')]).toEqual([none.status, none.text]);
    expect(got.status).toBe(404);
    expect((await send(operation, MIRRORED, basic(TEAM_B))).status).toBe(writes ? 405 : 404);
  });

  it('with a read-only credential is for pulling only', async () => {
    const upload = kind === 'upload' ? await startUpload() : 'x';
    const got = await send(operation, HOSTED, basic(readOnly), upload);
    expect(got.status).toBe(writes ? 403 : 200);
    expect((await send(operation, MIRRORED, basic(readOnly))).status).toBe(mirrored);
  });

  it('is refused with every token that is not valid for it', async () => {
    const upload = kind === 'upload' ? await startUpload() : 'x';
    for (const [what, token] of Object.entries(tokens)) {
      const error = what === 'a token of another scope' ? 'insufficient_scope' : 'invalid_token';
      for (const name of [HOSTED, MIRRORED]) {
        const got = await send(operation, name, bearer(token), upload);
        expect([what, got.status, challengeOf(got)['error']]).toEqual([what, 401, error]);
      }
    }
  });
});

describe('the owner', () => {
  // In the order of the table: what is deleted last has been read before.
  it.each(repositoryRules)(
    '$name: $hosted here, $mirrored of a mirror',
    async ({ kind, method, hosted, mirrored }) => {
      const upload = kind === 'upload' ? await startUpload() : 'x';
      expect((await send({ kind, method }, HOSTED, basic(TEAM_A), upload)).status).toBe(hosted);
      expect((await send({ kind, method }, MIRRORED, basic(TEAM_A))).status).toBe(mirrored);
    },
  );
});

describe('a route without a repository', () => {
  it('/v2/ admits those who log in, and challenges everybody else', async () => {
    for (const method of ['GET', 'HEAD']) {
      const status = async (headers: Headers) => (await send({ kind: 'base', method }, '', headers)).status;
      expect(await status({})).toBe(401);
      expect(await status(basic(TEAM_A))).toBe(200);
      expect(await status(basic(readOnly))).toBe(200);
      expect(await status(basic(['a', 'wrong']))).toBe(401);
      for (const [what, token] of Object.entries(tokens)) {
        expect([what, await status(bearer(token))]).toEqual([
          what,
          what === 'a token of another scope' ? 200 : 401,
        ]);
      }
    }
  });

  it('/token issues one for an anonymous client and for a password, and none for a token', async () => {
    const status = async (headers: Headers) =>
      (await send({ kind: 'token', method: 'GET' }, '', headers)).status;
    expect(await status({})).toBe(200);
    expect(await status(basic(TEAM_A))).toBe(200);
    expect(await status(basic(['a', 'wrong']))).toBe(401);
    // Not this one's, but nobody's: what a token proves ends with it.
    const renewed = await get(`${entrepot.url}/token?scope=repository:${HOSTED}:pull`, {
      headers: bearer(tokens['a token of another scope'] ?? ''),
    });
    const { token }: { token: string } = JSON.parse(renewed.text);
    expect((await send({ kind: 'manifest', method: 'GET' }, HOSTED, bearer(token))).status).toBe(401);
  });

  it('/v2/_catalog shows each client what it may pull, and needs its own scope', async () => {
    const shown = async (headers: Headers) => send({ kind: 'catalog', method: 'GET' }, '', headers);
    expect((await shown({})).text).toBe('{"repositories":[]}');
    expect((await shown(basic(TEAM_B))).text).toBe('{"repositories":[]}');
    for (const token of Object.values(tokens)) expect((await shown(bearer(token))).status).toBe(401);
  });
});
