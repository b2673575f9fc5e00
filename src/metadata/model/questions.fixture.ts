// All that can be asked of an index about the universe of a model test.
import type { Repository } from '../../oci/repository.ts';
import { everything, type Found } from '../survey.ts';
import { keepRecords } from './recording.fixture.ts';
import type { Side } from './side.fixture.ts';
import { DIGESTS, KEYS, OWNERS, REPOSITORIES, TAGS, timeAfter } from './universe.fixture.ts';

const PAGE = { limit: 100, after: undefined };

type Answers = Record<string, unknown>;

/** What is asked, and what is said. */
export async function everyAnswer(side: Side): Promise<Answers> {
  // One after the other: the first read of a damaged manifest is what finds the damage.
  const ofRepositories: Answers[] = [];
  for (const repository of REPOSITORIES) {
    ofRepositories.push({
      ...(await aboutRepository(side, repository)),
      ...(await aboutContentOf(side, repository)),
    });
  }
  return {
    repositories: ofRepositories,
    ...(await aboutContent(side)),
    ...(await aboutUpkeep(side)),
    ...(await aboutRecords(side)),
    'image records': await keepRecords(side),
    unrecorded: await side.stores[1].listUnrecorded(100),
  };
}

async function aboutRepository({ stores: [store], survey }: Side, repository: Repository): Promise<Answers> {
  const answers: Answers = {
    exists: await store.hasRepository(repository),
    tags: await store.listTags(repository, PAGE),
    'tags for a': await store.listTags(repository, PAGE, ['tenant:a']),
    pins: await store.listPins(repository),
    preloads: await store.listPreloads(repository),
    grants: inAnyOrder(await store.readGrants(repository)),
    usage: await store.readUsage('team', repository),
    uploads: await store.countUploads(repository),
    linked: await pages(after => survey.linked(repository, after)),
  };
  for (const tag of TAGS) {
    answers[tag] = await store.readTag(repository, tag);
    answers[`pull of ${tag}`] = await store.readForPull(repository, tag, {
      grantees: [''],
      credentialIds: ['c'],
    });
  }
  return answers;
}

async function aboutContentOf({ stores: [store], survey }: Side, repository: Repository): Promise<Answers> {
  const answers: Answers = {};
  for (const digest of DIGESTS) {
    const query = { grantees: ['tenant:a', ''] };
    answers[digest] = {
      isLinked: await store.isLinked(repository, digest),
      isNamed: await store.isNamed(repository, digest),
      namedSize: await store.namedSize(repository, digest),
      manifest: await store.readLinkedManifest(repository, digest),
      blob: await store.readBlobForPull(repository, digest, query),
      pull: await store.readForPull(repository, digest, query),
      isPreloaded: await store.isPreloaded(repository, digest, ['tenant:a']),
      tags: await store.listTagsOf(repository, digest, PAGE),
      pins: await store.listPinsOver(repository, digest),
      referrers: await store.listReferrers(repository, digest, undefined, PAGE),
      sboms: await store.listReferrers(repository, digest, 'sbom', PAGE, ['']),
      referrersList: await store.readReferrersList(repository, digest),
      usage: await store.readUsage('team', repository, { digest, tags: TAGS }),
      image: firstThenOthers(await survey.image(repository, digest)),
      'image v1': firstThenOthers(await survey.image(repository, digest, 'v1')),
    };
  }
  return answers;
}

async function aboutContent({ stores: [store], survey }: Side): Promise<Answers> {
  const answers: Answers = {};
  for (const digest of DIGESTS) {
    answers[digest] = {
      stat: await store.statBlob(digest),
      bytes: await store.readManifestBytes(digest),
      damage: await store.readDamage(digest),
      isStray: await store.ifStray([digest], () => {}),
      isHostedManifest: await store.isHostedManifest(digest),
      repositories: await survey.repositoriesOf(digest),
    };
  }
  return answers;
}

async function aboutUpkeep({ stores: [store], survey }: Side): Promise<Answers> {
  const answers: Answers = {
    damaged: await store.countDamaged(),
    importing: await store.importingSinceMs(),
    blobs: await pages(after => survey.blobs(after)),
    'damaged manifests': await pages(after => survey.damagedManifests(after)),
    lost: await pages(after => survey.lost(after)),
    'stale damage': await pages(after => survey.staleDamage(after)),
    'without row': await survey.withoutRow(DIGESTS),
    'stray objects': await survey.strayObjects(DIGESTS.map(digest => ({ digest, key: 'found a' }))),
    'given up': inAnyOrder(await store.listGivenUpObjects(Number.MAX_SAFE_INTEGER, 100)),
    tags: await pages(after => survey.tags(after)),
    untagged: inAnyOrder(await pages(after => survey.untagged(after))),
  };
  for (const ticks of [1, 4, 1000]) {
    const ms = timeAfter(ticks);
    answers[`since ${ticks}`] = {
      hasLaterUses: await store.hasLaterUses(ms),
      laterLinks: inAnyOrder(await pages(after => survey.laterLinks(ms, after))),
      idleLinks: inAnyOrder(await pages(after => survey.idleLinks(ms, after))),
      unneededBlobs: await pages(after => survey.unneeded('blob', ms, after)),
      unneededManifests: await pages(after => survey.unneeded('manifest', ms, after)),
      unlinkedBlobs: await pages(after => survey.unlinked('blob', ms, after)),
      unlinkedManifests: await pages(after => survey.unlinked('manifest', ms, after)),
      unnamedBlobs: await pages(after => survey.unnamedBlobs(ms, after)),
      evictable: await pages(after => survey.evictable(ms, after)),
    };
  }
  return answers;
}

async function aboutRecords({ stores: [store] }: Side): Promise<Answers> {
  const leases = await Promise.all(KEYS.map(key => store.readLease(key)));
  return {
    leases: leases.map(lease => lease?.isHeld),
    owners: await store.readOwnerBytes(OWNERS),
    hosted: await store.listRepositories('', PAGE),
    mirrored: await store.listRepositories('docker.io', PAGE),
    totals: await store.readTotals(),
    tenants: await store.listKnownTenants(),
    issued: await store.listIssuedCredentials(),
    'issued to y': await store.listIssuedCredentials(['y']),
    credentials: await store.listCredentialUsage(),
    uploads: inAnyOrder(await store.listUploads(timeAfter(5), 10)),
    'uploads of y': await store.countUploadsOf('y'),
    upload: await store.readUpload('1'),
    setting: await store.readSetting('key'),
  };
}

async function pages<T>(question: (after?: string) => Promise<Found<T>>): Promise<readonly T[]> {
  const found: T[] = [];
  for await (const page of everything(question)) found.push(...page);
  return found;
}

/** For answers of which the contract tells the first, and leaves open the order of the others. */
function firstThenOthers<T>([first, ...others]: readonly T[]) {
  return { first, others: inAnyOrder(others) };
}

/** For answers whose order the contract leaves open. */
function inAnyOrder<T>(values: readonly T[]): readonly T[] {
  return values.toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1));
}
