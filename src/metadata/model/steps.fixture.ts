// The steps of which a model test makes its histories.
import * as fc from 'fast-check';
import type { MetadataStore } from '../metadata-store.ts';
import { keepRecords } from './recording.fixture.ts';
import type { Side } from './side.fixture.ts';
import {
  BLOBS,
  CONTENTS,
  CREDENTIALS,
  DIGESTS,
  GRANTEES,
  KEYS,
  MANIFEST_DIGESTS,
  MANIFESTS,
  REPOSITORIES,
  SIZE,
  TAGS,
  timeAfter,
  timeOf,
  WRONG_SIZE,
} from './universe.fixture.ts';

/** Something that a process does. */
export interface Step {
  readonly name: string;
  run(side: Side): Promise<unknown>;
}

/** Time passes before it. */
export const TICK = 'tick';

type Weighted = { readonly weight: number; readonly arbitrary: fc.Arbitrary<Step> };

/** A step of one of the processes. `work` returns what both sides must say. */
function step<T>(
  weight: number,
  name: string,
  given: fc.Arbitrary<T>,
  work: (store: MetadataStore, given: T, side: Side) => Promise<unknown>,
): Weighted {
  const arbitrary = fc.tuple(fc.constantFrom(0, 1), given).map(([by, values]) => ({
    name,
    run: (side: Side) => work(side.stores[by === 0 ? 0 : 1], values, side),
    [fc.toStringMethod]: () => `${name} by ${by}: ${fc.stringify(values)}`,
  }));
  return { weight, arbitrary };
}

const repository = fc.constantFrom(...REPOSITORIES);
const blob = fc.constantFrom(...BLOBS);
const digest = fc.constantFrom(...DIGESTS);
const manifestDigest = fc.constantFrom(...MANIFEST_DIGESTS);
const manifest = fc.constantFrom(...MANIFESTS);
const content = fc.constantFrom(...CONTENTS);
const contents = fc.subarray(CONTENTS, { minLength: 3 });
const tag = fc.constantFrom(...TAGS);
const reference = fc.oneof(tag, digest);
const key = fc.constantFrom(...KEYS);
const objectKey = fc.constantFrom('a', 'b', 'c');
const grantee = fc.constantFrom(...GRANTEES);
const credentialId = fc.constantFrom(...CREDENTIALS);
/** Tenants have no anonymous credential. */
const heldCredentialId = fc.constantFrom(...CREDENTIALS.filter(id => id !== ''));
const sized = fc.record({ digest: blob, size: fc.constant(SIZE) });
const links = fc.array(fc.record({ repository, digest: blob }), { minLength: 3, maxLength: 9 });
const time = fc.integer({ min: 0, max: 8 }).map(timeOf);
/** Before anything happens. */
const past = fc.integer({ min: -5, max: 0 }).map(timeOf);
const since = fc.oneof(fc.integer({ min: 0, max: 8 }), fc.constant(1000)).map(timeAfter);
/**
 * Ends that an index counts are timed by its heartbeats, and there are none here: so nothing is asked after an end. A copy
 * knows of none.
 */
const asked = fc.record({
  credentialIds: fc.subarray(CREDENTIALS, { minLength: 1 }),
  agoMs: fc.constant(Number.MAX_SAFE_INTEGER),
});
const maybe = <T>(values: fc.Arbitrary<T>) => fc.option(values, { nil: undefined });

const size = fc.oneof(
  { weight: 5, arbitrary: fc.constant(SIZE) },
  { weight: 1, arbitrary: fc.constant(WRONG_SIZE) },
);

/** Throws, as what is called within a write may. */
function fail(): never {
  throw new Error('the test has failed it');
}

