import { decodeJwt, SignJWT, UnsecuredJWT } from 'jose';
import { beforeEach, describe, expect, it } from 'vitest';
import { TokenKeys } from './token-keys.ts';
import { type TokenClaims, Tokens } from './tokens.ts';

const DAY_MS = 86_400_000;
const CLAIMS: TokenClaims = {
  kind: 'credential',
  credentialId: 'abc',
  tenant: 'team-a',
  access: [{ type: 'repository', name: 'team-a/app', actions: ['pull'] }],
};

/** The settings of a store, as two processes on it see them. */
class SharedSettings {
  readonly values = new Map<string, string>();
  reads = 0;

  async readSetting(name: string): Promise<string | undefined> {
    this.reads += 1;
    return this.values.get(name);
  }

  async initSetting(name: string, value: string): Promise<string> {
    if (!this.values.has(name)) this.values.set(name, value);
    return this.values.get(name) ?? value;
  }
}

let settings: SharedSettings;
let nowMs: number;
const open = (service = 'registry.example') =>
  new Tokens(new TokenKeys(settings, () => nowMs), service, () => nowMs);

beforeEach(() => {
  settings = new SharedSettings();
  nowMs = Date.UTC(2026, 0, 1, 23, 58);
});

describe('our tokens', () => {
  it('mean the same in every process on the store', async () => {
    const { token, expiresInS } = await open().issue(CLAIMS);
    expect(expiresInS).toBe(300);
    expect(await open().verify(token)).toMatchObject({ claims: CLAIMS });
    expect(await open('other.example').verify(token)).toBeUndefined();
  });

  it('of an unknown credential carry it to every process, encrypted', async () => {
    const claims: TokenClaims = {
      kind: 'unknown',
      credentialId: 'abc',
      login: { username: 'alice', password: 'pässword with "quotes"' },
      access: [],
    };
    const { token } = await open().issue(claims);
    expect(await open().verify(token)).toMatchObject({ claims: claims });
    const carried = Buffer.from(token.split('.')[1] ?? '', 'base64url').toString();
    const [, sealed] = String(decodeJwt(token)['login'])
      .split('.')
      .map(part => Buffer.from(part, 'base64url'));
    for (const word of ['alice', 'ssword']) expect(carried + sealed?.toString()).not.toContain(word);
  });

  it('are not issued for a login that would not fit into a header', async () => {
    const login = { username: 'alice', password: 'x'.repeat(12_000) };
    const issued = open().issue({ kind: 'unknown', credentialId: 'abc', login, access: [] });
    await expect(issued).rejects.toMatchObject({ code: 'UNAUTHORIZED' });
  });

  it('survive a change of keys, and expire even if they are remembered', async () => {
    const tokens = open();
    const { token } = await tokens.issue(CLAIMS);
    expect(await tokens.verify(token)).toMatchObject({ claims: CLAIMS });
    nowMs += 4 * 60_000;
    const { token: next } = await tokens.issue(CLAIMS);
    expect(settings.values.size).toBe(2);
    expect(await tokens.verify(token)).toMatchObject({ claims: CLAIMS });
    expect(await open().verify(next)).toMatchObject({ claims: CLAIMS });
    nowMs += 2 * 60_000;
    expect(await tokens.verify(token)).toBeUndefined();
    expect(await open().verify(token)).toBeUndefined();
  });

  it('with a key before the last one are refused, whatever their expiry', async () => {
    await open().issue(CLAIMS);
    const [[name = '', text = ''] = []] = settings.values;
    const kid = name.replace('token-key-', '');
    const forever = await signed({ exp: nowMs / 1000 + 10 * 365 * 86_400 }, text, kid);
    const tokens = open();
    expect(await tokens.verify(forever)).toMatchObject({ claims: CLAIMS });
    nowMs += 2 * DAY_MS;
    expect(await tokens.verify(forever)).toBeUndefined();
  });

  it('are not confused with those of other issuers', async () => {
    await open().issue(CLAIMS);
    const [[name = '', text = ''] = []] = settings.values;
    const kid = name.replace('token-key-', '');
    const forged = [
      await signed({}, '00'.repeat(32), kid),
      await signed({}, text, 'another-key'),
      await signed({ aud: 'other.example' }, text, kid),
      await signed({ iss: 'other.example' }, text, kid),
      await signed({ exp: undefined }, text, kid),
      await signed({ kind: 'admin' }, text, kid),
      await signed({ access: ['everything'] }, text, kid),
      new UnsecuredJWT(decodeJwt(await signed({}, text, kid))).encode(),
      'a.b.c',
      'x',
      'a'.repeat(20_000),
    ];
    for (const token of forged) expect(await open().verify(token)).toBeUndefined();
    expect(await open().verify(await signed({}, text, kid))).toMatchObject({ claims: CLAIMS });
  });

  it('with invented keys cause one lookup', async () => {
    const tokens = open();
    for (let at = 0; at < 50; at += 1)
      await tokens.verify(await signed({}, '11'.repeat(32), `made-up-${at}`));
    expect(settings.reads).toBe(0);
  });
});

function signed(changes: object, key: string, kid: string): Promise<string> {
  const times = { iat: nowMs / 1000, exp: nowMs / 1000 + 300 };
  const who = { iss: 'registry.example', aud: 'registry.example', sub: 'team-a' };
  const claims = {
    kind: CLAIMS.kind,
    cid: CLAIMS.credentialId,
    access: CLAIMS.access,
    ...who,
    ...times,
    ...changes,
  };
  return new SignJWT(claims)
    .setProtectedHeader({ alg: 'HS256', typ: 'JWT', kid })
    .sign(Buffer.from(key, 'hex'));
}
