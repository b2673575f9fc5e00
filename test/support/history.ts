// Random histories of a registry against a model of what it has promised. The model is plain: per repository what is
// linked, named and tagged. What a crash or a garbage collection may have settled either way is `maybe` until asked.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Arbitrary, array, constant, nat, oneof, tuple } from 'fast-check';
import { layoutFiles, tarOf } from '../../src/archive/archive.fixture.ts';
import { get, type Got } from './client.ts';
import { OCI_ARTIFACT_MANIFEST } from '../../src/oci/media-types.ts';
import { bytesOf, type Content, type Image, imageOf, indexOf, randomBlob, readAs } from './content.ts';
import { Entrepot } from './entrepot.ts';
import { FakeUpstream } from './fake-upstream.ts';
import { until } from './programs.ts';
import { keptBlobs } from './test-storage.ts';

const UPSTREAM = 'up.example';
const REPOSITORIES = ['team/a', 'team/b', 'team/c'] as const;
const TAGS = ['v1', 'v2', 'latest'] as const;
/** Mirrored and hosted images share layers. */
const LAYERS = [900, 4_000, 20_000, 60_000, 120_000, 200_000].map((size, at) =>
  randomBlob(size, `history ${at}`),
);
const IMAGES = [
  [0, 1],
  [1, 2, 3],
  [3, 4],
  [2, 5],
].map(layers =>
  imageOf(
    layers.flatMap(at => LAYERS[at] ?? []),
    { isUntyped: true },
  ),
);
/** The same bytes under a media type that needs no blobs; and the repository in which upstream has them so. */
const ARTIFACTS = IMAGES.map(({ manifest }) => readAs(manifest, OCI_ARTIFACT_MANIFEST));
const ARTIFACT_REPOSITORY = 'artifacts';
/** So little that mirrored content is evicted all the time. */
const MAX_BYTES = '400KB';
/** No criterion, only an end for what hangs. */
const HANG_MS = 180_000;

type State = 'yes' | 'maybe';

interface Repository {
  readonly blobs: Map<string, State>;
  /** By digest, as it was pushed last, with what it names then. */
  readonly manifests: Map<string, { readonly content: Content; readonly blobs: readonly string[] }>;
  readonly tags: Map<string, string>;
}

/** What is done next; the numbers choose repositories, images and tags. */
export type Step = readonly [kind: (typeof KINDS)[number], a: number, b: number, c: number];

const KINDS = [
  'pushImage',
  'pushAsArtifact',
  'pushIndex',
  'pushBlob',
  'mount',
  'pullMirrored',
  'pullArtifact',
  'deleteTag',
  'deleteManifest',
  'deleteBlob',
  'collect',
  'readWhileCollected',
  'forget',
  'importImage',
  'damage',
  'restart',
  'killWhilePushing',
] as const;

/** Commands and restarts take a second each, the rest milliseconds. */
const WEIGHTS: Partial<Record<(typeof KINDS)[number], number>> = {
  pushImage: 6,
  pushAsArtifact: 2,
  pullArtifact: 2,
  pullMirrored: 5,
  mount: 3,
  deleteManifest: 3,
  collect: 2,
};

export function histories(length: number): Arbitrary<Step[]> {
  const kind = oneof(...KINDS.map(name => ({ weight: WEIGHTS[name] ?? 1, arbitrary: constant(name) })));
  const number = nat({ max: 999 });
  return array(tuple(kind, number, number, number), { minLength: length, maxLength: length });
}

/** One registry, one upstream, and what they must be able to show at any time. */
export class History {
  readonly #upstream: FakeUpstream;
  #entrepot: Entrepot;
  readonly #repositories = new Map<string, Repository>();
  /** Blobs whose file was damaged, and which nobody has pushed since. */
  readonly #damaged = new Set<string>();
  readonly #contents = new Map<string, Content>();
  /** How often each kind of step met what it is about. */
  readonly met = new Map<string, number>();
  #crashes = 0;

  private constructor(upstream: FakeUpstream, entrepot: Entrepot) {
    this.#upstream = upstream;
    this.#entrepot = entrepot;
    for (const name of REPOSITORIES) {
      this.#repositories.set(name, { blobs: new Map(), manifests: new Map(), tags: new Map() });
    }
    for (const blob of IMAGES.flatMap(image => [image.config, ...image.layers])) {
      this.#contents.set(blob.digest, blob);
    }
  }

