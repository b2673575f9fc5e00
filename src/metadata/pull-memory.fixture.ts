// Writes of every kind, and what the index says when it is asked without its memory: for the test, and for the processes
// that it starts.
import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { Chance } from '../../test/support/chance.ts';
import type { Lease } from '../lib/lease.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type Digest, digestOf, isDigest } from '../oci/digest.ts';
import type { Manifest, ManifestView } from '../oci/manifest.ts';
import type { Repository } from '../oci/repository.ts';
import { acquireImportLease } from './import-lease.ts';
import type { MetadataStore, PullQuery } from './metadata-store.ts';
import { Database } from './sqlite/driver.ts';

/** What the test asks of a process. Answered by a `Reply`. */
export type Order =
  | { readonly write: string; readonly seed: number }
  | { readonly compare: true }
  | { readonly raiseFrom: number };

/** `raised`: the number of the write that was acknowledged. */
export type Reply = { readonly done: true } | Comparison | { readonly raised: number };

export interface Comparison {
  /** The pulls that were answered otherwise than the index would have done. */
  readonly wrong: readonly string[];
  /** How many were answered from memory. */
  readonly remembered: number;
}

/** The tag that is written again and again by the order `raiseFrom`, each time with the next number as its time. */
export const RAISED = {
  repository: { upstream: 'docker.io', name: 'library/raised' },
  tag: 'latest',
} as const;
/** By one order. */
const RAISED_AT_ONCE = 500;

const REPOSITORIES: readonly Repository[] = [
  { upstream: 'docker.io', name: 'library/app' },
  { upstream: '', name: 'team/app' },
];
const TAGS = ['v1', 'v2'];
const TYPES = [
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
];
const CREDENTIALS = ['', 'alice', 'bob'];
const GRANTEES = ['', 'tenant:team'];
const UPLOAD = 'upload';
/** The last is larger than what is hashed at each read. */
const IMAGES = [imageOf(0, 0), imageOf(1, 0), imageOf(2, 10_000)] as const;
const BLOBS: readonly Descriptor[] = IMAGES.flatMap(({ view }) => view.blobs).slice(1, 4);
const QUERIES: readonly PullQuery[] = [
  {},
  { credentialIds: ['', 'alice'], grantees: [''] },
  { credentialIds: ['bob'], grantees: GRANTEES },
  { grantees: ['tenant:team'] },
];
const HOUR_MS = 3_600_000;

function imageOf(
  at: number,
  moreBytes: number,
): { readonly manifest: Manifest; readonly view: ManifestView } {
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, at, more: '-'.repeat(moreBytes) }));
  const blobs = ['config', 'layer'].map(kind => {
    const content = Buffer.from(`${kind} ${at}`);
    return { mediaType: 'application/octet-stream', digest: digestOf(content), size: content.byteLength };
  });
  const [mediaType = ''] = TYPES;
  return {
    manifest: { digest: digestOf(bytes), mediaType, bytes },
    view: {
      kind: 'manifest',
      mediaType,
      manifests: [],
      blobs,
      subject: undefined,
      artifactType: undefined,
      annotations: {},
    },
  };
}

/** The names of all methods that may write: all but those that are known to only read. */
type WriteName = Exclude<
  keyof MetadataStore,
  | `read${string}`
  | `list${string}`
  | `count${string}`
  | `is${string}`
  | `has${string}`
  | 'statBlob'
  | 'namedSize'
  | 'importingSinceMs'
  // Nothing of it is content.
  | 'outbox'
  | 'presence'
  | 'requirePresence'
  | 'onNotification'
  | 'pollNotifications'
  | 'lockedOutForMs'
  | 'loss'
  | 'close'
>;

type Write = (index: MetadataStore, chance: Chance, path: string) => Promise<unknown>;

