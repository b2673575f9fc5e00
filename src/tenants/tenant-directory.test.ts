import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { systemClock } from '../lib/clock.ts';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { silentMeter } from '../lib/meter.ts';
import { MemoryIndex } from '../metadata/memory-metadata-store.fixture.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { nameCredential } from '../oci/credential.ts';
import { FileSecretSource } from './file-secret-source.ts';
import { Issuer } from './issuer.ts';
import { parseSecretObject } from './secret.ts';
import type { SecretReading, SecretSink } from './secret-source.ts';
import { TenantBroken, type Tenants, type TenantsChange } from './tenant.ts';
import { openTenants, type TenantsParts } from './tenant-directory.ts';
import { dockerConfig, secretManifest } from './tenants.fixture.ts';

const KEY = 'credential-key';
const IMAGE = 'reg.example/team/app';

let folder: string;
let memory: MemoryIndex;
let store: MetadataStore;
let tenants: Tenants;
/** What a source would say that hears of Secrets from elsewhere, such as an API. */
let sink: SecretSink;
let changes: TenantsChange[];
let nowMs: number;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-tenants-'));
  memory = new MemoryIndex();
  store = memory.open();
  changes = [];
  nowMs = 1_000_000;
});

afterEach(async () => {
  await tenants.close();
  await store.close();
  await rm(folder, { recursive: true, force: true });
});

async function open(parts: Partial<TenantsParts> = {}): Promise<void> {
  const pushed = {
    start: async (given: SecretSink) => void (sink = given),
    close: async () => {},
  };
  tenants = await openTenants({
    sources: [...(parts.sources ?? []), pushed],
    configured: [],
    nodeConfig: [],
    plugins: undefined,
    store,
    credentialKey: KEY,
    nameProblem: name => (name === 'library' ? 'is reserved' : undefined),
    log: silentLog,
    meter: silentMeter,
    clock: { ...systemClock, nowMs: () => nowMs },
    ...parts,
    ...(parts.sources && { sources: [...parts.sources, pushed] }),
  });
  tenants.onChange(change => void changes.push(change));
}

function issuer(): Issuer {
  return new Issuer({ store, credentialKey: KEY, nameProblem: () => undefined, nowMs: () => nowMs });
}

function idOf(login: string): string {
  const [username = '', password = ''] = login.split(':');
  return nameCredential(KEY, username, password).id;
}

function loaded(name: string, logins: Readonly<Record<string, string>>): SecretReading {
  const secret = parseSecretObject(secretManifest(name, logins));
  if (secret === undefined) throw new Error('expected a Secret for pulls');
  return { name, source: 'kubernetes', result: { state: 'loaded', secret } };
}

function malformed(name: string): SecretReading {
  return { name, source: 'kubernetes', result: { state: 'malformed', reason: 'invalid JSON' } };
}

function missing(name: string): SecretReading {
  return { name, source: 'kubernetes', result: { state: 'missing', reason: 'none' } };
}

async function namesFor(tenant: string, image = IMAGE): Promise<(string | undefined)[]> {
  return ((await tenants.find(tenant)?.lookup(image)) ?? []).map(({ credential }) => credential?.username);
}

function holdersOf(login: string): string[] {
  return tenants.holders(idOf(login)).map(({ tenant, secret, key }) => `${tenant.name} ${secret} ${key}`);
}

/** Changes are told at the end of a turn. */
const turn = () => new Promise(resolve => setImmediate(resolve));

