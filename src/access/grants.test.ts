import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../lib/log.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { openSqliteMetadataStore } from '../metadata/sqlite-metadata-store.ts';
import { Grants, isOpenToAll } from './grants.ts';

const repository = { upstream: 'up.example', name: 'team/app' };
const rules = { verifyForMs: 1_000, staleGrantForMs: 500 };

let folder: string;
let metadata: MetadataStore;
let nowMs: number;
let grants: Grants;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-grants-'));
  metadata = await openSqliteMetadataStore(join(folder, 'index.db'), { log: silentLog });
  nowMs = 1_000_000;
  grants = new Grants(metadata, rules, () => nowMs);
});

afterEach(async () => {
  await metadata.close();
  await rm(folder, { recursive: true });
});

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
    expect(await grants.stateOf(repository, ['', 'a'])).toEqual({
      proved: false,
      provedIfUnreachable: false,
    });
  });

  it('made by a clock that has been set back since are verified again, and count until then if they have to', async () => {
    nowMs += 365 * 24 * 3_600_000;
    await granted('a');
    nowMs = 1_000_000;
    expect(await grants.stateOf(repository, ['a'])).toEqual({ proved: false, provedIfUnreachable: true });
    await granted('a');
    nowMs += 999;
    expect((await grants.stateOf(repository, ['a'])).proved).toBe(true);
    nowMs -= 2_000;
    expect((await grants.stateOf(repository, ['a'])).proved).toBe(true);
  });

  it('belong to one credential and one repository', async () => {
    await granted('a');
    expect((await grants.stateOf(repository, ['a'])).proved).toBe(true);
    expect((await grants.stateOf(repository, ['b', ''])).proved).toBe(false);
    expect((await grants.stateOf({ ...repository, name: 'team/app2' }, ['a'])).proved).toBe(false);
    expect((await grants.stateOf({ ...repository, upstream: 'other.example' }, ['a'])).proved).toBe(false);
  });

  it('expire, then count for a while only where upstream cannot be reached, then not at all', async () => {
    await granted('a');
    nowMs += 1_000;
    expect(await grants.stateOf(repository, ['a'])).toEqual({ proved: false, provedIfUnreachable: true });
    nowMs += 500;
    expect(await grants.stateOf(repository, ['a'])).toEqual({ proved: false, provedIfUnreachable: false });
  });

  it('are renewed by a later success, but not written again at each pull', async () => {
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
    expect((await grants.stateOf(repository, ['a'])).proved).toBe(false);
    expect((await grants.stateOf(repository, ['b'])).proved).toBe(true);
  });

  it('of an import do not age', async () => {
    await metadata.putGrant(repository, { credentialId: 'a', verifiedAtMs: 0, origin: 'import' });
    expect((await grants.stateOf(repository, ['a'])).proved).toBe(true);
  });

  it('tell what everybody may have: no longer what was imported for all, once a credential opened more of it', async () => {
    const isOpen = async () => isOpenToAll(await metadata.readGrants(repository));
    expect(await isOpen()).toBe(false);
    await metadata.putGrant(repository, { credentialId: '', verifiedAtMs: 0, origin: 'import' });
    expect(await isOpen()).toBe(true);
    await granted('a');
    expect(await isOpen()).toBe(false);
    await granted('');
    expect(await isOpen()).toBe(true);
  });

  it('of a tenant alone open nothing to all', async () => {
    await metadata.putGrant(repository, { credentialId: 'tenant:team-a', verifiedAtMs: 0, origin: 'import' });
    expect(isOpenToAll(await metadata.readGrants(repository))).toBe(false);
  });
});