const repository = (chance: Chance) => chance.pick(REPOSITORIES);
const image = (chance: Chance) => {
  const { manifest, view } = chance.pick(IMAGES);
  const mediaType = chance.pick(TYPES);
  return { manifest: { ...manifest, mediaType }, view: { ...view, mediaType } };
};
const manifestDigest = (chance: Chance) => chance.pick(IMAGES).manifest.digest;
const blob = (chance: Chance) => chance.pick(BLOBS);
const tag = (chance: Chance) => chance.pick(TAGS);
const contents = (chance: Chance) => [
  { kind: 'manifest', digest: manifestDigest(chance) } as const,
  { kind: 'blob', digest: blob(chance).digest } as const,
];
const links = (chance: Chance) => [{ repository: repository(chance), digest: blob(chance).digest }];
/** Later than any use. */
const later = () => Date.now() + HOUR_MS;
const releasing = async (index: MetadataStore, work: (lease: Lease) => Promise<unknown>) => {
  const lease = await index.acquireLease('work');
  if (lease === undefined) return;
  await work(lease);
};
const upload = (chance: Chance) => ({
  id: UPLOAD,
  repository: repository(chance),
  requester: 'tenant:team',
  startedAtMs: 1,
  touchedAtMs: Date.now(),
});

/** One write of each kind. */
const METHODS: Readonly<Record<WriteName, Write>> = {
  putManifest: (index, chance) => {
    const { manifest, view } = image(chance);
    const options = chance.in(0.7) ? { tag: tag(chance), atMs: Date.now() } : { atMs: Date.now() };
    return index.putManifest(repository(chance), manifest, view, options);
  },
  unlinkManifest: (index, chance) => index.unlinkManifest(repository(chance), manifestDigest(chance)),
  unlinkUnnamed: (index, chance) => index.unlinkUnnamed(repository(chance), manifestDigest(chance)),
  putTag: (index, chance) =>
    index.putTag(repository(chance), tag(chance), {
      digest: manifestDigest(chance),
      checkedAtMs: chance.below(1e6),
    }),
  removeTag: (index, chance) => index.removeTag(repository(chance), tag(chance)),
  removeRepository: (index, chance) => index.removeRepository(repository(chance)),
  putBlob: (index, chance) => {
    const { digest, size } = blob(chance);
    return index.putBlob(digest, size, chance.in(0.5) ? repository(chance) : undefined);
  },
  putFoundBlob: (index, chance) => index.putFoundBlob({ ...blob(chance), key: randomUUID() }, 1),
  announceObject: (index, chance) =>
    releasing(index, lease => index.announceObject({ ...blob(chance), key: randomUUID() }, lease)),
  giveUpObject: index => index.giveUpObject('a'),
  giveUpAbandonedObjects: index => index.giveUpAbandonedObjects(later()),
  giveUpStrayObjects: (index, chance) => index.giveUpStrayObjects([{ ...blob(chance), key: randomUUID() }]),
  forgetObjects: index => index.forgetObjects(['a']),
  removeBlob: (index, chance) => index.removeBlob(blob(chance).digest),
  linkBlob: (index, chance) => index.linkBlob(repository(chance), blob(chance).digest, chance.below(100)),
  unlinkBlob: (index, chance) => index.unlinkBlob(repository(chance), blob(chance).digest),
  putReferrersList: (index, chance) =>
    index.putReferrersList(repository(chance), manifestDigest(chance), {
      mediaType: 'application/vnd.oci.image.index.v1+json',
      bytes: Buffer.from('{}'),
      checkedAtMs: Date.now(),
    }),
  putGrant: (index, chance) =>
    index.putGrant(repository(chance), {
      credentialId: chance.pick(CREDENTIALS),
      verifiedAtMs: chance.below(1e6),
    }),
  endGrant: (index, chance) => index.endGrant(repository(chance), chance.pick(CREDENTIALS)),
  endGrantsOf: (index, chance) => index.endGrantsOf(chance.pick(CREDENTIALS)),
  endGrantsBefore: (index, chance) => index.endGrantsBefore(chance.below(1e6)),
  putContent: async (index, chance) => {
    const one = image(chance);
    const { blobs } = one.view;
    for (const { digest, size } of blobs) await index.putBlob(digest, size);
    const content = { manifests: [one], blobs, grantee: chance.in(0.8) ? chance.pick(GRANTEES) : undefined };
    await index.putContent(repository(chance), content, Date.now());
  },
  publish: (index, chance) => {
    const named = { repository: repository(chance), digest: manifestDigest(chance), tag: tag(chance) };
    return index.publish([named], Date.now());
  },
  endPreloadsOf: (index, chance) => index.endPreloadsOf(chance.pick(GRANTEES)),
  putPin: (index, chance) => index.putPin(repository(chance), tag(chance)),
  removePin: (index, chance) => index.removePin(repository(chance), tag(chance)),
  putKnownTenants: index => index.putKnownTenants([{ name: 'team', uid: undefined }]),
  removeKnownTenant: index => index.removeKnownTenant('team'),
  putIssuedCredentials: index =>
    index.putIssuedCredentials([
      {
        id: 'alice',
        tenant: 'team',
        username: 'a',
        server: 's',
        readOnly: false,
        issuedAtMs: 1,
        endsAtMs: Infinity,
      },
    ]),
  putCredentialUsage: index => index.putCredentialUsage([{ credentialId: 'alice', usedAtMs: Date.now() }]),
  removeCredentialUsage: index => index.removeCredentialUsage(['alice']),
  expireLinks: (index, chance) => index.expireLinks(links(chance), later()),
  removeUnneeded: (index, chance) => index.removeUnneeded(contents(chance), later()),
  removeUnlinked: (index, chance) => index.removeUnlinked(contents(chance), later()),
  evict: (index, chance) => index.evict(contents(chance), later()),
  ifStray: (index, chance) => index.ifStray([blob(chance).digest], () => {}),
  quarantine: (index, chance) => index.quarantine(chance.pick(contents(chance)), 'found by the test'),
  endDamage: (index, chance) => index.endDamage(manifestDigest(chance)),
  putUpload: (index, chance) => index.putUpload(upload(chance)),
  removeUpload: index => index.removeUpload(UPLOAD),
  acquireLease: async index => {
    const lease = await acquireImportLease(index);
    if (lease !== undefined) await index.release(lease);
  },
  release: index => releasing(index, lease => index.release(lease)),
  setAside: index => releasing(index, lease => index.setAside(lease)),
  endLeaseOfGone: index => index.endLeaseOfGone({ key: 'work', epoch: 1 }),
  notify: index => index.notify('content'),
  putSetting: index => index.putSetting('of the test', 'value'),
  initSetting: index => index.initSetting('of the test', 'value'),
  noteUse: async (index, chance) => index.noteUse(manifestDigest(chance)),
  putUse: (index, chance) => index.putUse(manifestDigest(chance)),
  writeUses: index => index.writeUses(),
  lowerUses: index => index.lowerUses(0, 1),
  lowerLinks: (index, chance) => index.lowerLinks(links(chance), 1),
  noteRecorded: async index => {
    for (const unrecorded of await index.listUnrecorded(1)) await index.noteRecorded(unrecorded);
  },
  addRecordedImages: (index, chance) => {
    const { manifest, view } = image(chance);
    const { digest, mediaType } = manifest;
    const record = { mediaType, tags: [{ tag: tag(chance), atMs: chance.below(1e6) }], pins: [] };
    const content = { manifest, view, blobs: view.blobs };
    const recorded = { name: repository(chance).name, digest, record, content };
    return index.addRecordedImages([recorded], { atMs: Date.now(), completesKnown: chance.in(0.5) });
  },
  noteUnrecorded: (index, chance) =>
    index.noteUnrecorded([{ name: repository(chance).name, digest: manifestDigest(chance) }]),
  noteAllUnrecorded: index => index.noteAllUnrecorded(),
};

