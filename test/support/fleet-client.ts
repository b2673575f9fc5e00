// A client of a fleet, with the login of a tenant and a repository of its own: pushes, deletes and pulls through any
// replica, and knows what it must get, and what it must not.
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { layoutFiles, tarOf } from '../../src/archive/archive.fixture.ts';
import type { Chance } from './chance.ts';
import { type GetOptions, type Got, get } from './client.ts';
import { bytesOf, type Content, type Image, imageOf, randomBlob } from './content.ts';
import type { Replica } from './fleet.ts';
import { Register } from './fleet-register.ts';
import { basic, type Login } from './tenants.ts';

/** How often each step is taken, next to the others. */
const WEIGHTS = {
  push: 6,
  mount: 2,
  import: 1,
  move: 2,
  deleteTag: 2,
  deleteManifest: 2,
  read: 4,
  pull: 3,
  trespass: 2,
} as const;
type Step = keyof typeof WEIGHTS;
const STEPS = Object.entries(WEIGHTS).flatMap(([step, weight]) => Array<Step>(weight).fill(step as Step));

const TAGS = ['v1', 'v2', 'latest'] as const;
const SIZES = [900, 20_000, 120_000, 400_000];
/** More than one part of a multipart upload. */
const LARGE_BYTES = 17 * 1024 * 1024;
/** A request that takes longer is given up: it may be carried out all the same. */
const PATIENCE_MS = 5_000;
/**
 * After a request has ended without an answer that says what became of it, a transaction may still go on, whose locks and
 * statements have limits: those of `metadata/postgres/writer.ts`.
 */
const UNDONE_AFTER_MS = 15_000;
/** Between two requests, so that servers are not busy with anything else. */
const PAUSE_MS = 60;
/** No criterion, only an end for a refusal that no replica tells. */
const TOLD_WITHIN_MS = 60_000;
/** Pushed by all clients. */
const COMMON = SIZES.map((size, at) => randomBlob(size, `common ${at}`));
/** Images that are remembered before those that are gone are forgotten. */
const MAX_HELD = 12;
/** Of what happened before something was found. */
const LINES_SHOWN = 40;

/** What all clients of a fleet have in common. */
export interface FleetWorld {
  readonly replicas: readonly Replica[];
  /** By their names in a request. */
  readonly mirrored: ReadonlyMap<string, MirroredRepository>;
  /** Blobs without a manifest are kept for as long as this. */
  readonly graceMs: number;
  readonly met: (what: string) => void;
  /** For archives. */
  readonly folder: string;
}

export interface MirroredRepository {
  readonly images: readonly Image[];
  /** Tenants that may pull it, as far as the replicas know: those whom upstream refuses leave when a replica has told it. */
  readonly readers: Set<string>;
}

interface Held {
  readonly image: Image;
  readonly isThere: Register<boolean>;
}

/** What a write makes of a register. */
interface Effect {
  readonly register: Register<unknown>;
  readonly value: unknown;
  /** Whether it has this effect in any case. */
  readonly isCertain: boolean;
}

/** The answer of a replica. */
interface Answer extends Got {
  /** Whether the replica could have asked the database at any moment since the request. */
  readonly isSighted: boolean;
}

export class FleetClient {
  readonly name: string;
  readonly repository: string;
  readonly #login: Login;
  readonly #chance: Chance;
  readonly #world: FleetWorld;
  readonly #held = new Map<string, Held>();
  /** Manifests that are certainly deleted: a replica without the database may still remember their tags. */
  readonly #gone = new Set<string>();
  readonly #tags = new Map<string, Register<string | undefined>>();
  readonly #late = new Set<Promise<void>>();
  readonly #happened: string[] = [];
  #others: readonly FleetClient[] = [];
  /** Of the same tenant. */
  #siblings: readonly FleetClient[] = [];
  #made = 0;