export const STORING: readonly Weighted[] = [
  step(2, TICK, fc.constant([]), async () => undefined),
  step(
    5,
    'putManifest',
    fc.record({
      to: repository,
      manifest,
      tag: maybe(tag),
      atMs: time,
      requires: fc.array(sized, { maxLength: 1 }),
    }),
    (store, { to, manifest: { manifest: stored, view }, tag: name, atMs, requires }) =>
      store.putManifest(to, stored, view, { atMs, required: requires, ...(name && { tag: name }) }),
  ),
  step(6, 'putBlob', fc.tuple(blob, size, maybe(repository)), (store, given) => store.putBlob(...given)),
  step(2, 'linkBlob', fc.tuple(repository, digest, size), (store, given) => store.linkBlob(...given)),
  step(
    2,
    'putContent',
    fc.tuple(
      repository,
      fc.record({
        manifests: fc.array(manifest, { maxLength: 2 }),
        blobs: fc.array(sized, { maxLength: 1 }),
        grantee: maybe(grantee),
      }),
      time,
    ),
    (store, given) => store.putContent(...given),
  ),
  step(1, 'putTag', fc.tuple(repository, tag, fc.record({ digest, checkedAtMs: time })), (store, given) =>
    store.putTag(...given),
  ),
  step(
    1,
    'publish',
    fc.tuple(fc.array(fc.record({ repository, digest, tag: maybe(tag) }), { maxLength: 2 }), time),
    (store, given) => store.publish(...given),
  ),
  step(1, 'putPin', fc.tuple(repository, reference), (store, given) => store.putPin(...given)),
  step(1, 'putGrant', fc.tuple(repository, fc.record({ credentialId, verifiedAtMs: time })), (store, given) =>
    store.putGrant(...given),
  ),
];

const UNLINKING: readonly Weighted[] = [
  step(3, 'unlinkManifest', fc.tuple(repository, manifestDigest), (store, given) =>
    store.unlinkManifest(...given),
  ),
  step(2, 'unlinkUnnamed', fc.tuple(repository, manifestDigest), (store, given) =>
    store.unlinkUnnamed(...given),
  ),
  step(3, 'unlinkBlob', fc.tuple(repository, digest), (store, given) => store.unlinkBlob(...given)),
  step(2, 'removeTag', fc.tuple(repository, tag), (store, given) => store.removeTag(...given)),
  step(2, 'removePin', fc.tuple(repository, reference), (store, given) => store.removePin(...given)),
  step(1, 'removeRepository', repository, async (store, given, side) => {
    await store.removeRepository(given);
    await side.settle();
  }),
  step(1, 'endGrant', fc.tuple(repository, credentialId), (store, given) => store.endGrant(...given)),
  step(
    1,
    'putGrant of what was asked before everything',
    fc.tuple(repository, fc.record({ credentialId, verifiedAtMs: time }), asked),
    (store, [where, grant, unlessEnded]) => store.putGrant(where, grant, { unlessEnded }),
  ),
  step(1, 'hasEndedGrant', fc.tuple(repository, asked), (store, given) => store.hasEndedGrant(...given)),
  step(1, 'endGrantsOf', credentialId, (store, given) => store.endGrantsOf(given)),
  step(1, 'endGrantsBefore', since, async (store, given) => {
    let next: string | undefined;
    do ({ next } = await store.endGrantsBefore(given, next));
    while (next !== undefined);
  }),
  step(1, 'endPreloadsOf', grantee, (store, given) => store.endPreloadsOf(given)),
];