  static async open(): Promise<History> {
    const upstream = await FakeUpstream.start();
    for (const [at, image] of IMAGES.entries()) upstream.add('app', image, `v${at}`);
    for (const [at, artifact] of ARTIFACTS.entries()) upstream.add(ARTIFACT_REPOSITORY, artifact, `v${at}`);
    const entrepot = await Entrepot.start({
      storage: { maxBytes: MAX_BYTES },
      hosted: { prefixes: ['team'], anonymous: 'push' },
      upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
    });
    return new History(upstream, entrepot);
  }

  async close(): Promise<void> {
    await this.#entrepot.remove();
    await this.#upstream.stop();
  }

  async run(steps: readonly Step[]): Promise<void> {
    for (const [kind, a, b, c] of steps) {
      await this.#step(kind, a, b, c);
    }
    await this.#expectAll();
  }

  /** After everything mirrored was forgotten and all garbage is collected, exactly what the model says is stored. */
  async expectExactlyTheReachable(): Promise<void> {
    for (const [at, image] of IMAGES.entries()) await this.#pullMirrored(image, at);
    await this.#pullArtifact(0);
    for (const name of ['app', ARTIFACT_REPOSITORY]) await this.#command('rm', `${UPSTREAM}/${name}`);
    for (const repository of this.#repositories.values()) collectLinks(repository, 'no');
    const wanted = new Set<string>();
    for (const { blobs } of this.#repositories.values())
      for (const digest of blobs.keys()) wanted.add(digest);
    // A process that was killed counts as alive for 5 s, and so do its Claims.
    for (let attempt = 0; attempt < 20; attempt += 1) {
      await this.#command('gc', '--grace-period', '0s');
      if ((await this.#kept()).join() === [...wanted].toSorted().join()) break;
      await sleep(500);
    }
    same(await this.#kept(), [...wanted].toSorted());
    await this.#expectAll();
  }

  #step(kind: Step[0], a: number, b: number, c: number): Promise<void> {
    const name = pick(REPOSITORIES, a);
    const image = pick(IMAGES, b);
    const steps: Readonly<Record<Step[0], () => Promise<void>>> = {
      pushImage: () => this.#pushImage(name, image, pick(TAGS, c)),
      pushAsArtifact: () => this.#putManifest(name, pick(TAGS, c), pick(ARTIFACTS, b), []),
      pushIndex: () => this.#pushIndex(name, image, pick(TAGS, c)),
      pushBlob: () => this.#pushBlob(name, pick(LAYERS, b)),
      mount: () => this.#mount(name, pick(REPOSITORIES, b), pick(LAYERS, c)),
      pullMirrored: () => this.#pullMirrored(image, b % IMAGES.length),
      pullArtifact: () => this.#pullArtifact(b % ARTIFACTS.length),
      deleteTag: () => this.#deleteTag(name, pick(TAGS, b)),
      deleteManifest: () => this.#deleteManifest(name, b),
      deleteBlob: () => this.#deleteBlob(name, pick(LAYERS, b)),
      collect: () => this.#collect(),
      readWhileCollected: () => this.#readWhileCollected(name, b),
      forget: () => this.#forget(),
      importImage: () => this.#importImage(name, image, { tag: pick(TAGS, c), isCollected: b % 2 === 0 }),
      damage: () => this.#damage(pick(LAYERS, a)),
      restart: () => this.#restart(),
      killWhilePushing: () => this.#killWhilePushing(name, b, c),
    };
    return steps[kind]();
  }

  #of(name: string): Repository {
    const repository = this.#repositories.get(name);
    if (repository === undefined) throw new Error(`no ${name}`);
    return repository;
  }

  #meet(what: string): void {
    this.met.set(what, (this.met.get(what) ?? 0) + 1);
  }

  #url(name: string, rest: string): string {
    return `${this.#entrepot.url}/v2/${name}/${rest}`;
  }

  async #pushBlob(name: string, blob: Content): Promise<void> {
    const url = this.#url(name, `blobs/uploads/?digest=${blob.digest}`);
    const got = await get(url, { method: 'POST', body: bytesOf(blob) });
    same(got.status, 201, 'a push');
    this.#of(name).blobs.set(blob.digest, 'yes');
    this.#damaged.delete(blob.digest);
  }