  constructor(
    { name, repository, login }: Pick<FleetClient, 'name' | 'repository'> & { readonly login: Login },
    chance: Chance,
    world: FleetWorld,
  ) {
    this.name = name;
    this.repository = repository;
    this.#login = login;
    this.#chance = chance;
    this.#world = world;
    for (const tag of TAGS) this.#tags.set(tag, new Register<string | undefined>(undefined));
  }

  /** `all`: this one, too. */
  meet(all: readonly FleetClient[]): void {
    this.#others = all.filter(({ name }) => name !== this.name);
    this.#siblings = all.filter(each => each.name === this.name && each !== this);
  }

  /** Images that are certainly there. */
  get images(): readonly Image[] {
    return [...this.#held.values()].filter(held => isOnly(held.isThere, true)).map(({ image }) => image);
  }

  /** Digests of all blobs and manifests that it has ever pushed. */
  get pushed(): readonly string[] {
    return [...this.#held.values()].flatMap(({ image }) => contentsOf(image).map(({ digest }) => digest));
  }

  async act(): Promise<void> {
    const steps: Readonly<Record<Step, () => Promise<void>>> = {
      push: () => this.push(),
      mount: () => this.#mount(),
      import: () => this.#import(),
      move: () => this.#move(),
      deleteTag: () => this.#deleteTag(),
      deleteManifest: () => this.#deleteManifest(),
      read: () => this.#read(),
      pull: () => this.#pull(),
      trespass: () => this.#trespass(),
    };
    await steps[this.#chance.pick(STEPS)]();
    await sleep(this.#chance.below(2 * PAUSE_MS));
  }

  /** Waits for what servers may still do. Call when all replicas live. */
  async settle(): Promise<void> {
    await Promise.all(this.#late);
  }

  /** When all replicas live, and this client has settled: finds out what has become of the rest, and expects all. */
  async expectAll(): Promise<void> {
    for (const [digest, { isThere, image }] of this.#held) {
      const got = await this.#insist(`manifests/${digest}`);
      const state = got.status === 200;
      if (!isThere.possible.has(state)) throw this.#fault(`manifest ${digest}`, got);
      isThere.is(state);
      if (!state) continue;
      for (const { replica, path, content } of this.#everywhere(image)) {
        const answer = await this.#at(replica, this.repository, path);
        if (!isWhole(answer, content)) throw this.#fault(path, answer);
      }
    }
    for (const [tag, register] of this.#tags) {
      const got = await this.#insist(`manifests/${tag}`);
      const digest = got.status === 200 ? String(got.headers['docker-content-digest']) : undefined;
      if (!register.possible.has(digest)) throw this.#fault(`tag ${tag}`, got, register.possible);
      register.is(digest);
    }
  }

  /** A new image. */
  async push(): Promise<void> {
    const image = this.#newImage();
    const since = performance.now();
    for (const blob of [image.config, ...image.layers]) if (!(await this.#pushBlob(blob))) return;
    await this.#finish(image, since);
  }

  /** Until upstream's refusal has been told by a replica that could record it; others then have to know. */
  async expectRefused(name: string): Promise<void> {
    const since = performance.now();
    for (;;) {
      const { answer } = await this.#ask('manifests/v1', {}, name);
      if (answer?.isSighted === true && [401, 403, 404].includes(answer.status)) return;
      if (answer?.status === 200 && performance.now() - since > TOLD_WITHIN_MS)
        throw this.#fault(`${name}, which upstream refuses`, answer);
      await sleep(PAUSE_MS);
    }
  }

  /** No replica that can reach the database sends anything of it, whatever it has stored. */
  async expectForbidden(name: string, images: readonly Image[]): Promise<void> {
    for (const { replica, path } of images.flatMap(image => [...this.#everywhere(image)])) {
      const answer = await Promise.race([this.#at(replica, name, path), sleep(PATIENCE_MS)]);
      if (answer?.status === 200 && answer.isSighted) throw this.#fault(`${name} ${path}, refused`, answer);
    }
  }

  /** An image of the tenant's other repository, whose blobs do not have to be pushed again. */
  async #mount(): Promise<void> {
    const sibling = this.#chance.pick(this.#siblings);
    const [image] = sibling.#some();
    if (image === undefined) return;
    const since = performance.now();
    for (const { digest } of [image.config, ...image.layers]) {
      const { answer } = await this.#ask(`blobs/uploads/?mount=${digest}&from=${sibling.repository}`, {
        method: 'POST',
      });
      if (answer?.status === 202) await this.#cancelUpload(answer);
      if (answer?.status === 202 && sibling.images.includes(image))
        throw this.#fault(`a mount of ${digest} from ${sibling.repository}`, answer);
      if (answer?.status !== 201) return;
    }
    await this.#finish(image, since);
    this.#world.met('mounted');
  }

  /** A new image, from a file, by a command on the machine of a replica. */
  async #import(): Promise<void> {
    const image = this.#newImage();
    const { digest } = image.manifest;
    const [tag, replica] = [this.#chance.pick(TAGS), this.#chance.pick(this.#world.replicas)];
    const file = join(this.#world.folder, `${digest.replace(':', '-')}.tar`);
    await writeFile(file, await tarOf(layoutFiles(image, 'archived:v1')));
    const isThere = this.#hold(image);
    const name = `${this.repository}:${tag}`;
    const importing = replica.server.command('import', file, '--rename', name);
    const ended = importing.then(({ code }) => (code === 0 ? undefined : sleep(UNDONE_AFTER_MS)));
    this.#await(ended);
    void isThere.later(true, ended);
    void this.#tags.get(tag)!.later(digest, ended);
    const { code, stderr } = await importing;
    await rm(file);
    this.#note(
      `import of ${name} at ${this.#world.replicas.indexOf(replica)}: ${code} ${stderr.slice(0, 300)}`,
    );
    if (code !== 0) return;
    await ended;
    isThere.is(true);
    this.#tags.get(tag)!.is(digest);
    this.#world.met('imported');
  }

  async #cancelUpload({ headers: { location = '' } }: Answer): Promise<void> {
    await this.#ask(location.replace(`/v2/${this.repository}/`, ''), { method: 'DELETE' });
  }

  #hold(image: Image): Register<boolean> {
    const { digest } = image.manifest;
    const held = this.#held.get(digest) ?? { image, isThere: new Register(false) };
    this.#held.set(digest, held);
    return held.isThere;
  }

  /** Pushes the manifest of an image whose blobs were acknowledged in its repository since then. */
  async #finish(image: Image, since: number): Promise<void> {
    this.#hold(image);
    const got = await this.#putManifest(image, this.#chance.pick(TAGS));
    if (got === undefined) return;
    if (got.status === 404 && performance.now() - since < this.#world.graceMs / 2) {
      throw this.#fault('blobs that were acknowledged', got);
    }
    if (this.#held.size > MAX_HELD) this.#forgetGone();
  }

  #newImage(): Image {
    this.#made += 1;
    const own = randomBlob(
      this.#chance.in(0.02) ? LARGE_BYTES : this.#chance.pick(SIZES),
      `${this.name} ${this.#chance.next()} ${this.#made}`,
    );
    return imageOf(this.#chance.in(0.5) ? [own, this.#chance.pick(COMMON)] : [own]);
  }

  /** In one request, or in three, each to another replica. False if it was not acknowledged. */
  async #pushBlob(blob: Content): Promise<boolean> {
    const bytes = bytesOf(blob);
    if (this.#chance.in(0.6)) {
      const path = `blobs/uploads/?digest=${blob.digest}`;
      return this.#isDone(await this.#ask(path, { method: 'POST', body: bytes }), 201);
    }
    const begun = await this.#ask('blobs/uploads/', { method: 'POST' });
    const location = begun.answer?.headers.location;
    if (!this.#isDone(begun, 202) || location === undefined) return false;
    const path = location.replace(`/v2/${this.repository}/`, '');
    const middle = Math.floor(bytes.length / 2);
    const patched = await this.#ask(path, { method: 'PATCH', body: bytes.subarray(0, middle) });
    if (!this.#isDone(patched, 202)) return false;
    const put = { method: 'PUT', body: bytes.subarray(middle) };
    const isPushed = this.#isDone(await this.#ask(`${path}?digest=${blob.digest}`, put), 201);
    if (isPushed) this.#world.met('pushed through several replicas');
    return isPushed;
  }

  /** The answer, unless it may still come. */
  async #putManifest(image: Image, tag: string): Promise<Answer | undefined> {
    const { manifest } = image;
    const options = {
      method: 'PUT',
      headers: { 'content-type': manifest.mediaType },
      body: bytesOf(manifest),
    };
    const got = await this.#write(`manifests/${tag}`, options, [
      effect(this.#held.get(manifest.digest)!.isThere, true),
      effect(this.#tags.get(tag)!, manifest.digest),
    ]);
    if (got?.status === 201) this.#world.met('pushed');
    if (this.#chance.in(0.5)) await this.#readTag(tag);
    return got;
  }

  /** To another image that is there. */
  async #move(): Promise<void> {
    const [image] = this.#some();
    if (image === undefined) return;
    const got = await this.#putManifest(image, this.#chance.pick(TAGS));
    if (got?.status === 404) throw this.#fault('what a manifest names that is there', got);
    if (got?.status === 201) this.#world.met('tag moved');
  }

  async #deleteTag(): Promise<void> {
    const tag = this.#chance.pick(TAGS);
    const register = this.#tags.get(tag)!;
    const before = register.possible;
    const got = await this.#write(`manifests/${tag}`, { method: 'DELETE' }, [effect(register, undefined)]);
    if (got?.status === 404 && !before.has(undefined)) throw this.#fault(`tag ${tag}`, got, before);
    if (got?.status === 202) this.#world.met('tag deleted');
    await this.#readTag(tag);
  }

  /** With all tags that mean it. */
  async #deleteManifest(): Promise<void> {
    const [image] = this.#some();
    if (image === undefined) return;
    const { digest } = image.manifest;
    const tags = [...this.#tags.values()].filter(({ possible }) => possible.has(digest));
    const got = await this.#write(`manifests/${digest}`, { method: 'DELETE' }, [
      effect(this.#held.get(digest)!.isThere, false),
      // Of a tag that may have meant something else, it is not known.
      ...tags.map(tag => effect(tag, undefined, tag.possible.size === 1)),
    ]);
    if (got?.status === 404) throw this.#fault(`manifest ${digest}`, got);
    if (got?.status === 202) this.#world.met('manifest deleted');
  }

  async #read(): Promise<void> {
    if (this.#chance.in(0.4)) return this.#readTag(this.#chance.pick(TAGS));
    const [image] = this.#some();
    if (image === undefined) return;
    const content = this.#chance.pick(contentsOf(image));
    const path = `${content === image.manifest ? 'manifests' : 'blobs'}/${content.digest}`;
    const { answer } = await this.#ask(path);
    if (answer === undefined || !isFinal(answer)) return;
    if (!isWhole(answer, content)) throw this.#fault(path, answer);
    this.#world.met('read');
  }

  async #readTag(tag: string): Promise<void> {
    const register = this.#tags.get(tag)!;
    const before = register.possible;
    const { answer } = await this.#ask(`manifests/${tag}`);
    if (answer === undefined || !isFinal(answer)) return;
    const digest = answer.status === 200 ? String(answer.headers['docker-content-digest']) : undefined;
    if (digest !== undefined && answer.complete && `sha256:${answer.sha256}` !== digest) {
      throw this.#fault(`other bytes of tag ${tag}`, answer);
    }
    const isKnown = digest === undefined || this.#held.has(digest) || this.#gone.has(digest);
    if (!isKnown) throw this.#fault(`strange tag ${tag}`, answer);
    // One that cannot reach the database answers what it remembers.
    const isPossible = before.has(digest) || register.possible.has(digest);
    if (!isPossible && answer.isSighted) throw this.#fault(`tag ${tag}`, answer, register.possible);
    this.#world.met('tag read');
  }

  /** A mirrored image. */
  async #pull(): Promise<void> {
    const [name, { images, readers }] = this.#chance.pick([...this.#world.mirrored]);
    const image = this.#chance.pick(images);
    const content = this.#chance.pick(contentsOf(image));
    const path = `${content === image.manifest ? 'manifests' : 'blobs'}/${content.digest}`;
    const mayRead = readers.has(this.name);
    const { answer } = await this.#ask(path, {}, name);
    if (answer === undefined || !isFinal(answer)) return;
    // One that cannot reach the database knows of no right that has ended elsewhere.
    if (answer.status === 200 && !mayRead && !readers.has(this.name) && answer.isSighted)
      throw this.#fault(`${name} ${path}`, answer);
    if (answer.status !== 200) return;
    if (answer.complete && `sha256:${answer.sha256}` !== content.digest) {
      throw this.#fault(`other bytes of ${name} ${path}`, answer);
    }
    this.#world.met('pulled');
  }

  /** What belongs to others. */
  async #trespass(): Promise<void> {
    const other = this.#chance.pick(this.#others);
    const digest = this.#chance.pick(['v1', ...other.pushed]);
    if (digest !== 'v1' && this.#chance.in(0.3)) return this.#mountOf(other, digest);
    const path = this.#chance.pick([`manifests/${digest}`, `blobs/${digest}`, 'tags/list']);
    const { answer } = await this.#ask(path, {}, other.repository);
    if (answer !== undefined && answer.status >= 200 && answer.status < 400) {
      throw this.#fault(`${path} of ${other.name}`, answer);
    }
    if (answer !== undefined && isFinal(answer)) this.#world.met('refused');
  }

  async #mountOf(other: FleetClient, digest: string): Promise<void> {
    const path = `blobs/uploads/?mount=${digest}&from=${other.repository}`;
    const { answer } = await this.#ask(path, { method: 'POST' });
    if (answer?.status === 201) throw this.#fault(`${digest} of ${other.name} mounted`, answer);
    if (answer?.status !== 202) return;
    await this.#cancelUpload(answer);
    this.#world.met('mount refused');
  }

  /** One image that is certainly there, if there is any. */
  #some(): readonly Image[] {
    const images = this.images;
    return images.length === 0 ? [] : [this.#chance.pick(images)];
  }

  #forgetGone(): void {
    for (const [digest, { isThere }] of this.#held) {
      const isMeant = [...this.#tags.values()].some(({ possible }) => possible.has(digest));
      if (!isOnly(isThere, false) || isMeant) continue;
      this.#held.delete(digest);
      this.#gone.add(digest);
    }
  }

  *#everywhere(image: Image) {
    for (const replica of this.#world.replicas) {
      for (const content of contentsOf(image)) {
        const kind = content === image.manifest ? 'manifests' : 'blobs';
        yield { replica, content, path: `${kind}/${content.digest}` };
      }
    }
  }