describe('a lookup', () => {
  test('searches the Secrets in order, then the node, then the plugins', async () => {
    await writeFile(join(folder, 'a.json'), JSON.stringify(secretManifest('a', { 'reg.example': 'file:p' })));
    await writeFile(join(folder, 'config.json'), dockerConfig({ 'reg.example/team/app': 'node:p' }));
    const config = new Map([['reg.example', { username: 'plugin', password: 'p', email: '' }]]);
    await open({
      sources: [new FileSecretSource([{ name: 't', secrets: [join(folder, 'a.json')] }], silentLog)],
      nodeConfig: [join(folder, 'config.json')],
      plugins: { configsFor: async () => [{ source: 'ecr', config }], close: () => {} },
    });
    sink.put('t', { secrets: [loaded('b', { 'reg.example': 'api:p', 'reg.example/team': 'longer:p' })] });
    const found = (await tenants.find('t')?.lookup(IMAGE)) ?? [];
    expect(
      found.map(({ source, secret, matchedKey, credential }) => [
        source,
        secret,
        matchedKey,
        credential?.username,
      ]),
    ).toEqual([
      ['kubernetes', 'b', 'reg.example/team', 'longer'],
      ['file', 'a', 'reg.example', 'file'],
      ['kubernetes', 'b', 'reg.example', 'api'],
      ['node', join(folder, 'config.json'), 'reg.example/team/app', 'node'],
      ['plugin', 'ecr', 'reg.example', 'plugin'],
    ]);
    expect((await tenants.lookupShared(IMAGE)).map(({ source }) => source)).toEqual(['node', 'plugin']);
    expect(tenants.node).toMatchObject([{ state: 'loaded', source: 'node' }]);
  });

  test("records uses of the node's credential for the file that counts", async () => {
    const files = ['config.json', '.dockercfg'].map(name => join(folder, name));
    for (const file of files) await writeFile(file, dockerConfig({ 'reg.example': 'node:p' }));
    await open({ nodeConfig: files });
    tenants.noteOutcome(idOf('node:p'), 'used');
    nowMs += 1;
    tenants.noteOutcome(idOf('node:p'), 'refused');
    expect(tenants.node).toEqual([
      expect.objectContaining({ name: files[0], lastUsedAtMs: nowMs - 1, lastRefusedAtMs: nowMs }),
    ]);
  });

  test('turns an entry without a user name into an anonymous attempt, which identifies nobody', async () => {
    await open();
    sink.put('t', {
      secrets: [loaded('s', { 'reg.example': ':', 'other.example': 'u:', 'third.example': ':p' })],
    });
    expect(await tenants.find('t')?.lookup(IMAGE)).toMatchObject([{ credential: undefined, secret: 's' }]);
    expect(await namesFor('t', 'other.example/x')).toEqual(['u']);
    for (const login of [':', 'u:', ':p']) expect(holdersOf(login)).toEqual([]);
  });

  test('fails for a tenant with a Secret that never was good; one that becomes malformed keeps its content', async () => {
    await open();
    sink.put('bad', { secrets: [loaded('good', { 'reg.example': 'u:p' }), malformed('never-good')] });
    sink.put('t', { secrets: [loaded('s', { 'reg.example': 'u:p' })] });
    await expect(namesFor('bad')).rejects.toThrow(TenantBroken);
    await expect(namesFor('bad')).rejects.toThrow(/never-good is malformed: invalid JSON/);
    expect(await namesFor('t')).toEqual(['u']);
    expect(holdersOf('u:p')).toEqual(['bad good reg.example', 't s reg.example']);

    nowMs += 5;
    sink.put('t', { secrets: [malformed('s')] });
    expect(await namesFor('t')).toEqual(['u']);
    expect(tenants.find('t')?.secrets).toEqual([
      { name: 's', source: 'kubernetes', state: 'malformed', reason: 'invalid JSON', loadedAtMs: 1_000_000 },
    ]);
    sink.put('bad', { secrets: [loaded('good', { 'reg.example': 'u:p' })] });
    expect(await namesFor('bad')).toEqual(['u']);
  });

  test('tells clients what is wrong in a Secret, and only operators in which file', async () => {
    const path = join(folder, 't.json');
    await writeFile(path, '');
    await open({ sources: [new FileSecretSource([{ name: 't', secrets: [path] }], silentLog)] });
    const error = await namesFor('t').catch((thrown: unknown) => thrown);
    if (!(error instanceof TenantBroken)) throw new Error('expected it to be broken');
    expect(error.told).toBe('t: the Secret t.json is malformed: the file is empty');
    expect(error.message).toBe(`${error.told} (${path})`);
    expect(tenants.find('t')?.secrets).toMatchObject([{ reason: `the file is empty (${path})` }]);
  });

  test('keeps the last good content of a file, and none of another that had a Secret of the same name', async () => {
    const [one, other] = ['one.json', 'other.json'].map(name => join(folder, name));
    if (one === undefined || other === undefined) throw new Error('there are two');
    await writeFile(one, JSON.stringify(secretManifest('s', { 'reg.example': 'one:p' })));
    await writeFile(other, JSON.stringify(secretManifest('s', { 'reg.example': 'other:p' })));
    const files = new FileSecretSource([{ name: 't', secrets: [one, other] }], silentLog);
    await open({ sources: [files] });
    expect(await namesFor('t')).toEqual(['one', 'other']);
    await writeFile(other, '');
    await files.follow([{ name: 't', secrets: [other] }]);
    expect(await namesFor('t')).toEqual(['other']);
    expect([holdersOf('one:p'), holdersOf('other:p')]).toEqual([[], ['t s reg.example']]);
  });

  test('ignores a malformed Secret that nothing names, which is reported, until something names it', async () => {
    await open();
    const good = loaded('good', { 'reg.example': 'u:p' });
    const bad = malformed('bad');
    sink.put('t', { secrets: [good, { ...bad, isUnnamed: true }] });
    expect(await namesFor('t')).toEqual(['u']);
    expect(await namesFor('t', 'elsewhere.example/x')).toEqual([]);
    expect(tenants.find('t')?.secrets[1]).toMatchObject({ name: 'bad', state: 'malformed' });
    sink.put('t', { secrets: [bad, good] });
    await expect(namesFor('t')).rejects.toThrow(/bad is malformed: invalid JSON/);
    sink.put('t', { secrets: [good, { ...bad, isUnnamed: true }] });
    expect(await namesFor('t')).toEqual(['u']);
  });

  test('skips a missing Secret', async () => {
    await open();
    sink.put('t', { secrets: [missing('m'), loaded('s', { 'reg.example': 'u:p' })] });
    expect(await namesFor('t')).toEqual(['u']);
    expect(tenants.find('t')?.secrets).toMatchObject([
      { state: 'missing', reason: 'none' },
      { state: 'loaded' },
    ]);
  });
});