  async #putManifest(name: string, tag: string, manifest: Content, blobs: readonly Content[]): Promise<void> {
    const got = await this.#sendManifest(name, tag, manifest);
    same(got.status, 201, 'a manifest whose blobs were acknowledged');
    this.#adopt(name, tag, manifest, blobs);
  }

  #sendManifest(name: string, tag: string, manifest: Content): Promise<Got> {
    return get(this.#url(name, `manifests/${tag}`), {
      method: 'PUT',
      headers: { 'content-type': manifest.mediaType },
      body: bytesOf(manifest),
    });
  }

  #adopt(name: string, tag: string, manifest: Content, blobs: readonly Content[]): void {
    const { manifests, tags } = this.#of(name);
    manifests.set(manifest.digest, { content: manifest, blobs: blobs.map(({ digest }) => digest) });
    if (tag !== manifest.digest) tags.set(tag, manifest.digest);
  }

  async #pushImage(name: string, image: Image, tag: string): Promise<void> {
    for (const blob of blobsOf(image)) await this.#pushBlob(name, blob);
    await this.#putManifest(name, tag, image.manifest, blobsOf(image));
  }

  async #pushIndex(name: string, image: Image, tag: string): Promise<void> {
    const images = [image, pick(IMAGES, 0)];
    for (const child of images) await this.#pushImage(name, child, child.manifest.digest);
    await this.#putManifest(name, tag, indexOf(images).manifest, []);
  }

  async #mount(to: string, from: string, blob: Content): Promise<void> {
    const url = this.#url(to, `blobs/uploads/?mount=${blob.digest}&from=${from}`);
    const got = await get(url, { method: 'POST' });
    const state = this.#of(from).blobs.get(blob.digest);
    const isWhole = !this.#damaged.has(blob.digest);
    if (state !== 'maybe') same(got.status, state === 'yes' && isWhole ? 201 : 202, 'a mount');
    if (got.status === 201) {
      this.#of(to).blobs.set(blob.digest, 'yes');
      this.#of(from).blobs.set(blob.digest, 'yes');
      this.#meet('mounted');
    } else {
      const cancelled = await get(new URL(got.headers.location ?? '', url).href, { method: 'DELETE' });
      same(cancelled.status, 204);
    }
  }

  async #pullMirrored(image: Image, at: number): Promise<void> {
    const url = `${this.#entrepot.url}/v2/app`;
    const manifest = await get(`${url}/manifests/v${at}?ns=${UPSTREAM}`);
    sameManifest(manifest, image.manifest, 'a mirrored image');
    for (const blob of blobsOf(image)) {
      const got = await get(`${url}/blobs/${blob.digest}?ns=${UPSTREAM}`);
      same([got.status, `sha256:${got.sha256}`], [200, blob.digest]);
      if (this.#damaged.has(blob.digest)) await this.#expectKept(blob);
    }
  }

  async #pullArtifact(at: number): Promise<void> {
    const url = `${this.#entrepot.url}/v2/${ARTIFACT_REPOSITORY}/manifests/v${at}?ns=${UPSTREAM}`;
    sameManifest(await get(url), pick(ARTIFACTS, at), 'a mirrored artifact');
  }

  /** A download is kept a moment after its readers have it; then a repository that lives here has the blob back, too. */
  async #expectKept(blob: Content): Promise<void> {
    const url = `${this.#entrepot.url}/v2/app/blobs/${blob.digest}?ns=${UPSTREAM}`;
    await until('a download to be kept', HANG_MS, async () => {
      const got = await get(url);
      return got.headers['cache-status'] === 'entrepot; hit';
    });
    this.#damaged.delete(blob.digest);
    this.#meet('repaired');
  }

  async #deleteTag(name: string, tag: string): Promise<void> {
    const { tags } = this.#of(name);
    const got = await get(this.#url(name, `manifests/${tag}`), { method: 'DELETE' });
    same(got.status, tags.has(tag) ? 202 : 404, 'deleting a tag');
    tags.delete(tag);
  }

  async #deleteManifest(name: string, which: number): Promise<void> {
    const { manifests, tags } = this.#of(name);
    if (manifests.size === 0) return;
    const digest = pick([...manifests.keys()], which);
    const got = await get(this.#url(name, `manifests/${digest}`), { method: 'DELETE' });
    same(got.status, 202, 'deleting a manifest');
    manifests.delete(digest);
    for (const [tag, meant] of tags) if (meant === digest) tags.delete(tag);
    this.#meet('manifest deleted');
  }

  /** Only one that no manifest names: deleting others leaves broken images, as it should, and the model plain. */
  async #deleteBlob(name: string, blob: Content): Promise<void> {
    const repository = this.#of(name);
    const state = repository.blobs.get(blob.digest);
    if (namedIn(repository).has(blob.digest)) return;
    const got = await get(this.#url(name, `blobs/${blob.digest}`), { method: 'DELETE' });
    if (state !== 'maybe') same(got.status, state === 'yes' ? 202 : 404, 'deleting a blob');
    repository.blobs.delete(blob.digest);
  }

  /** Links that no manifest bears out may go now; one of this very millisecond may stay. */
  async #collect(): Promise<void> {
    let printed = '';
    // The server collects by itself too, and the Claim of one that was killed takes seconds to end.
    await until('our turn to collect', HANG_MS, async () => {
      const { code, stdout, stderr } = await this.#entrepot.command('gc', '--grace-period', '0s');
      if (stderr.includes('another process is already collecting garbage')) return false;
      same(`${code} ${complaints(stderr)}`, '0 ');
      printed = stdout;
      return true;
    });
    if (!printed.startsWith('freed 0 B')) this.#meet('collected');
    if (/^ {2}\d+ evicted/m.test(printed)) this.#meet('evicted');
    for (const repository of this.#repositories.values()) collectLinks(repository, 'maybe');
  }

  /** A reader that has begun reads on to the end, whatever becomes of the blob. */
  async #readWhileCollected(name: string, which: number): Promise<void> {
    const repository = this.#of(name);
    const readable = [...repository.blobs].filter(
      ([digest, state]) => state === 'yes' && !this.#damaged.has(digest),
    );
    if (readable.length === 0) return;
    const [digest] = pick(readable, which);
    const response = await fetch(this.#url(name, `blobs/${digest}`));
    same(response.status, 200, `${digest} of ${name}`);
    await this.#deleteManifest(name, which);
    await this.#collect();
    const bytes = Buffer.from(await response.arrayBuffer());
    same(`sha256:${createHash('sha256').update(bytes).digest('hex')}`, digest, 'what a reader had');
    this.#meet('read while collected');
  }

  /** What nothing else has is removed when room is needed next, whatever others do with the same content meanwhile. */
  async #forget(): Promise<void> {
    const removed = await this.#command('rm', `${UPSTREAM}/app`);
    if (removed.includes('forgotten')) this.#meet('forgotten');
  }

  /** As another process, perhaps while a third one collects and evicts what it can. */
  async #importImage(
    name: string,
    image: Image,
    { tag, isCollected }: { readonly tag: string; readonly isCollected: boolean },
  ): Promise<void> {
    const file = join(this.#entrepot.folder, 'archive.tar');
    await writeFile(file, await tarOf(layoutFiles(image, 'archived:v1')));
    const importing = this.#entrepot.spawnCommand('import', file, '--rename', `${name}:${tag}`);
    if (isCollected) await this.#collect();
    const { code, stderr } = await importing;
    same(code, 0, `an import (${stderr})`);
    for (const blob of blobsOf(image)) {
      this.#of(name).blobs.set(blob.digest, 'yes');
      this.#damaged.delete(blob.digest);
    }
    this.#adopt(name, tag, image.manifest, blobsOf(image));
    this.#meet(isCollected ? 'imported while collected' : 'imported');
  }

  /** A bad disk, and the scrub that finds it. */
  async #damage(blob: Content): Promise<void> {
    if (this.#damaged.has(blob.digest)) return;
    const kept = (await keptBlobs(this.#store)).filter(({ digest }) => digest === blob.digest);
    if (kept.length === 0) return;
    try {
      for (const each of kept) await each.overwrite(Buffer.alloc(blob.size, '?'));
    } catch {
      return; // Evicted in this moment.
    }
    const { stdout } = await this.#entrepot.command('scrub', '--rate', '1GiB');
    if (!stdout.includes(blob.digest)) return;
    this.#damaged.add(blob.digest);
    this.#meet('damaged');
  }

  async #restart(): Promise<void> {
    await this.#entrepot.stop();
    this.#entrepot = await this.#entrepot.startAgain();
  }

  /** What was acknowledged is there after the crash; of the rest the model learns what became of it. */
  async #killWhilePushing(name: string, which: number, delay: number): Promise<void> {
    this.#crashes += 1;
    const tag = `crash-${this.#crashes}`;
    const layers = [which, which + 1].map(at => randomBlob(60_000, `crash ${this.#crashes} ${at}`));
    const image = imageOf(layers);
    for (const blob of blobsOf(image)) this.#contents.set(blob.digest, blob);
    const acknowledged = new Set<string>();
    const pushing = (async () => {
      for (const blob of blobsOf(image)) {
        const url = this.#url(name, `blobs/uploads/?digest=${blob.digest}`);
        const got = await get(url, { method: 'POST', body: bytesOf(blob) });
        if (got.status !== 201) return;
        acknowledged.add(blob.digest);
      }
      const got = await this.#sendManifest(name, tag, image.manifest);
      if (got.status === 201) acknowledged.add(image.manifest.digest);
    })();
    await sleep(delay % 60);
    await this.#entrepot.kill();
    await pushing;
    this.#entrepot = await this.#entrepot.startAgain();
    const repository = this.#of(name);
    for (const blob of blobsOf(image)) {
      const got = await get(this.#url(name, `blobs/${blob.digest}`), { method: 'HEAD' });
      if (acknowledged.has(blob.digest)) same(got.status, 200, 'an acknowledged blob after a crash');
      if (got.status === 200) repository.blobs.set(blob.digest, 'yes');
    }
    const got = await get(this.#url(name, `manifests/${tag}`));
    if (acknowledged.has(image.manifest.digest)) {
      same(got.status, 200, 'an acknowledged manifest after a crash');
    }
    if (got.status === 200) this.#adopt(name, tag, image.manifest, blobsOf(image));
    this.#meet(acknowledged.size > 0 && got.status !== 200 ? 'killed in the middle' : 'killed');
  }

  async #command(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.#entrepot.command(...args);
    if (args[0] !== 'rm') same(`${code} ${complaints(stderr)}`, '0 ');
    return stdout;
  }

  /** Everything that was promised, and nothing that was deleted. */
  async #expectAll(): Promise<void> {
    for (const [name, { blobs, manifests, tags }] of this.#repositories) {
      for (const content of this.#contents.values()) {
        const got = await get(this.#url(name, `blobs/${content.digest}`));
        const state = blobs.get(content.digest);
        const expected = state !== undefined && !this.#damaged.has(content.digest) ? 200 : 404;
        if (state !== 'maybe') same(got.status, expected, `${content.digest} of ${name}`);
        if (got.status === 200) same(`sha256:${got.sha256}`, content.digest);
      }
      for (const [digest, { content }] of manifests) {
        const got = await get(this.#url(name, `manifests/${digest}`));
        sameManifest(got, content, `${digest} of ${name}`);
      }
      const list = await get(this.#url(name, 'tags/list'));
      const listed: readonly string[] = list.status === 200 ? JSON.parse(list.text).tags : [];
      same(listed, [...tags.keys()].toSorted());
    }
  }

  get #store(): string {
    return join(this.#entrepot.folder, 'store');
  }

  /** Digests of the blobs that are in the folder or bucket. */
  async #kept(): Promise<readonly string[]> {
    return (await keptBlobs(this.#store)).map(({ digest }) => digest).toSorted();
  }
}

/**
 * On a slow machine a command says now and then how far it is, each time in an indented line, and whom it waits for: a
 * server that collects or makes room, or one that was killed while it did.
 */
function complaints(stderr: string): string {
  return stderr.replaceAll(
    /^(?: {2}|(?:another process|process \d+ on \S+) is (?:collecting|making room): waiting for ).*\n/gm,
    '',
  );
}

/** Links that no manifest of the repository names: `maybe` for after a collection, `no` for after enough of them. */
function collectLinks(repository: Repository, left: 'maybe' | 'no'): void {
  const named = namedIn(repository);
  for (const digest of repository.blobs.keys()) {
    if (named.has(digest)) continue;
    if (left === 'maybe') repository.blobs.set(digest, 'maybe');
    else repository.blobs.delete(digest);
  }
}

function namedIn({ manifests }: Repository): ReadonlySet<string> {
  return new Set([...manifests.values()].flatMap(({ blobs }) => blobs));
}

function blobsOf(image: Image): readonly Content[] {
  return [image.config, ...image.layers];
}

function pick<T>(from: readonly T[], which: number): T {
  const picked = from[which % from.length];
  if (picked === undefined) throw new Error('nothing to pick from');
  return picked;
}

/** Bytes and media type. */
function sameManifest({ text, headers }: Got, content: Content, what: string): void {
  same([text, headers['content-type']], [bytesOf(content).toString(), content.mediaType], what);
}

/** A failed expectation that says both sides, and what they are of. */
function same(actual: unknown, expected: unknown, what = 'this'): void {
  const sides = `${JSON.stringify(actual)} instead of ${JSON.stringify(expected)}`;
  assert.deepEqual(actual, expected, `${what} is ${sides}`);
}
