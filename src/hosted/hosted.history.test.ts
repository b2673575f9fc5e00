import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SEED } from '../../test/support/chance.ts';
import { bytesOf, type Content, imageOf, randomBlob, readAs } from '../../test/support/content.ts';
import { chunkOf, DURING, HostedBench, RIGHT } from '../../test/support/hosted-bench.ts';
import { OciError } from '../oci/errors.ts';
import { OCI_ARTIFACT_MANIFEST } from '../oci/media-types.ts';
import { ANONYMOUS } from '../oci/requester.ts';

const REPOSITORIES = ['team/a', 'team/b'].map(name => ({ upstream: '', name }));
const TAGS = ['v1', 'v2'];
const LAYERS = [0, 1, 2].map(at => randomBlob(200 + at, `history ${at}`));
const IMAGES = makeImages();
const BLOBS = [...new Set([...LAYERS, ...IMAGES.flatMap(({ blobs }) => blobs)])];
const DIGESTS = [...new Set(IMAGES.map(({ manifest }) => manifest.digest))];

const everything = { accepts: () => true, platform: undefined };

/** A manifest, under one media type. */
interface Pushable {
  readonly manifest: Content;
  /** That it needs. */
  readonly blobs: readonly Content[];
  readonly subject?: Content;
}

/** What somebody who was told of every success would believe. */
interface Believed {
  readonly blobs: Set<Content>;
  /** By digest: what was pushed last. */
  readonly manifests: Map<string, Pushable>;
  /** The digests that they mean. */
  readonly tags: Map<string, string>;
  /** Bytes of an upload that is under way: its blob and how many were acknowledged. */
  upload: { readonly id: string; readonly blob: Content; offset: number } | undefined;
}

interface World {
  bench: HostedBench;
  readonly believed: readonly Believed[];
}

type Step = (world: World) => Promise<void>;

const repositoryAt = fc.nat(REPOSITORIES.length - 1);
const blobAt = fc.nat(BLOBS.length - 1);
/** Half of the time one of the two that are the same bytes. */
const imageAt = fc.oneof(fc.nat(IMAGES.length - 1), fc.constantFrom(IMAGES.length - 2, IMAGES.length - 1));
const tagAt = fc.nat(TAGS.length - 1);

const steps: fc.Arbitrary<Step> = fc.oneof(
  fc.tuple(repositoryAt, blobAt).map(([at, blob]) => pushBlob(at, pick(BLOBS, blob))),
  {
    weight: 3,
    arbitrary: fc
      .tuple(repositoryAt, imageAt, fc.option(tagAt))
      .map(([at, image, tag]) => pushImage(at, image, tag)),
  },
  fc.tuple(repositoryAt, imageAt, tagAt).map(([at, image, tag]) => pushManifest(at, image, tag)),
  fc.tuple(repositoryAt, blobAt).map(([at, blob]) => mount(at, pick(BLOBS, blob))),
  fc.tuple(repositoryAt, blobAt).map(([at, blob]) => beginUpload(at, pick(BLOBS, blob))),
  repositoryAt.map(appendHalf),
  repositoryAt.map(completeUpload),
  fc.tuple(repositoryAt, blobAt).map(([at, blob]) => deleteBlob(at, pick(BLOBS, blob))),
  fc.tuple(repositoryAt, imageAt).map(([at, image]) => deleteManifest(at, pick(IMAGES, image).manifest)),
  fc.tuple(repositoryAt, tagAt).map(([at, tag]) => deleteTag(at, pick(TAGS, tag))),
  fc.constant(restart),
);

describe('any history of pushes, mounts, deletes and restarts', () => {
  it('leaves what was acknowledged and not deleted, in the same repositories', {
    timeout: 120_000,
  }, async () => {
    let acknowledged = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(steps, { minLength: 5, maxLength: 30 }), async history => {
        const world = { bench: await HostedBench.open(), believed: REPOSITORIES.map(nothing) };
        try {
          for (const step of history) await step(world);
          await expectAsBelieved(world);
          acknowledged += world.believed.reduce((sum, { blobs, tags }) => sum + blobs.size + tags.size, 0);
        } finally {
          await world.bench.remove();
        }
      }),
      { numRuns: 25, seed: SEED },
    );
    expect(acknowledged).toBeGreaterThan(25);
  });
});

