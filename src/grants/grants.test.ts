import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { systemClock } from '../lib/clock.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { openMemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { digestOf } from '../oci/digest.ts';
import { Grants, isOpenToAll, tenantGrantee } from './grants.ts';
import { VerificationPolicy, type VerificationPolicyName } from './verification.ts';

const repository = { upstream: 'up.example', name: 'team/app' };
const rules = { verifyForMs: 1_000, staleGrantForMs: 500 };

let metadata: MetadataStore;
let nowMs: number;
let grants: Grants;
const clock = { ...systemClock, nowMs: () => nowMs };

beforeEach(async () => {
  metadata = openMemoryMetadataStore();
  nowMs = 1_000_000;
  grants = new Grants(metadata, rules, clock);
});

afterEach(() => metadata.close());

const granted = (credentialId: string) =>
  grants.record({
    upstream: repository.upstream,
    repository: repository.name,
    credentialId,
    outcome: 'granted',
  });
const ended = (credentialId: string) =>
  grants.record({
    upstream: repository.upstream,
    repository: repository.name,
    credentialId,
    outcome: 'ended',
  });

describe('grants', () => {
  it('prove nothing before upstream has answered', async () => {
    expect(await grants.stateOf(repository, { credentialIds: ['', 'a'] })).toMatchObject({
      proved: false,
      provedIfUnreachable: false,
    });
  });

  it('from a clock that was set back since are verified again, and are valid until then if upstream is unreachable', async () => {
    nowMs += 365 * 24 * 3_600_000;
    await granted('a');
    nowMs = 1_000_000;
    expect(await grants.stateOf(repository, { credentialIds: ['a'] })).toMatchObject({
      proved: false,
      provedIfUnreachable: true,
    });
    await granted('a');
    nowMs += 999;
    expect((await grants.stateOf(repository, { credentialIds: ['a'] })).proved).toBe(true);
    nowMs -= 2_000;
    expect((await grants.stateOf(repository, { credentialIds: ['a'] })).proved).toBe(true);
  });

  it('belong to one credential and one repository', async () => {
    await granted('a');
    expect((await grants.stateOf(repository, { credentialIds: ['a'] })).proved).toBe(true);
    expect((await grants.stateOf(repository, { credentialIds: ['b', ''] })).proved).toBe(false);
    expect(
      (await grants.stateOf({ ...repository, name: 'team/app2' }, { credentialIds: ['a'] })).proved,
    ).toBe(false);
    expect(
      (await grants.stateOf({ ...repository, upstream: 'other.example' }, { credentialIds: ['a'] })).proved,
    ).toBe(false);
  });

  it('end whether or not a Secret had the credential when they were recorded', async () => {
    let isHeld = false;
    grants = new Grants(metadata, rules, clock, () => isHeld);
    const isProved = async () => (await grants.stateOf(repository, { credentialIds: ['a'] })).proved;
    await granted('a');
    isHeld = true;
    await granted('a');
    expect(await isProved()).toBe(true);
    await ended('a');
    expect(await isProved()).toBe(false);
    isHeld = false;
    expect(await isProved()).toBe(false);
    // Nor by what another process reads.
    expect(await metadata.readGrants(repository)).toEqual([]);
  });

  it('expire, then are valid only while upstream is unreachable, then not at all', async () => {
    await granted('a');
    nowMs += 1_000;
    expect(await grants.stateOf(repository, { credentialIds: ['a'] })).toMatchObject({
      proved: false,
      provedIfUnreachable: true,
    });
    nowMs += 500;
    expect(await grants.stateOf(repository, { credentialIds: ['a'] })).toMatchObject({
      proved: false,
      provedIfUnreachable: false,
    });
  });

  it('are renewed by a later success, but not rewritten at every pull', async () => {
    await granted('a');
    nowMs += 50;
    await granted('a');
    expect((await metadata.readGrants(repository))[0]?.verifiedAtMs).toBe(1_000_000);
    nowMs += 100;
    await granted('a');
    expect((await metadata.readGrants(repository))[0]?.verifiedAtMs).toBe(1_000_150);
  });

  it('end at once when upstream refuses', async () => {
    await granted('a');
    await granted('b');
    await ended('a');
    expect((await grants.stateOf(repository, { credentialIds: ['a'] })).proved).toBe(false);
    expect((await grants.stateOf(repository, { credentialIds: ['b'] })).proved).toBe(true);
  });

  it('end when upstream refuses while the index accepts no write, and begin again when upstream grants', async () => {
    await granted('a');
    const endGrant = vi.spyOn(metadata, 'endGrant').mockRejectedValue(new Error('disk I/O error'));
    await expect(ended('a')).rejects.toThrow('disk I/O error');
    const ofA = { credentialIds: ['a'] };
    expect(await grants.stateOf(repository, ofA)).toMatchObject({
      proved: false,
      provedIfUnreachable: false,
    });
    await granted('a');
    expect(await grants.stateOf(repository, ofA)).toMatchObject({ proved: true });
    await expect(ended('a')).rejects.toThrow('disk I/O error');
    endGrant.mockRestore();
    await ended('a');
    expect(await metadata.readGrants(repository, ['a'])).toEqual([]);
  });

  it('end when upstream refuses while the index cannot be read', async () => {
    await granted('a');
    const readGrants = vi.spyOn(metadata, 'readGrants').mockRejectedValueOnce(new Error('disk I/O error'));
    await ended('a');
    readGrants.mockRestore();
    expect(await grants.stateOf(repository, { credentialIds: ['a'] })).toMatchObject({ proved: false });
    expect(await metadata.readGrants(repository, ['a'])).toEqual([]);
  });

  it('end when upstream refuses while an earlier proof is still being written', async () => {
    const putGrant = metadata.putGrant.bind(metadata);
    let proceed: (() => void) | undefined;
    const gate = new Promise<void>(resolve => {
      proceed = resolve;
    });
    const put = vi.spyOn(metadata, 'putGrant').mockImplementationOnce(async (...row) => {
      await gate;
      return putGrant(...row);
    });
    const granting = granted('a');
    await expect.poll(() => put).toHaveBeenCalled();
    const ending = ended('a');
    proceed?.();
    await Promise.all([granting, ending]);
    expect(await grants.stateOf(repository, { credentialIds: ['a'] })).toMatchObject({ proved: false });
  });

  it('end at once when upstream refuses while they are being renewed, however long that takes', async () => {
    await granted('a');
    nowMs += 500;
    let proceed: (() => void) | undefined;
    const locked = new Promise<boolean>(resolve => {
      proceed = () => resolve(true);
    });
    const put = vi.spyOn(metadata, 'putGrant').mockImplementationOnce(() => locked);
    const renewing = granted('a');
    await expect.poll(() => put).toHaveBeenCalled();
    const ending = ended('a');
    const ofA = { credentialIds: ['a'] };
    expect(await grants.stateOf(repository, ofA)).toMatchObject({
      proved: false,
      provedIfUnreachable: false,
    });
    proceed?.();
    await Promise.all([renewing, ending]);
    expect(await grants.stateOf(repository, ofA)).toMatchObject({
      proved: false,
      provedIfUnreachable: false,
    });
    await granted('a');
    expect(await grants.stateOf(repository, ofA)).toMatchObject({ proved: true });
  });

  it('are written once for equal proofs that come while the index is slow', async () => {
    let fail: (() => void) | undefined;
    const locked = new Promise<boolean>((_, reject) => {
      fail = () => reject(new Error('locked'));
    });
    const put = vi.spyOn(metadata, 'putGrant').mockImplementation(() => locked);
    const granting = Array.from({ length: 50 }, () => granted('a'));
    await expect.poll(() => put).toHaveBeenCalled();
    fail?.();
    for (const outcome of await Promise.allSettled(granting)) expect(outcome.status).toBe('rejected');
    expect(put).toHaveBeenCalledTimes(1);
    put.mockRestore();
    await granted('a');
    expect(await grants.stateOf(repository, { credentialIds: ['a'] })).toMatchObject({ proved: true });
  });

  it('are written at most twice for alternating proofs that come while the index is slow, the last one last', async () => {
    const gate = new AbortController();
    const locked = once(gate.signal, 'abort');
    const putGrant = metadata.putGrant.bind(metadata);
    const endGrant = metadata.endGrant.bind(metadata);
    const put = vi.spyOn(metadata, 'putGrant').mockImplementation(async (...row) => {
      await locked;
      return putGrant(...row);
    });
    const end = vi.spyOn(metadata, 'endGrant').mockImplementation(async (...row) => {
      await locked;
      await endGrant(...row);
    });
    const recording = [granted('a'), granted('b')];
    await expect.poll(() => put).toHaveBeenCalledTimes(2);
    for (let at = 0; at < 50; at += 1) recording.push(ended('a'), granted('a'), granted('b'), ended('b'));
    recording.push(ended('a'), granted('b'));
    gate.abort();
    await Promise.all(recording);
    expect([put.mock.calls.length, end.mock.calls.length]).toEqual([3, 1]);
    expect((await grants.stateOf(repository, { credentialIds: ['a'] })).proved).toBe(false);
    expect((await grants.stateOf(repository, { credentialIds: ['b'] })).proved).toBe(true);
    expect((await metadata.readGrants(repository)).map(({ credentialId }) => credentialId)).toEqual(['b']);
  });

  it('of a credential that is gone end while the index accepts no write, and are removed as soon as it does', async () => {
    await granted('a');
    const endGrantsOf = vi.spyOn(metadata, 'endGrantsOf').mockRejectedValue(new Error('disk I/O error'));
    await expect(grants.endAllOf('a')).rejects.toThrow('disk I/O error');
    expect(await grants.stateOf(repository, { credentialIds: ['a'] })).toMatchObject({ proved: false });
    endGrantsOf.mockRestore();
    await grants.removeEnded();
    expect(await metadata.readGrants(repository, ['a'])).toEqual([]);
  });

  it('that ended while the index accepted no write are removed as soon as it does', async () => {
    await granted('a');
    await granted('b');
    const endGrant = vi.spyOn(metadata, 'endGrant').mockRejectedValue(new Error('disk I/O error'));
    await expect(ended('a')).rejects.toThrow('disk I/O error');
    await grants.removeEnded();
    expect(endGrant).toHaveBeenCalledTimes(2);
    expect(await grants.explain(repository, ['a'])).toEqual(new Map());
    endGrant.mockRestore();
    await grants.removeEnded();
    expect((await metadata.readGrants(repository)).map(({ credentialId }) => credentialId)).toEqual(['b']);
    await metadata.putGrant(repository, { credentialId: 'a', verifiedAtMs: nowMs });
    expect(await grants.stateOf(repository, { credentialIds: ['a'] })).toMatchObject({ proved: true });
  });

  it('of a credential all end if more have ended than are remembered individually', async () => {
    const names = ['one', 'two', 'three'];
    grants = new Grants(metadata, rules, clock, () => true, 1);
    const record = (name: string, credentialId: string, outcome: 'granted' | 'ended') =>
      grants.record({ upstream: 'up.example', repository: name, credentialId, outcome });
    const proved = (name: string, credentialId: string) =>
      grants
        .stateOf({ upstream: 'up.example', name }, { credentialIds: [credentialId] })
        .then(state => state.proved);
    const rows = async () =>
      (await Promise.all(names.map(name => metadata.readGrants({ upstream: 'up.example', name }))))
        .flat()
        .map(({ credentialId }) => credentialId);
    for (const name of names) for (const id of ['a', 'b']) await record(name, id, 'granted');
    const spies = (['endGrant', 'endGrantsOf'] as const).map(method =>
      vi.spyOn(metadata, method).mockRejectedValue(new Error('disk I/O error')),
    );
    await expect(record('one', 'a', 'ended')).rejects.toThrow('disk I/O error');
    expect([await proved('one', 'a'), await proved('two', 'a')]).toEqual([false, true]);
    await expect(record('two', 'a', 'ended')).rejects.toThrow('disk I/O error');
    expect(await Promise.all(names.map(name => proved(name, 'a')))).toEqual([false, false, false]);
    expect(await proved('one', 'b')).toBe(true);
    // What would come to be removed with the others proves nothing yet.
    await expect(record('three', 'a', 'granted')).rejects.toThrow('disk I/O error');
    spies.forEach(spy => spy.mockRestore());
    await record('three', 'a', 'granted');
    expect(await proved('three', 'a')).toBe(true);
    await grants.removeEnded();
    expect(await proved('three', 'a')).toBe(true);
    expect(await rows()).toEqual(['b', 'b', 'a', 'b']);
  });

  it('do not affect what was imported: for everybody as the policy says, for a tenant always', async () => {
    const asker = { credentialIds: ['a'], grantee: tenantGrantee('team-a') };
    const preloadedFor = async (policy: VerificationPolicyName) =>
      (await grants.stateOf(repository, { ...asker, policy: new VerificationPolicy(policy) })).preloadedFor;
    expect(await preloadedFor('NeverVerifyPreloadedImages')).toEqual(['', 'tenant:team-a']);
    expect(await preloadedFor('AlwaysVerify')).toEqual(['tenant:team-a']);
    expect(await grants.stateOf(repository, { credentialIds: [] })).toMatchObject({ preloadedFor: [''] });
  });

  it('are read with the content that is asked for, which is read again if an expired one hid what was imported', async () => {
    const digest = digestOf(Buffer.from('x'));
    await metadata.putBlob(digest, 1);
    await metadata.putContent(repository, { manifests: [], blobs: [{ digest, size: 1 }], grantee: '' }, 1);
    const asker = { credentialIds: ['a'], target: { blob: digest } };
    const ahead = async () => (await grants.stateOf(repository, asker)).ahead;
    expect((await ahead())?.takeBlob(repository, digest)).toMatchObject({ linkedSize: 1, isPreloaded: true });
    await granted('a');
    expect((await ahead())?.takeBlob(repository, digest)).toMatchObject({
      linkedSize: 1,
      isPreloaded: false,
    });
    nowMs += rules.verifyForMs;
    expect(await ahead()).toBeUndefined();
    await granted('a');
    const spy = vi.spyOn(metadata, 'endGrant').mockRejectedValue(new Error('disk I/O error'));
    await expect(ended('a')).rejects.toThrow('disk I/O error');
    expect(await grants.stateOf(repository, asker)).toMatchObject({ proved: false, preloadedFor: [''] });
    expect(await ahead()).toBeUndefined();
    spy.mockRestore();
  });

  it('are read with a manifest, which says when the read began', async () => {
    const time = new ManualClock();
    grants = new Grants(metadata, rules, time);
    const read = metadata.readForPull.bind(metadata);
    vi.spyOn(metadata, 'readForPull').mockImplementation((...asked) => {
      time.skip(20);
      return read(...asked);
    });
    const sinceMs = time.monotonicMs();
    const { ahead } = await grants.stateOf(repository, { credentialIds: ['a'], target: { manifest: 'v1' } });
    expect(ahead?.takeManifest(repository, 'v1')).toMatchObject({ tag: undefined, sinceMs });
  });

  it('tell what everybody may have: not what was imported for all, once a credential proved a right to the repository', async () => {
    const blob = { digest: digestOf(Buffer.from('x')), size: 1 };
    const isOpen = () => isOpenToAll(metadata, repository, [blob.digest], rules, nowMs);
    expect(await isOpen()).toBe(false);
    await metadata.putBlob(blob.digest, blob.size);
    await metadata.putContent(repository, { manifests: [], blobs: [blob], grantee: 'tenant:team-a' }, 1);
    expect(await isOpen()).toBe(false);
    await metadata.putContent(repository, { manifests: [], blobs: [blob], grantee: '' }, 1);
    expect(await isOpen()).toBe(true);
    await granted('a');
    expect(await isOpen()).toBe(false);
    await granted('');
    expect(await isOpen()).toBe(true);
  });

  it('tell nobody that a repository is public when the last proof of that has expired', async () => {
    const digest = digestOf(Buffer.from('x'));
    const isOpen = () => isOpenToAll(metadata, repository, [digest], rules, nowMs);
    await granted('');
    nowMs += rules.verifyForMs + rules.staleGrantForMs - 1;
    expect(await isOpen()).toBe(true);
    nowMs += 1;
    expect(await isOpen()).toBe(false);
    await metadata.putBlob(digest, 1);
    await metadata.putContent(repository, { manifests: [], blobs: [{ digest, size: 1 }], grantee: '' }, 1);
    expect(await isOpen()).toBe(true);
  });
});