const UPKEEP: readonly Weighted[] = [
  step(2, 'removeBlob', blob, (store, given) => store.removeBlob(given)),
  step(4, 'expireLinks', fc.tuple(links, since), (store, given) => store.expireLinks(...given)),
  step(4, 'removeUnneeded', fc.tuple(contents, since), (store, given) => store.removeUnneeded(...given)),
  step(2, 'removeUnlinked', fc.tuple(contents, since), (store, given) => store.removeUnlinked(...given)),
  step(5, 'evict', fc.tuple(contents, since), (store, given) => store.evict(...given)),
  step(2, 'ifStray', fc.tuple(digest, fc.boolean()), async (store, [given, fails]) => {
    let acts = 0;
    const [isStray] = await store.ifStray([given], () => (fails ? fail() : void (acts += 1)));
    return { isStray, acts };
  }),
  step(
    4,
    'quarantine',
    fc.tuple(content, fc.constantFrom('same', 'others', 'failing')),
    async (store, [given, bytes]) => {
      let taken = 0;
      const loss = await store.quarantine(given, 'wrong bytes', {
        isSame: () => bytes !== 'others',
        takeAway: () => (bytes === 'failing' ? fail() : void (taken += 1)),
      });
      return { loss, taken };
    },
  ),
  step(1, 'endDamage', digest, (store, given) => store.endDamage(given)),
  step(
    2,
    'addRecordedImages',
    fc.record({ repository, manifest, tag, pin: maybe(reference), at: time, completesKnown: fc.boolean() }),
    async (store, given, side) => {
      const { manifest: whole, view } = given.manifest;
      const { mediaType } = whole;
      const pins = given.pin === undefined ? [] : [given.pin];
      const recorded = {
        name: given.repository.name,
        digest: whole.digest,
        record: { mediaType, tags: [{ tag: given.tag, atMs: given.at }], pins },
        content: { manifest: whole, view, blobs: view.blobs },
      };
      // Whether an image was deleted is known to one by what was recorded, and to the other by what has changed.
      await keepRecords(side);
      return store.addRecordedImages([recorded], { atMs: given.at, completesKnown: given.completesKnown });
    },
  ),
  step(3, 'keepRecords', fc.constant([]), (_store, _given, side) => keepRecords(side)),
  step(2, 'noteUse', digest, async (store, given) => store.noteUse(given)),
  step(1, 'writeUses', fc.constant([]), store => store.writeUses()),
  step(1, 'putUse', digest, (store, given) => store.putUse(given)),
  step(1, 'lowerUses', fc.tuple(since, time), (store, given) => store.lowerUses(...given)),
  step(1, 'lowerLinks', fc.tuple(links, time), (store, given) => store.lowerLinks(...given)),
  step(
    2,
    'putReferrersList',
    fc.tuple(
      repository,
      manifestDigest,
      fc.record({
        mediaType: fc.constantFrom('a/b', 'a/c'),
        bytes: fc.integer({ min: 1, max: 9 }).map(length => Buffer.alloc(length)),
        checkedAtMs: time,
      }),
    ),
    (store, given) => store.putReferrersList(...given),
  ),
];

const LEASES: readonly Weighted[] = [
  step(4, 'acquireLease', key, async (store, given, side) => {
    const lease = await store.acquireLease(given);
    if (lease !== undefined) side.leases.set(given, lease);
    return lease && { key: lease.key, left: lease.left?.mayWrite };
  }),
  step(2, 'release', key, async (store, given, side) => {
    const lease = side.leases.get(given);
    if (lease !== undefined) await store.release(lease);
  }),
  step(1, 'setAside', key, async (store, given, side) => {
    const lease = side.leases.get(given);
    if (lease !== undefined) await store.setAside(lease);
  }),
  step(
    3,
    'putBlob with proof',
    fc.tuple(blob, repository, key, fc.constantFrom('there', 'gone', 'failing')),
    async (store, [given, to, under, bytes], side) => {
      const lease = side.leases.get(under);
      const isThere = () => (bytes === 'failing' ? fail() : bytes === 'there');
      return lease && store.putBlob(given, SIZE, to, { lease, isThere });
    },
  ),
  step(
    4,
    'putBlob in an object',
    fc.tuple(blob, repository, key, objectKey, fc.constantFrom('puts', 'gives up', 'stops')),
    async (store, [given, to, under, named, ends], side) => {
      const lease = side.leases.get(under);
      const isNew = !side.objects.has(named);
      if (lease === undefined || !isNew) return undefined;
      side.objects.add(named);
      await store.announceObject({ digest: given, key: named }, lease);
      if (ends === 'gives up') await store.giveUpObject(named);
      return ends === 'stops'
        ? undefined
        : store.putBlob(given, SIZE, to, { lease, isThere: () => true, key: named });
    },
  ),
  step(1, 'giveUpAbandonedObjects', fc.constant(Number.MAX_SAFE_INTEGER), (store, given) =>
    store.giveUpAbandonedObjects(given),
  ),
  step(1, 'giveUpStrayObjects', fc.tuple(blob, objectKey), (store, [given, named]) =>
    store.giveUpStrayObjects([{ digest: given, key: `found ${named}` }]),
  ),
  step(1, 'putFoundBlob', fc.tuple(blob, objectKey), (store, [given, named]) =>
    store.putFoundBlob({ digest: given, key: `found ${named}` }, SIZE),
  ),
  step(
    1,
    'putSetting of an import',
    fc.tuple(fc.constantFrom('importing-1', 'importing-2'), past),
    (store, [name, at]) => store.putSetting(name, String(at)),
  ),
];