function pushBlob(at: number, blob: Content): Step {
  return async ({ bench, believed }) => {
    await bench.pushBlob(pick(REPOSITORIES, at), blob);
    pick(believed, at).blobs.add(blob);
  };
}

function pushImage(at: number, image: number, tag: number | null): Step {
  return async world => {
    for (const blob of pick(IMAGES, image).blobs) await pushBlob(at, blob)(world);
    await pushManifest(at, image, tag)(world);
  };
}

/** Refused exactly while a blob that it names is not in this repository. */
function pushManifest(at: number, image: number, tag: number | null): Step {
  return async ({ bench, believed }) => {
    const pushed = pick(IMAGES, image);
    const { manifest } = pushed;
    const { blobs, manifests, tags } = pick(believed, at);
    const reference = tag === null ? manifest.digest : pick(TAGS, tag);
    const code = await codeOf(() => bench.pushManifest(pick(REPOSITORIES, at), manifest, reference));
    const isWhole = pushed.blobs.every(blob => blobs.has(blob));
    expect(code).toBe(isWhole ? undefined : 'MANIFEST_BLOB_UNKNOWN');
    if (!isWhole) return;
    manifests.set(manifest.digest, pushed);
    if (tag !== null) tags.set(reference, manifest.digest);
  };
}

function mount(to: number, blob: Content): Step {
  return async ({ bench, believed }) => {
    const from = (to + 1) % REPOSITORIES.length;
    const isMounted = await bench.uploads.mount(pick(REPOSITORIES, to), blob.digest, {
      from: pick(REPOSITORIES, from),
      ...DURING,
    });
    expect(isMounted).toBe(pick(believed, from).blobs.has(blob));
    if (isMounted) pick(believed, to).blobs.add(blob);
  };
}

function beginUpload(at: number, blob: Content): Step {
  return async ({ bench, believed }) => {
    const { id } = await bench.uploads.begin(ANONYMOUS, pick(REPOSITORIES, at));
    pick(believed, at).upload = { id, blob, offset: 0 };
  };
}

function appendHalf(at: number): Step {
  return async ({ bench, believed }) => {
    const { upload } = pick(believed, at);
    if (upload === undefined) return;
    const { id, blob, offset } = upload;
    const part = bytesOf(blob).subarray(offset, Math.ceil((offset + blob.size) / 2));
    const state = await bench.uploads.append(ANONYMOUS, pick(REPOSITORIES, at), id, chunkOf(part));
    expect(state.offset).toBe(offset + part.length);
    upload.offset = state.offset;
  };
}

function completeUpload(at: number): Step {
  return async ({ bench, believed }) => {
    const { upload, blobs } = pick(believed, at);
    if (upload === undefined) return;
    const { id, blob, offset } = upload;
    const rest = chunkOf(bytesOf(blob).subarray(offset));
    await bench.uploads.complete(ANONYMOUS, pick(REPOSITORIES, at), id, blob.digest, rest);
    blobs.add(blob);
    pick(believed, at).upload = undefined;
  };
}

function deleteBlob(at: number, blob: Content): Step {
  return async ({ bench, believed }) => {
    const code = await codeOf(() => bench.removal.removeBlob(pick(REPOSITORIES, at), blob.digest, DURING));
    expect(code).toBe(pick(believed, at).blobs.delete(blob) ? undefined : 'BLOB_UNKNOWN');
  };
}

function deleteManifest(at: number, manifest: Content): Step {
  return async ({ bench, believed }) => {
    const { manifests, tags } = pick(believed, at);
    const code = await codeOf(() =>
      bench.removal.removeManifest(pick(REPOSITORIES, at), manifest.digest, DURING),
    );
    expect(code).toBe(manifests.delete(manifest.digest) ? undefined : 'MANIFEST_UNKNOWN');
    for (const [tag, tagged] of tags) if (tagged === manifest.digest) tags.delete(tag);
  };
}

function deleteTag(at: number, tag: string): Step {
  return async ({ bench, believed }) => {
    const code = await codeOf(() => bench.removal.removeManifest(pick(REPOSITORIES, at), tag, DURING));
    expect(code).toBe(pick(believed, at).tags.delete(tag) ? undefined : 'MANIFEST_UNKNOWN');
  };
}

