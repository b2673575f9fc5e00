import { exportJWK, generateKeyPair, SignJWT, type CryptoKey } from 'jose';
import { beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { ServiceAccountTokens } from './service-account-tokens.ts';

const ISSUER = 'https://kubernetes.default.svc';
const AUDIENCE = 'registry.example:5000';
const ACCOUNT = { namespace: 'team-a', name: 'robot', uid: 'u-1' };
const NOW_S = 1_700_000_000;

interface Key {
  readonly kid: string;
  readonly privateKey: CryptoKey;
  readonly jwk: Readonly<Record<string, unknown>>;
}

let first: Key;
let second: Key;
let published: readonly Key[];
let questions: number;
let isAway: boolean;
let isThere: boolean;
let nowMs: number;
let tokens: ServiceAccountTokens;

async function makeKey(kid: string): Promise<Key> {
  const { privateKey, publicKey } = await generateKeyPair('ES256');
  return { kid, privateKey, jwk: { ...(await exportJWK(publicKey)), kid, use: 'sig', alg: 'ES256' } };
}

async function sign(
  claims: Readonly<Record<string, unknown>> = {},
  { kid, privateKey }: Key = first,
): Promise<string> {
  const bound = { namespace: ACCOUNT.namespace, serviceaccount: { name: ACCOUNT.name, uid: ACCOUNT.uid } };
  const all = {
    iss: ISSUER,
    aud: [AUDIENCE],
    sub: 'system:serviceaccount:team-a:robot',
    nbf: NOW_S,
    exp: NOW_S + 600,
    'kubernetes.io': bound,
    ...claims,
  };
  return new SignJWT(all).setProtectedHeader({ alg: 'ES256', kid }).sign(privateKey);
}

beforeAll(async () => {
  [first, second] = [await makeKey('1'), await makeKey('2')];
});

beforeEach(() => {
  published = [first];
  questions = 0;
  isAway = false;
  isThere = true;
  nowMs = NOW_S * 1000;
  tokens = new ServiceAccountTokens({
    audiences: [AUDIENCE, 'https://registry.example:5000'],
    readIssuer: () => {
      questions += 1;
      if (isAway) return Promise.reject(new Error('away'));
      return Promise.resolve({ issuer: ISSUER, keys: published.map(({ jwk }) => jwk) });
    },
    hasAccount: (namespace, uid) => isThere && namespace === ACCOUNT.namespace && uid === ACCOUNT.uid,
    log: silentLog,
    nowMs: () => nowMs,
  });
});

describe("a service account's token", () => {
  it('says whose it is, and the cluster is asked for its keys once', async () => {
    expect(await tokens.verify(await sign())).toEqual(ACCOUNT);
    expect(await tokens.verify(await sign({ aud: 'https://registry.example:5000' }))).toEqual(ACCOUNT);
    expect(questions).toBe(1);
  });

  it.each<[string, Readonly<Record<string, unknown>>]>([
    ['another audience', { aud: ['https://kubernetes.default.svc'] }],
    ['no audience', { aud: undefined }],
    ['another issuer', { iss: 'https://elsewhere.example' }],
    ['no end', { exp: undefined }],
    ['an end that is past', { exp: NOW_S - 60 }],
    ['a beginning to come', { nbf: NOW_S + 60 }],
    ['another subject than account', { sub: 'system:serviceaccount:team-b:robot' }],
    ['no account', { 'kubernetes.io': undefined }],
  ])('with %s is refused', async (_what, claims) => {
    expect(await tokens.verify(await sign(claims))).toBeUndefined();
  });

  it('that another key signed is refused, whatever key it names', async () => {
    expect(await tokens.verify(await sign({}, { ...second, kid: '1' }))).toBeUndefined();
    const [, claims] = (await sign()).split('.');
    const none = Buffer.from('{"alg":"none"}').toString('base64url');
    expect(await tokens.verify(`${none}.${claims}.`)).toBeUndefined();
    expect(await tokens.verify('x')).toBeUndefined();
  });

  it('ends with its account', async () => {
    const token = await sign();
    expect(await tokens.verify(token)).toEqual(ACCOUNT);
    isThere = false;
    expect(await tokens.verify(token)).toBeUndefined();
  });

  it('by a new key counts as soon as the cluster says so, and invented keys make few questions', async () => {
    await tokens.verify(await sign());
    const token = await sign({}, second);
    for (let at = 0; at < 20; at += 1) expect(await tokens.verify(token)).toBeUndefined();
    expect(questions).toBe(1);
    published = [first, second];
    nowMs += 11_000;
    expect(await tokens.verify(token)).toEqual(ACCOUNT);
    expect(questions).toBe(2);
  });

  it('by a key that was withdrawn counts for an hour at most', async () => {
    const claims = { exp: NOW_S + 86_400 };
    await tokens.verify(await sign(claims));
    published = [second];
    nowMs += 3_601_000;
    expect(await tokens.verify(await sign(claims))).toBeUndefined();
  });

  it('goes on counting while the cluster is away', async () => {
    const claims = { exp: NOW_S + 86_400 };
    await tokens.verify(await sign(claims));
    isAway = true;
    nowMs += 3_601_000;
    expect(await tokens.verify(await sign(claims))).toEqual(ACCOUNT);
  });
});