/** All of these, and what no Entrepot does: a disk, or another program, that changes the bytes of a manifest. */
const WRITES: Readonly<Record<string, Write>> = {
  ...METHODS,
  damage: async (_, chance, path) => {
    const database = new Database(path, { timeout: 5_000 });
    try {
      database.prepare("UPDATE manifests SET bytes = x'00' WHERE digest = ?").run(manifestDigest(chance));
    } finally {
      database.close();
    }
  },
};

/** Those that make content reachable, so that there is something to forget. */
export const MAKING: readonly string[] = ['putManifest', 'putContent', 'putGrant', 'putBlob', 'linkBlob'];

/** All kinds, in random order. */
export function shuffledKinds(chance: Chance): readonly string[] {
  const places = Object.keys(WRITES).map(name => ({ name, place: chance.next() }));
  return places.toSorted((a, b) => a.place - b.place).map(({ name }) => name);
}

/** Does what is ordered, in this process, with the index in the file `path`. */
export async function obey(index: MetadataStore, path: string, order: Order): Promise<Reply> {
  if ('write' in order) {
    await WRITES[order.write]?.(index, new Chance(order.seed), path);
    return { done: true };
  }
  if ('compare' in order) return compare(index);
  const [{ manifest, view }] = IMAGES;
  for (let at = order.raiseFrom; at < order.raiseFrom + RAISED_AT_ONCE; at += 1) {
    await index.putManifest(RAISED.repository, manifest, view, { tag: RAISED.tag, atMs: at });
    process.send?.({ raised: at });
  }
  return { done: true };
}

