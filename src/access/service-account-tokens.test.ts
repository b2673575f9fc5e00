import { exportJWK, generateKeyPair, SignJWT, type CryptoKey } from 'jose';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { IssuerWatch } from '../tenants/kubernetes/issuer-watch.ts';
import { ServiceAccountTokens } from './service-account-tokens.ts';

const ISSUER = 'https://kubernetes.default.svc';
const AUDIENCE = 'registry.example:5000';
const ACCOUNT = { namespace: 'team-a', name: 'robot', uid: 'u-1' };
const NOW_S = 1_700_000_000;
/** The cluster is asked every 30 s, give or take a fifth. */
const EVERY_MS = 36_000;

interface Key {
  readonly kid: string;
  readonly privateKey: CryptoKey;
  readonly jwk: Readonly<Record<string, unknown>>;
}

let first: Key;
let second: Key;
let published: readonly Key[];
let publishedIssuer: string;
let questions: number;
let told: object[];
let isAway: boolean;
let isThere: boolean;
let clock: ManualClock;
let watch: IssuerWatch;
let tokens: ServiceAccountTokens;
let listeners: Set<() => void>;

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
  publishedIssuer = ISSUER;
  questions = 0;
  told = [];
  isAway = false;
  isThere = true;
  clock = new ManualClock(NOW_S * 1000);
  watch = new IssuerWatch({
    client: {
      read: async path => {
        if (isAway) throw new Error('away');
        if (path === '/.well-known/openid-configuration') return { issuer: publishedIssuer };
        questions += 1;
        return { keys: published.map(({ jwk }) => jwk) };
      },
    },
    log: { ...silentLog, warn: fields => void told.push(fields) },
    clock,
  });
  listeners = new Set();
  tokens = new ServiceAccountTokens({
    audiences: [AUDIENCE, 'https://registry.example:5000'],
    issuer: watch,
    accounts: {
      hasAccount: (namespace, uid) => isThere && namespace === ACCOUNT.namespace && uid === ACCOUNT.uid,
      isFollowed: namespace => namespace === ACCOUNT.namespace,
      onAccounts: listener => {
        listeners.add(listener);
        return () => void listeners.delete(listener);
      },
    },
    clock,
  });
});

afterEach(() => watch.close());

describe('a ServiceAccount token', () => {
  it('identifies its account, and the cluster is asked for its keys once', async () => {
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

  it('that another key signed is refused, whichever key it names', async () => {
    expect(await tokens.verify(await sign({}, { ...second, kid: '1' }))).toBeUndefined();
    const [, claims] = (await sign()).split('.');
    const none = Buffer.from('{"alg":"none"}').toString('base64url');
    expect(await tokens.verify(`${none}.${claims}.`)).toBeUndefined();
    expect(await tokens.verify('x')).toBeUndefined();
  });

  it('of an account that is not known yet waits a while for it', async () => {
    isThere = false;
    const verified = tokens.verify(await sign());
    await expect.poll(() => listeners.size).toBe(1);
    for (const listener of listeners) listener();
    expect(listeners.size).toBe(1);
    isThere = true;
    for (const listener of listeners) listener();
    expect(await verified).toEqual(ACCOUNT);
    isThere = false;
    const missed = tokens.verify(await sign());
    await clock.pass(1_000);
    expect(await missed).toBeUndefined();
    expect(listeners.size).toBe(0);
  });

  it('ends with its account', async () => {
    const token = await sign();
    expect(await tokens.verify(token)).toEqual(ACCOUNT);
    isThere = false;
    const verified = tokens.verify(token);
    await clock.pass(1_000);
    expect(await verified).toBeUndefined();
  });

  it('with a new key is accepted as soon as the cluster publishes it, and invented keys cause few requests', async () => {
    await tokens.verify(await sign());
    const token = await sign({}, second);
    for (let at = 0; at < 20; at += 1) expect(await tokens.verify(token)).toBeUndefined();
    expect(questions).toBe(1);
    published = [first, second];
    await clock.advance(11_000);
    expect(await tokens.verify(token)).toEqual(ACCOUNT);
    expect(questions).toBe(2);
  });

  it('of a new issuer is accepted as soon as the cluster names it, even with an old key; the former issuer then is not', async () => {
    await tokens.verify(await sign());
    const next = await sign({ iss: 'https://next.example' });
    expect(await tokens.verify(next)).toBeUndefined();
    publishedIssuer = 'https://next.example';
    await clock.advance(11_000);
    expect(await tokens.verify(next)).toEqual(ACCOUNT);
    expect(await tokens.verify(await sign())).toBeUndefined();
    expect(told).toEqual([
      { issuer: 'https://next.example', formerIssuer: ISSUER, newKeys: [], withdrawnKeys: [] },
    ]);
  });

  it('with a new key is accepted at once even if the clock was set back', async () => {
    expect(await tokens.verify(await sign())).toEqual(ACCOUNT);
    published = [second];
    clock.set(clock.nowMs() - 600_000);
    const nbf = NOW_S - 3_600;
    expect(await tokens.verify(await sign({ nbf }, second))).toEqual(ACCOUNT);
    expect(await tokens.verify(await sign({ nbf }))).toBeUndefined();
  });

  it('with a withdrawn key is refused after the next request for keys, even if nobody asks', async () => {
    const claims = { exp: NOW_S + 86_400 };
    await watch.start(() => {});
    expect(await tokens.verify(await sign(claims))).toEqual(ACCOUNT);
    published = [second];
    await clock.advance(EVERY_MS);
    await expect.poll(() => told).toEqual([{ issuer: ISSUER, newKeys: ['2'], withdrawnKeys: ['1'] }]);
    expect(await tokens.verify(await sign(claims))).toBeUndefined();
  });

  it('stays valid while the cluster is unreachable, which is reported', async () => {
    const claims = { exp: NOW_S + 86_400 };
    let states = 0;
    await watch.start(() => void (states += 1));
    expect(await tokens.verify(await sign(claims))).toEqual(ACCOUNT);
    isAway = true;
    await clock.advance(3_601_000);
    await expect.poll(() => watch.problem).toBe('away');
    expect(await tokens.verify(await sign(claims))).toEqual(ACCOUNT);
    isAway = false;
    await clock.advance(EVERY_MS);
    await expect.poll(() => watch.problem).toBeUndefined();
    expect(states).toBe(2);
  });
});