describe('a tenant with more than a namespace needs', () => {
  test('has its first thousand Secrets, a line that reports the others, and few lines in the log', async () => {
    const lines: object[] = [];
    const keep = (fields: object) => void lines.push(fields);
    const log = {
      ...silentLog,
      info: keep,
      warn: keep,
      error: keep,
      child: () => ({ ...silentLog, warn: keep }),
    };
    await open({ log });
    const good = loaded('good', { 'reg.example': 'u:p' });
    const late = loaded('late', { 'other.example': 'v:p' });
    const many = Array.from({ length: 60_000 }, (_, at) => missing(`s-${at}`));
    sink.put('t', { secrets: [good, ...many, late] });
    expect(tenants.find('t')?.secrets).toHaveLength(1_001);
    expect(tenants.find('t')?.secrets.at(-1)).toMatchObject({
      name: '(others)',
      reason: 'there are 60002 Secrets, and at most 1000 are used',
    });
    expect(await namesFor('t')).toEqual(['u']);
    expect(holdersOf('v:p')).toEqual([]);
    for (let at = 0; at < 20; at += 1) sink.put('t', { secrets: [missing(`next-${at}`), good, ...many] });
    expect(lines.length).toBe(2);
  });

  test('has no more entries than can be searched quickly', async () => {
    await open();
    const wide = (name: string) =>
      loaded(
        name,
        Object.fromEntries(Array.from({ length: 1_000 }, (_, at) => [`${name}-${at}.example`, 'u:p'])),
      );
    const names = ['a', 'b', 'c', 'd', 'e', 'f'];
    sink.put('t', { secrets: [...names.map(wide), loaded('last', { 'reg.example': 'late:p' })] });
    expect(tenants.holders(idOf('u:p'))).toHaveLength(5_000);
    expect(tenants.find('t')?.secrets.map(({ state }) => state)).toEqual([
      ...Array(5).fill('loaded'),
      'missing',
      'missing',
    ]);
    expect(await namesFor('t', 'f-1.example/x')).toEqual([]);
  });
});