/** Asks about every pull twice, and then the index without its memory. */
async function compare(index: MetadataStore): Promise<Comparison> {
  const wrong: string[] = [];
  let remembered = 0;
  const check = async <Answer>(
    what: unknown[],
    ask: () => Promise<Answer>,
    expected: () => Promise<Answer>,
  ) => {
    const [first, second] = [await ask(), await ask()];
    if (first === second) remembered += 1;
    const right = await expected();
    for (const answer of [first, second]) {
      if (!isDeepStrictEqual({ ...answer }, { ...right }))
        wrong.push(JSON.stringify([...what, answer, right]));
    }
  };
  const manifests = [...TAGS, ...IMAGES.map(({ manifest }) => manifest.digest)];
  for (const at of REPOSITORIES) {
    for (const query of QUERIES) {
      for (const reference of manifests) {
        await check(
          [at, reference, query],
          () => index.readForPull(at, reference, query),
          () => manifestWithoutMemory(index, at, reference, query),
        );
      }
      for (const { digest } of BLOBS) {
        await check(
          [at, digest, query],
          () => index.readBlobForPull(at, digest, query),
          () => blobWithoutMemory(index, at, digest, query),
        );
      }
    }
  }
  return { wrong, remembered };
}

type ManifestAnswer = Awaited<ReturnType<MetadataStore['readForPull']>>;
type BlobAnswer = Awaited<ReturnType<MetadataStore['readBlobForPull']>>;

async function manifestWithoutMemory(
  index: MetadataStore,
  at: Repository,
  reference: string,
  query: PullQuery,
): Promise<ManifestAnswer> {
  const row = isDigest(reference) ? undefined : await index.readTag(at, reference);
  const digest = isDigest(reference) ? reference : row?.digest;
  const manifest = digest && (await index.readLinkedManifest(at, digest));
  const asked = await requesterWithoutMemory(index, at, digest, query);
  return { tag: row, manifest, ...asked, isPreloaded: asked.isPreloaded && manifest !== undefined };
}

async function blobWithoutMemory(
  index: MetadataStore,
  at: Repository,
  digest: Digest,
  query: PullQuery,
): Promise<BlobAnswer> {
  const isLinked = await index.isLinked(at, digest);
  return {
    linkedSize: isLinked ? await index.namedSize(at, digest) : undefined,
    storedSize: (await index.statBlob(digest))?.size,
    ...(await requesterWithoutMemory(index, at, digest, query)),
  };
}

async function requesterWithoutMemory(
  index: MetadataStore,
  at: Repository,
  digest: Digest | undefined,
  { credentialIds = [], grantees = [] }: PullQuery,
) {
  const grants = credentialIds.length === 0 ? [] : await index.readGrants(at, credentialIds);
  const mayBePreloaded = digest !== undefined && grants.length === 0 && grantees.length > 0;
  return { grants, isPreloaded: mayBePreloaded && (await index.isPreloaded(at, digest, grantees)) };
}
