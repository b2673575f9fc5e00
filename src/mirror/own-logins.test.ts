import { beforeEach, describe, expect, it } from 'vitest';
import type { Log } from '../lib/log.ts';
import { silentMeter } from '../lib/meter.ts';
import type { Credential } from '../oci/credential.ts';
import { UpstreamFailure, type UpstreamFailureKind } from '../upstream/failures.ts';
import { OwnLogins } from './own-logins.ts';

const OLD: Credential = { id: 'old', username: 'mirror', password: 'old password' };
const NEW: Credential = { id: 'new', username: 'mirror', password: 'new password' };
const USE = { upstream: 'up', credentialId: OLD.id };
const { signal } = new AbortController();

let login: Credential | undefined;
/** What upstream says of the login when it is asked about it alone. */
let said: boolean | undefined;
let asked: (string | undefined)[];
let lines: string[];
let gauges: Map<string, number | undefined>;
let nowMs: number;
let logins: OwnLogins;

beforeEach(() => {
  login = OLD;
  said = false;
  asked = [];
  lines = [];
  gauges = new Map();
  nowMs = 1_000_000;
  const note = (level: string) => (_: object, message: string) => void lines.push(`${level} ${message}`);
  const log: Log = {
    debug: note('debug'),
    info: note('info'),
    warn: note('warn'),
    error: note('error'),
    child: () => log,
  };
  const upstream = {
    acceptsLogin: async (credential: Credential) => {
      asked.push(credential.password);
      return said;
    },
  };
  logins = new OwnLogins({
    upstreams: new Map([['up', upstream]]),
    loginOf: name => (name === 'up' ? login : undefined),
    log,
    meter: {
      ...silentMeter,
      gauge: (name, value, labels) => void gauges.set(`${name} ${labels?.['upstream']}`, value),
    },
    nowMs: () => nowMs,
  });
});

const judge = async (kind: UpstreamFailureKind, use = USE, endpoint = 0) =>
  (await logins.judge(use, new UpstreamFailure(kind, 'no', { endpoint }), signal)).kind;

function gauge(): number | undefined {
  logins.report();
  return gauges.get('upstream_credentials_refused up');
}

describe("Entrepot's own credential", () => {
  it('is locked out if upstream refuses it as such, whatever the refusal looked like', async () => {
    expect(gauge()).toBe(0);
    expect(await judge('denied')).toBe('lockedOut');
    nowMs += 60_000;
    expect(await judge('refused')).toBe('lockedOut');
    expect(asked).toEqual([OLD.password, OLD.password]);
    expect(lines).toEqual([expect.stringMatching(/^error upstream refused Entrepot's credentials for up/)]);
    expect(logins.problems).toEqual([expect.stringMatching(/^upstream refused .* for up:/)]);
    expect(gauge()).toBe(1);
  });

  it('that upstream accepts was denied the repository, which ends the right to it', async () => {
    said = true;
    expect([await judge('denied'), await judge('refused')]).toEqual(['denied', 'denied']);
    expect([lines, logins.problems, gauge()]).toEqual([[], [], 0]);
  });

  it('is refused if upstream says so, and if it says nothing when asked again', async () => {
    said = undefined;
    expect(await judge('denied')).toBe('denied');
    expect(await judge('refused')).toBe('lockedOut');
    nowMs += 60_000;
    expect(await judge('denied')).toBe('lockedOut');
  });

  it('is accepted again after any success, if upstream never says whether it accepts it', async () => {
    said = undefined;
    expect(await judge('refused')).toBe('lockedOut');
    nowMs += 60_000;
    logins.succeeded(USE, signal);
    await expect.poll(() => lines.at(-1)).toMatch(/^info upstream accepts Entrepot's credentials again/);
    expect([await judge('denied'), logins.problems, gauge()]).toEqual(['denied', [], 0]);
  });

  it('that upstream explicitly refuses stays refused until upstream says otherwise', async () => {
    expect(await judge('refused')).toBe('lockedOut');
    said = undefined;
    nowMs += 60_000;
    expect(await judge('refused')).toBe('lockedOut');
    nowMs += 60_000;
    logins.succeeded(USE, signal);
    await expect.poll(() => asked.length).toBe(3);
    expect([await judge('denied'), gauge()]).toEqual(['lockedOut', 1]);
  });

  it('is checked only now and then, and once for all who need to know', async () => {
    await Promise.all([judge('denied'), judge('denied')]);
    nowMs += 9_000;
    await judge('denied');
    nowMs += 900;
    await judge('denied');
    expect(asked).toHaveLength(1);
    nowMs += 100;
    await judge('denied');
    expect(asked).toHaveLength(2);
  });

  it('that was accepted a moment ago is checked again when it is refused, and soon in any case', async () => {
    said = true;
    await judge('denied');
    await judge('denied');
    expect(asked).toHaveLength(1);
    said = false;
    expect(await judge('refused')).toBe('lockedOut');
    nowMs += 60_000;
    said = true;
    expect(await judge('denied')).toBe('denied');
    nowMs += 1_000;
    said = false;
    expect(await judge('denied')).toBe('lockedOut');
    expect(asked).toHaveLength(4);
  });

  it('is not affected by other failures, by mirrors, or by refusals of other credentials', async () => {
    for (const kind of ['unknown', 'limited', 'unavailable', 'invalid'] as const) {
      expect(await judge(kind)).toBe(kind);
    }
    expect(await judge('denied', USE, 1)).toBe('denied');
    expect(await judge('refused', { ...USE, credentialId: 'of a tenant' })).toBe('refused');
    expect(await judge('refused', { ...USE, upstream: 'without login' })).toBe('refused');
    expect([asked, lines]).toEqual([[], []]);
  });

  it('is accepted again once upstream accepts it, not when public content is served', async () => {
    await judge('denied');
    nowMs += 60_000;
    logins.succeeded(USE, signal);
    await expect.poll(() => asked.length).toBe(2);
    expect(gauge()).toBe(1);
    said = true;
    nowMs += 60_000;
    logins.succeeded(USE, signal);
    await expect.poll(() => lines.at(-1)).toMatch(/^info upstream accepts Entrepot's credentials again/);
    expect([logins.problems, gauge()]).toEqual([[], 0]);
    logins.succeeded(USE, signal);
    expect(asked).toHaveLength(3);
  });

  it('with a new password is another one, and without any there is no problem', async () => {
    await judge('denied');
    login = NEW;
    expect([logins.problems, gauge()]).toEqual([[], 0]);
    expect(await judge('denied', { ...USE, credentialId: NEW.id })).toBe('lockedOut');
    expect(asked).toEqual([OLD.password, NEW.password]);
    expect(lines).toHaveLength(2);
    login = undefined;
    expect([logins.problems, gauge()]).toEqual([[], undefined]);
  });
});