  /** Sends what has effects, and notes what may have become of them. The answer, unless it may still come. */
  async #write(path: string, options: GetOptions, effects: readonly Effect[]): Promise<Answer | undefined> {
    const { answer, late } = await this.#ask(path, options);
    const { status } = answer ?? { status: 0 };
    // A deletion of what was not there has had its effect, too.
    const isDone = status === 201 || status === 202 || (options.method === 'DELETE' && status === 404);
    const isUncertain = status === 0 || status >= 500;
    const ended = isUncertain ? late.then(() => sleep(UNDONE_AFTER_MS)) : late;
    this.#await(ended);
    for (const { register, value, isCertain } of effects) {
      if (isUncertain) void register.later(value, ended);
      else if (isDone && isCertain) register.is(value);
      else if (isDone) register.maybe(value);
    }
    return answer;
  }

  /** `undefined` if there is no answer in time; `late` resolves when there is. */
  async #ask(
    path: string,
    options: GetOptions = {},
    repository = this.repository,
  ): Promise<{ readonly answer: Answer | undefined; readonly late: Promise<void> }> {
    const replica = this.#chance.pick(this.#world.replicas);
    const asking = this.#at(replica, repository, path, options);
    const late = asking.then(() => undefined);
    this.#await(late);
    const answer = await Promise.race([asking, sleep(PATIENCE_MS).then(() => undefined)]);
    if (answer === undefined) this.#world.met('given up');
    if (answer?.status === 500) throw this.#fault(path, answer);
    return { answer, late };
  }

  async #at(replica: Replica, repository: string, path: string, options: GetOptions = {}): Promise<Answer> {
    const { blindTimes, isBlind, trouble } = replica;
    const sentMs = Math.round(performance.now());
    const got = await get(`${replica.server.url}/v2/${repository}/${path}`, {
      ...options,
      headers: { ...options.headers, ...basic(this.#login) },
    });
    this.#note(
      `${sentMs} to ${Math.round(performance.now())} ms: ${options.method ?? 'GET'} ${repository}/${path} ` +
        `at ${this.#world.replicas.indexOf(replica)} (${trouble ?? 'well'}): ${got.status} ` +
        String(got.headers['docker-content-digest'] ?? ''),
    );
    if (got.status === 401 || (got.status === 403 && repository === this.repository)) {
      throw this.#fault(`login for ${path}`, got);
    }
    return { ...got, text: got.text, isSighted: !isBlind && replica.blindTimes === blindTimes };
  }

  async #insist(path: string): Promise<Answer> {
    for (;;) {
      const { answer } = await this.#ask(path);
      if (answer !== undefined && isFinal(answer)) return answer;
      await sleep(PAUSE_MS);
    }
  }

  #isDone({ answer }: { readonly answer: Answer | undefined }, status: number): boolean {
    return answer?.status === status;
  }

  /** `settle` waits for it. */
  #await(late: Promise<void>): void {
    this.#late.add(late);
    void late.then(() => this.#late.delete(late));
  }

  #note(line: string): void {
    this.#happened.push(line);
    if (this.#happened.length > LINES_SHOWN) this.#happened.shift();
  }

  #fault(what: string, { status, complete, sha256, text }: Got, possible?: ReadonlySet<unknown>): Error {
    const expected = possible === undefined ? '' : `; possible: ${[...possible].map(String).join(', ')}`;
    const body = text.length < 500 ? text : `${text.length} characters`;
    return new Error(
      `${this.name}: ${what}: ${status}${complete ? '' : ' (cut)'}, sha256:${sha256}, ${body}${expected}\n` +
        `after:\n${this.#happened.join('\n')}`,
    );
  }
}

function effect<T>(register: Register<T>, value: T, isCertain = true): Effect {
  return { register, value, isCertain };
}

function contentsOf({ manifest, config, layers }: Image): readonly Content[] {
  return [manifest, config, ...layers];
}

/** An answer that does not only say that nobody can answer now. */
function isFinal({ status, complete }: Got): boolean {
  return status !== 0 && status !== 429 && status < 500 && complete;
}

function isWhole({ status, complete, sha256 }: Got, { digest }: Content): boolean {
  return status === 200 && complete && `sha256:${sha256}` === digest;
}

function isOnly(register: Register<boolean>, value: boolean): boolean {
  return register.possible.size === 1 && register.possible.has(value);
}