describe('changes', () => {
  test('report which credentials nobody has any more, once per turn', async () => {
    await open();
    sink.put('a', { secrets: [loaded('s', { 'reg.example': 'shared:p', 'x.example': 'own:p' })] });
    sink.put('b', { secrets: [loaded('s', { 'reg.example': 'shared:p' })] });
    await turn();
    changes.length = 0;
    sink.remove('a');
    await turn();
    expect(changes).toEqual([{ goneCredentialIds: [idOf('own:p')], tenants: ['a'] }]);
    expect(tenants.find('a')).toBeUndefined();

    sink.put('b', { secrets: [loaded('s', { 'reg.example': 'next:p' })] });
    await turn();
    expect(changes[1]).toEqual({ goneCredentialIds: [idOf('shared:p')], tenants: ['b'] });
    expect(holdersOf('shared:p')).toEqual([]);
    expect(holdersOf('next:p')).toEqual(['b s reg.example']);
  });

  test('do not report a credential that moves within a turn as gone, nor what stays the same', async () => {
    await open();
    const secret = loaded('s', { 'reg.example': 'u:p' });
    sink.put('a', { secrets: [secret] });
    await turn();
    changes.length = 0;
    sink.put('a', { secrets: [secret] });
    await turn();
    expect(changes).toEqual([]);
    sink.remove('a');
    sink.put('b', { secrets: [loaded('moved', { 'reg.example': 'u:p' })] });
    await turn();
    expect(changes).toEqual([{ goneCredentialIds: [], tenants: ['a', 'b'] }]);
  });

  test('remove no credential of a malformed Secret, but those of a missing one', async () => {
    await open();
    sink.put('t', { secrets: [loaded('s', { 'reg.example': 'u:p' })] });
    sink.put('t', { secrets: [malformed('s')] });
    await turn();
    expect(holdersOf('u:p')).toEqual(['t s reg.example']);
    changes.length = 0;
    sink.put('t', { secrets: [] });
    await turn();
    expect(changes).toEqual([{ goneCredentialIds: [idOf('u:p')], tenants: ['t'] }]);
  });

  test('of use and refusal are recorded for the Secret, and removed with the credential', async () => {
    await open();
    sink.put('t', {
      secrets: [loaded('s', { 'reg.example': 'u:p' }), loaded('other', { 'reg.example': 'v:p' })],
    });
    nowMs += 1;
    tenants.noteOutcome(idOf('u:p'), 'used');
    nowMs += 1;
    tenants.noteOutcome(idOf('u:p'), 'refused');
    tenants.noteOutcome(idOf('unknown:p'), 'refused');
    const [first, second] = tenants.find('t')?.secrets ?? [];
    expect(first).toMatchObject({ lastUsedAtMs: 1_000_001, lastRefusedAtMs: 1_000_002 });
    expect(second).not.toHaveProperty('lastUsedAtMs');
    sink.put('t', { secrets: [] });
    await turn();
    sink.put('t', { secrets: [loaded('s', { 'reg.example': 'u:p' })] });
    expect(tenants.find('t')?.secrets[0]).not.toHaveProperty('lastUsedAtMs');
  });
});