/** What is kept beside content, and has nothing to do with it. */
export const RECORDS: readonly Weighted[] = [
  step(
    2,
    'putUpload',
    fc.tuple(fc.constantFrom('1', '2', '3'), time, maybe(key)),
    (store, [id, touchedAtMs, under], side) => {
      const to = REPOSITORIES[id === '1' ? 0 : 1];
      if (to === undefined) return fail();
      const requester = id === '3' ? 'x' : 'y';
      const upload = { id, repository: to, requester, startedAtMs: 1, touchedAtMs };
      return store.putUpload(upload, under === undefined ? undefined : side.leases.get(under));
    },
  ),
  step(1, 'removeUpload', fc.constantFrom('1', '2', '3'), (store, given) => store.removeUpload(given)),
  step(
    1,
    'putKnownTenants',
    fc.array(fc.record({ name: fc.constantFrom('s', 't'), uid: maybe(fc.constantFrom('1', '2')) }), {
      maxLength: 2,
    }),
    (store, given) => store.putKnownTenants(given),
  ),
  step(1, 'removeKnownTenant', fc.constantFrom('s', 't'), (store, given) => store.removeKnownTenant(given)),
  step(
    1,
    'putIssuedCredentials',
    fc.array(
      fc.record({
        id: fc.constantFrom('1', '2'),
        tenant: fc.constant('t'),
        username: fc.constant('u'),
        server: fc.constantFrom('r', 's'),
        readOnly: fc.boolean(),
        issuedAtMs: time,
        endsAtMs: fc.oneof(time, fc.constant(Number.POSITIVE_INFINITY)),
      }),
      { maxLength: 2 },
    ),
    (store, given) => store.putIssuedCredentials(given),
  ),
  step(
    1,
    'putCredentialUsage',
    fc.array(
      fc.record(
        { credentialId: heldCredentialId, usedAtMs: time, refusedAtMs: time },
        { requiredKeys: ['credentialId'] },
      ),
      { maxLength: 2 },
    ),
    (store, given) => store.putCredentialUsage(given),
  ),
  step(1, 'removeCredentialUsage', fc.array(heldCredentialId, { maxLength: 2 }), (store, given) =>
    store.removeCredentialUsage(given),
  ),
  step(1, 'putSetting', fc.constantFrom('x', 'y'), (store, given) => store.putSetting('key', given)),
  step(1, 'initSetting', fc.constantFrom('x', 'y'), (store, given) => store.initSetting('key', given)),
  step(2, 'lowerUses', fc.tuple(since, time), (store, given) => store.lowerUses(...given)),
];

/** All that happens to content. */
export const CONTENT: readonly Weighted[] = [...STORING, ...UNLINKING, ...UPKEEP, ...LEASES];