async function restart(world: World): Promise<void> {
  await world.bench.close();
  world.bench = await HostedBench.open(world.bench.folder);
}

async function expectAsBelieved({ bench, believed }: World): Promise<void> {
  for (const [at, repository] of REPOSITORIES.entries()) {
    const { blobs, manifests, tags, upload } = pick(believed, at);
    for (const blob of BLOBS) {
      const code = await codeOf(() => bench.hosted.statBlob(repository, blob.digest));
      expect(code).toBe(blobs.has(blob) ? undefined : 'BLOB_UNKNOWN');
    }
    const typeOf = async (reference: string) => {
      try {
        return (await bench.hosted.manifest(repository, reference, RIGHT, everything)).descriptor.mediaType;
      } catch (error) {
        if (error instanceof OciError && error.code === 'MANIFEST_UNKNOWN') return undefined;
        throw error;
      }
    };
    for (const digest of DIGESTS) {
      expect(await typeOf(digest)).toBe(manifests.get(digest)?.manifest.mediaType);
    }
    for (const tag of TAGS) {
      const served = await bench.hosted.manifest(repository, tag, RIGHT, everything).catch(() => undefined);
      expect(served?.descriptor.digest).toBe(tags.get(tag));
      expect(await typeOf(tag)).toBe(manifests.get(tags.get(tag) ?? '')?.manifest.mediaType);
    }
    await expectNothingIdle(bench, repository, pick(believed, at));
    const page = { limit: 10, after: undefined };
    const query = { artifactType: undefined, page };
    const { manifests: referrers } = await bench.hosted.referrers(
      repository,
      pick(IMAGES, 0).manifest.digest,
      query,
    );
    const attached = [...manifests.values()].filter(({ subject }) => subject !== undefined);
    expect(referrers.map(({ digest, mediaType }) => `${digest} ${mediaType}`)).toEqual(
      attached.map(({ manifest: { digest, mediaType } }) => `${digest} ${mediaType}`).toSorted(),
    );
    if (upload === undefined) continue;
    const { offset } = await bench.uploads.status(ANONYMOUS, repository, upload.id);
    expect(offset).toBe(upload.offset);
  }
}

/** What a manifest needs keeps its Link, however others read the same bytes. */
async function expectNothingIdle(
  { metadata }: HostedBench,
  repository: (typeof REPOSITORIES)[number],
  { manifests }: Believed,
): Promise<void> {
  const needed = [...manifests.values()].flatMap(({ blobs }) => blobs.map(({ digest }) => digest));
  for (const digest of needed) {
    const wasLinked = await metadata.isLinked(repository, digest);
    await metadata.expireLinks([{ repository, digest }], Date.now() + 60_000);
    expect(await metadata.isLinked(repository, digest)).toBe(wasLinked);
  }
}

/** The third and the fourth are about the first; the last two are the same bytes under two media types. */
function makeImages(): readonly Pushable[] {
  const [first, second, third] = LAYERS;
  if (first === undefined || second === undefined || third === undefined) throw new Error('three layers');
  const amd64 = imageOf([first, second]);
  const arm64 = imageOf([second, third], { platform: { os: 'linux', architecture: 'arm64' } });
  const platform = { os: 'unknown', architecture: 'unknown' };
  const subject = amd64.manifest;
  const artifact = imageOf([third], { platform, subject, artifactType: 'text/x-own' });
  const untyped = imageOf([first], { subject, isUntyped: true });
  return [
    ...[amd64, arm64, artifact, untyped].map(({ manifest, config, layers }) => ({
      manifest,
      blobs: [config, ...layers],
      ...(manifest === artifact.manifest || manifest === untyped.manifest ? { subject } : {}),
    })),
    { manifest: readAs(untyped.manifest, OCI_ARTIFACT_MANIFEST), blobs: [], subject },
  ];
}

function nothing(): Believed {
  return { blobs: new Set(), manifests: new Map(), tags: new Map(), upload: undefined };
}

/** The code of the refusal; `undefined` for a success. Anything else that goes wrong is thrown. */
async function codeOf(work: () => Promise<unknown>): Promise<string | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    if (error instanceof OciError) return error.code;
    throw error;
  }
}

function pick<T>(from: readonly (T | undefined)[], at: number): T {
  const value = from[at];
  if (value === undefined) throw new Error(`nothing at ${at}`);
  return value;
}