describe('the tenants', () => {
  test('are those of the configuration, of the store and of the sources, in order', async () => {
    await open();
    expect(tenants.isEmpty).toBe(true);
    await tenants.close();
    await issuer().addTenant('from-store');
    await open({ configured: [{ name: 'from-config', options: { pullPolicy: 'Always' } }] });
    sink.put('a-source', { secrets: [] });
    sink.put('library', { secrets: [loaded('s', { 'reg.example': 'u:p' })] });
    expect(tenants.isEmpty).toBe(false);
    expect(tenants.list().map(({ name }) => name)).toEqual(['a-source', 'from-config', 'from-store']);
    expect(tenants.find('from-config')?.options).toEqual({ pullPolicy: 'Always' });
    expect(holdersOf('u:p')).toEqual([]);
    sink.put('from-config', { secrets: [] });
    sink.remove('from-config');
    sink.remove('a-source');
    expect(tenants.list().map(({ name }) => name)).toEqual(['from-config', 'from-store']);
  });

  test('exclude a name that means something else, which is reported while somebody wants it', async () => {
    await open();
    sink.put('library', { secrets: [], uid: 'uid-1' });
    expect(tenants.refused).toEqual([{ name: 'library', reason: 'the name is reserved' }]);
    expect(tenants.isDisputed('library')).toBe(false);
    sink.remove('library');
    expect(tenants.refused).toEqual([]);
  });

  test('leave a name disputed that was a tenant before it meant something else, until that is removed', async () => {
    await store.putKnownTenants([{ name: 'library', uid: 'uid-1' }]);
    await open();
    sink.put('library', { secrets: [loaded('s', { 'reg.example': 'u:p' })], uid: 'uid-1' });
    expect(tenants.find('library')).toBeUndefined();
    expect(holdersOf('u:p')).toEqual([]);
    expect(tenants.isDisputed('library')).toBe(true);
    expect(tenants.refused[0]?.reason).toContain('until entrepot tenant remove library');
    await issuer().removeTenant('library');
    await tenants.reload();
    expect(tenants.isDisputed('library')).toBe(false);
    expect(tenants.refused).toEqual([{ name: 'library', reason: 'the name is reserved' }]);
    sink.remove('library');
    expect(tenants.refused).toEqual([]);
  });

  test('have no Secrets of a name that a reload gives another meaning', async () => {
    const problems = new Map<string, string>();
    const counts = new Map<string, number | undefined>();
    const gauge = (metric: string, value: number | undefined, { state = '' } = {}) =>
      void counts.set(`${metric} ${state}`, value);
    await open({ nameProblem: name => problems.get(name), meter: { ...silentMeter, gauge } });
    sink.put('t', { secrets: [loaded('s', { 'reg.example': 'u:p' })] });
    await turn();
    expect(counts.get('secrets loaded')).toBe(1);
    problems.set('t', 'is reserved');
    tenants.configure([]);
    await turn();
    expect(counts.get('secrets loaded')).toBe(0);
    sink.remove('t');
    await turn();
    expect(counts.get('secrets loaded')).toBe(0);
  });

  test('include a namespace that was created again as suspended, even after a restart, until it is adopted', async () => {
    const secrets = [loaded('s', { 'reg.example': 'u:p' })];
    await open();
    sink.put('t', { secrets, uid: 'uid-1' });
    const { id } = await issuer().issue({ tenant: 't', server: 'own.example', readOnly: false });
    await tenants.reload();
    expect(tenants.holders(id)).toHaveLength(1);
    changes.length = 0;
    sink.put('t', { secrets, uid: 'uid-2' });
    await turn();
    expect(tenants.find('t')?.suspended).toContain('entrepot tenant adopt t');
    expect(changes).toEqual([{ goneCredentialIds: [idOf('u:p')], tenants: ['t'] }]);
    expect(tenants.holders(id)).toEqual([]);
    await expect(namesFor('t')).rejects.toThrow(TenantBroken);

    await tenants.close();
    await open();
    sink.put('t', { secrets, uid: 'uid-2' });
    expect(tenants.find('t')?.suspended).toBeDefined();
    await issuer().adoptTenant('t');
    await tenants.reload();
    expect(tenants.find('t')?.suspended).toBeUndefined();
    expect(holdersOf('u:p')).toEqual(['t s reg.example']);
    sink.put('t', { secrets, uid: 'uid-1' });
    expect(tenants.find('t')?.suspended).toBeDefined();
  });

  test('exclude a removed one, except for a namespace, which is new, and what was issued to either has ended', async () => {
    await issuer().addTenant('t');
    const request = { server: 'own.example', readOnly: false };
    const { id } = await issuer().issue({ ...request, tenant: 't' });
    const other = await issuer().issue({ ...request, tenant: 'n' });
    await open();
    sink.put('n', { secrets: [loaded('s', { 'reg.example': 'u:p' })], uid: 'uid-1' });
    sink.put('n', { secrets: [loaded('s', { 'reg.example': 'u:p' })], uid: 'uid-2' });
    await turn();
    expect(tenants.find('n')?.suspended).toBeDefined();
    expect(await issuer().removeTenant('t')).toMatchObject([{ id }]);
    expect(await issuer().removeTenant('n')).toMatchObject([{ id: other.id }]);
    await tenants.reload();
    expect(tenants.list().map(({ name }) => name)).toEqual(['n']);
    expect(tenants.find('n')?.suspended).toBeUndefined();
    expect(holdersOf('u:p')).toEqual(['n s reg.example']);
    await issuer().addTenant('t');
    await tenants.reload();
    for (const credential of [id, other.id]) expect(tenants.holders(credential)).toEqual([]);
  });

  test('of namespaces are bound to them even if the bindings cannot be stored at first', async () => {
    const clock = new ManualClock();
    await open({ clock });
    const storing = vi.spyOn(store, 'putKnownTenants').mockRejectedValue(new Error('the index is away'));
    sink.put('t', { secrets: [], uid: 'uid-1' });
    await expect.poll(() => storing.mock.calls.length).toBe(1);
    await clock.advance(1_500);
    await expect.poll(() => storing.mock.calls.length).toBe(2);
    storing.mockRestore();
    await clock.advance(1_500);
    expect(await store.listKnownTenants()).toEqual([]);
    await clock.advance(1_500);
    await expect.poll(() => store.listKnownTenants()).toEqual([{ name: 't', uid: 'uid-1' }]);
  });

  test('of a namespace do not replace one that was added by hand', async () => {
    await issuer().addTenant('t');
    await open();
    sink.put('t', { secrets: [loaded('s', { 'reg.example': 'u:p' })], uid: 'uid-1' });
    expect(tenants.find('t')?.suspended).toBeDefined();
    expect(holdersOf('u:p')).toEqual([]);
  });
});

describe('issued credentials', () => {
  const request = { tenant: 't', server: 'own.example/t', readOnly: true };

  test('identify their tenant only, wherever copies are, and are never sent upstream', async () => {
    await issuer().addTenant('t');
    const { id, username, password } = await issuer().issue(request);
    await open();
    const copy = loaded('copy', { 'reg.example': `${username}:${password}` });
    sink.put('t', { secrets: [copy] });
    sink.put('thief', { secrets: [copy] });
    expect(tenants.holders(id)).toMatchObject([
      { tenant: { name: 't' }, key: 'own.example/t', issued: true, readOnly: true },
      { tenant: { name: 't' }, key: 'reg.example', secret: 'copy', issued: true, readOnly: true },
    ]);
    expect(await namesFor('t')).toEqual([]);
    expect(await namesFor('thief')).toEqual([]);
    expect(tenants.wasIssued(id)).toBe(true);
    expect(JSON.stringify(await store.listIssuedCredentials())).not.toContain(password);
  });

  test('end when they are revoked, and their copies with them', async () => {
    await issuer().addTenant('t');
    const first = await issuer().issue(request);
    const second = await issuer().issue(request);
    await open();
    sink.put('u', { secrets: [loaded('copy', { 'reg.example': `${first.username}:${first.password}` })] });
    await turn();
    changes.length = 0;
    tenants.noteOutcome(first.id, 'used');
    expect(await issuer().revoke('t', first.id)).toHaveLength(1);
    await tenants.reload();
    await turn();
    expect(tenants.lastUsedAtMs(first.id)).toBe(nowMs);
    expect(changes).toEqual([{ goneCredentialIds: [first.id], tenants: ['t'] }]);
    expect(tenants.holders(first.id)).toEqual([]);
    expect(tenants.holders(second.id)).toHaveLength(1);
    expect(tenants.wasIssued(first.id)).toBe(true);
    await expect(issuer().revoke('t', first.id)).rejects.toThrow('t has no such credential');
  });

  test('that were revoked stay revoked when the clock is set back', async () => {
    await issuer().addTenant('t');
    await issuer().addTenant('gone');
    const revoked = await issuer().issue(request);
    const overlapping = await issuer().issue({ ...request, server: 'overlap.example' });
    const replaced = await issuer().issue({ ...request, server: 'other.example' });
    const removed = await issuer().issue({ ...request, tenant: 'gone' });
    await issuer().rotate({ ...request, server: 'overlap.example' }, 300);
    await issuer().rotate({ ...request, server: 'other.example' }, 0);
    // Over by the clock as it is now, but not as it will be.
    nowMs += 300;
    await issuer().revoke('t');
    await issuer().removeTenant('gone');
    await issuer().addTenant('gone');
    nowMs -= 600_000;
    await open();
    for (const { id } of [revoked, overlapping, replaced, removed]) expect(tenants.holders(id)).toEqual([]);
  });

  test('that are revoked after they ended by the clock stay revoked when it is set back', async () => {
    await issuer().addTenant('t');
    const ended = await issuer().issue(request);
    await issuer().rotate(request, 300);
    nowMs += 300;
    await expect(issuer().revoke('t', ended.id)).rejects.toThrow('t has no such credential');
    nowMs -= 600_000;
    await open();
    expect(tenants.holders(ended.id)).toEqual([]);
  });

  test('overlap when they are rotated, and then end by themselves', async () => {
    nowMs = Date.now();
    await issuer().addTenant('t');
    const old = await issuer().issue(request);
    const other = await issuer().issue({ ...request, server: 'other.example' });
    await open();
    const next = await issuer().rotate(request, 300);
    await tenants.reload();
    await turn();
    for (const { id } of [old, next, other]) expect(tenants.holders(id)).toHaveLength(1);
    changes.length = 0;
    nowMs += 300;
    await expect.poll(() => changes).toEqual([{ goneCredentialIds: [old.id], tenants: [] }]);
    expect(tenants.holders(old.id)).toEqual([]);
    for (const { id } of [next, other]) expect(tenants.holders(id)).toHaveLength(1);
  });

  test('that another process issues are accepted within seconds', async () => {
    await open();
    const cli = memory.open();
    const other = new Issuer({ store: cli, credentialKey: KEY, nameProblem: () => undefined });
    expect(await other.addTenant('t')).toBe(true);
    expect(await other.addTenant('t')).toBe(false);
    const { id } = await other.issue(request);
    await expect.poll(() => tenants.holders(id).length).toBe(1);
    await cli.close();
  }, 20_000);

  test('that were revoked end even if the index cannot be read when that is announced', async () => {
    const clock = new ManualClock();
    await issuer().addTenant('t');
    const { id } = await issuer().issue(request);
    await open({ clock });
    expect(tenants.holders(id)).toHaveLength(1);
    await issuer().revoke('t', id);
    vi.spyOn(store, 'listKnownTenants').mockRejectedValueOnce(new Error('the index is away'));
    await expect(tenants.reload()).rejects.toThrow('the index is away');
    await clock.advance(1_000);
    await expect.poll(() => tenants.holders(id)).toEqual([]);
  });
});
