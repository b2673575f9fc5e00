// Every way to ask for content and for lists of it. Each answer is compared with the model of who may read what. The
// askers know every digest: a digest is no secret.
import { STALE_AFTER_MS } from '../../src/mirror/freshness.ts';
import type { Chance } from './chance.ts';
import { get, type GetOptions, type Got } from './client.ts';
import { bytesOf, type Content, type Image, randomBlob } from './content.ts';
import {
  ASKERS,
  type Asker,
  HOSTED,
  type IsolationModel,
  type Mirrored,
  ownerOf,
  textOf,
  TWO,
} from './isolation-model.ts';
import {
  AFFIRMING,
  CONTENTS,
  type IsolationWorld,
  isManifest,
  LOGINS,
  REPOSITORIES,
  TAGS,
  UPSTREAMS,
} from './isolation-world.ts';
import { basic } from './tenants.ts';

export interface Counts {
  steps: number;
  asks: number;
  /** Of them, for what the asker may not read. */
  forbidden: number;
  /** Of them, answered with content or a list. */
  served: number;
  /** Content that had to be served at the end. */
  required: number;
}

interface Ask {
  readonly asker: Asker;
  readonly repository: Mirrored;
  /** Behind the name of the repository. */
  readonly path: string;
  readonly options?: GetOptions;
  /** Which server; by default any. */
  readonly at?: number;
  /** Sends the login itself, and no token that was got with it. */
  readonly byLogin?: boolean;
}

const PROBES = 24;
const SOME = 6;
const MAX_SERVED = 200;

export class IsolationAsks {
  readonly counts: Counts = { steps: 0, asks: 0, forbidden: 0, served: 0, required: 0 };
  readonly #world: IsolationWorld;
  readonly #model: IsolationModel;
  readonly #chance: Chance;
  /** Of whoever got one for a repository, the newest: by now it may be worth nothing. */
  readonly #tokens = new Map<string, string>();
  /** The newest questions that were answered with content. */
  readonly #served: Ask[] = [];
  #missing = 0;

  constructor(world: IsolationWorld, chance: Chance) {
    this.#world = world;
    this.#model = world.model;
    this.#chance = chance;
  }

  /** Many questions at once, of all kinds. */
  async many(count = PROBES): Promise<void> {
    await Promise.all(Array.from({ length: count }, () => this.#one()));
  }

  /** What was served of the repository before, to the same and to others. */
  async again(repository: Mirrored): Promise<void> {
    const served = this.#served.filter(ask => textOf(ask.repository) === textOf(repository));
    await Promise.all(served.slice(-PROBES).map(ask => this.#echo(ask)));
  }

  #echo({ asker, repository, path }: Ask): Promise<unknown> {
    const another = this.#chance.in(0.3) ? this.#chance.pick(ASKERS) : asker;
    return this.mirrored({ asker: another, repository, path, options: this.optionsFor(path) });
  }

  #one(): Promise<unknown> {
    const asker = this.#chance.pick(ASKERS);
    if (this.#chance.in(0.4) && this.#served.length > 0) return this.#echo(this.#chance.pick(this.#served));
    if (this.#chance.in(0.03)) return this.#catalog(asker);
    if (this.#chance.in(0.22)) return this.#hosted(asker);
    const repository = this.#chance.pick(REPOSITORIES);
    if (this.#chance.in(0.08)) return this.#list(asker, repository);
    const path = this.#pathOf(this.#chance.pick([...CONTENTS.keys()]));
    return this.mirrored({ asker, repository, path, options: this.optionsFor(path) });
  }

  #pathOf(digest: string): string {
    if (!isManifest(digest)) return `blobs/${digest}`;
    return this.#chance.pick([
      `manifests/${digest}`,
      `manifests/${digest}`,
      `manifests/${this.#chance.pick(TAGS)}`,
      `manifests/${this.#chance.pick(TAGS)}`,
      `referrers/${digest}`,
      `blobs/${digest}`,
    ]);
  }

  optionsFor(path: string): GetOptions {
    if (path.startsWith('manifests/')) return this.#chance.in(0.4) ? { method: 'HEAD' } : {};
    if (!path.startsWith('blobs/')) return {};
    const ranges = ['bytes=3-60', 'bytes=-40', 'bytes=0-9,20-29', 'bytes=100000-'];
    const ranged = ranges.map(range => ({ headers: { range } }));
    return this.#chance.pick<GetOptions>([{}, {}, { method: 'HEAD' }, ...ranged]);
  }

  /** The whole image, and what a tag means. */
  async image(
    asker: Asker,
    repository: Mirrored,
    { manifest, config, layers }: Image,
    at: number,
  ): Promise<void> {
    const blobs = [config, ...layers].map(({ digest }) => `blobs/${digest}`);
    for (const path of [`manifests/${this.#chance.pick(TAGS)}`, `manifests/${manifest.digest}`, ...blobs]) {
      await this.mirrored({ asker, repository, path, options: this.optionsFor(path), at });
    }
  }

  async mirrored({
    asker,
    repository,
    path,
    options = {},
    at = this.anyServer(),
    byLogin,
  }: Ask): Promise<Got> {
    const authorization = await this.#authorization(asker, repository, at, byLogin === true);
    const url = this.#world.urlOf(at);
    const place = this.#chance.in(0.5)
      ? `${url}/v2/${textOf(repository)}/${path}`
      : `${url}/v2/${repository.name}/${path}?ns=${repository.upstream}`;
    const before = this.#readable(asker, repository);
    const headers = { ...options.headers, ...authorization };
    const got = await this.#timed(repository, get(place, { ...options, headers }));
    const readable = new Set([...before.digests, ...this.#readable(asker, repository).digests]);
    const hasRight = before.hasRight || this.#model.hasRight(asker, repository);
    const asked = digestIn(path);
    this.#count(asked === undefined || readable.has(asked), got);
    const how = `${asker} ${options.method ?? 'GET'} ${place} ${options.headers?.['range'] ?? ''}: ${got.status}`;
    if (!isServed(got)) {
      const size = CONTENTS.get(asked ?? '')?.size;
      if (!readable.has(asked ?? '') && got.headers['content-range'] === `bytes */${size}`)
        throw new Error(`${how}, with the size of what is not to be read`);
      if (CONTENTS.has(`sha256:${got.sha256}`)) throw new Error(`${how}, with content`);
      this.#judgeReason(how, got, repository);
      return got;
    }
    this.#served.push({ asker, repository, path });
    if (this.#served.length > MAX_SERVED) this.#served.shift();
    if (path.startsWith('referrers/')) {
      this.#judgeReferrers({ how, got, repository, isOpen: hasRight || readable.has(asked ?? ''), readable });
      return got;
    }
    const digest = asked ?? String(got.headers['docker-content-digest']);
    if (!readable.has(digest) && !this.#isHearsay(repository, digest, options, got)) {
      throw new Error(`${how}: ${digest}, which is not to be read (${JSON.stringify(got.headers)})`);
    }
    const isWhole = got.complete && got.status === 200 && options.method !== 'HEAD';
    if (isWhole && `sha256:${got.sha256}` !== digest) throw new Error(`${how}: other bytes`);
    if (path.startsWith('manifests/')) {
      expectType(this.#model.typesOf(repository, digest), got, how);
      const tag = path.replace('manifests/', '');
      if (asked === undefined && !this.#model.meaningsOf(repository, tag).has(digest)) {
        throw new Error(`${how}: ${digest}, which the tag never meant`);
      }
    }
    return got;
  }

  /** On a busy machine an upstream may take so long that the servers do not wait for it. */
  async #timed({ upstream }: Mirrored, asking: Promise<Got>): Promise<Got> {
    const startedMs = performance.now();
    const got = await asking;
    if (performance.now() - startedMs >= STALE_AFTER_MS) this.#model.wasSlow(upstream);
    return got;
  }

  /** What may be read now, which the question itself may make so. */
  #readable(
    asker: Asker,
    repository: Mirrored,
  ): { readonly digests: readonly string[]; readonly hasRight: boolean } {
    this.#model.mayProve(asker, repository);
    const digests = [...CONTENTS.keys()].filter(digest => this.#model.mayRead(asker, repository, digest));
    return { digests, hasRight: this.#model.hasRight(asker, repository) };
  }

  /** A reason names no address behind the registry, and no upstream but the asked one. */
  #judgeReason(how: string, { phrase, headers, text }: Got, { upstream }: Mirrored): void {
    const told = [phrase, headers['warning'], text].join('\n');
    const secrets = [...this.#world.hosts, ...UPSTREAMS.filter(other => other !== upstream)];
    const named = secrets.find(secret => told.includes(secret));
    if (named !== undefined) throw new Error(`${how}: names ${named}: ${told}`);
  }

  #judgeReferrers({
    how,
    got,
    repository,
    isOpen,
    readable,
  }: {
    readonly how: string;
    readonly got: Got;
    readonly repository: Mirrored;
    readonly isOpen: boolean;
    readonly readable: ReadonlySet<string>;
  }): void {
    const { manifests = [] }: { manifests?: readonly { digest: string }[] } = JSON.parse(got.text);
    const isHearsay = manifests.length === 0 && this.#model.isMisbehaving(repository.upstream);
    if (!isOpen && !isHearsay) throw new Error(`${how}: a list`);
    for (const { digest } of manifests) {
      if (!readable.has(digest)) throw new Error(`${how}: names ${digest}`);
    }
  }

  /** The answer of a misbehaving upstream to a HEAD, passed on: it says nothing about what is held. */
  #isHearsay({ upstream }: Mirrored, digest: string, { method }: GetOptions, { headers }: Got): boolean {
    const isItsSize = headers['content-length'] === String(CONTENTS.get(digest)?.size);
    return method === 'HEAD' && this.#model.isMisbehaving(upstream) && !isItsSize;
  }

  async #list(asker: Asker, repository: Mirrored): Promise<void> {
    const at = this.anyServer();
    const headers = await this.#authorization(asker, repository, at, false);
    this.#model.mayProve(asker, repository);
    const before = this.#model.mayList(asker, repository);
    const url = `${this.#world.urlOf(at)}/v2/${textOf(repository)}/tags/list`;
    const got = await this.#timed(repository, get(url, { headers }));
    this.#model.mayProve(asker, repository);
    const after = this.#model.mayList(asker, repository);
    this.#count(before !== undefined || after !== undefined, got);
    if (got.status !== 200) return;
    const tags: readonly string[] = JSON.parse(got.text).tags ?? [];
    if (tags.length === 0 && this.#model.isMisbehaving(repository.upstream)) return;
    const shown = [...(before ?? []), ...(after ?? [])];
    const isOpen = before !== undefined || after !== undefined;
    if (!isOpen || tags.some(tag => !shown.includes(tag))) {
      throw new Error(`${asker} is shown tags of ${textOf(repository)}: ${got.text}`);
    }
  }

  async #hosted(asker: Asker): Promise<void> {
    const name = this.#chance.pick(HOSTED);
    const digest = this.#chance.pick([...CONTENTS.keys()]);
    const path = this.#chance.in(0.1) ? 'tags/list' : this.#pathOf(digest);
    const options = this.optionsFor(path);
    const headers = { ...options.headers, ...headersOf(asker) };
    const got = await get(`${this.#world.urlOf(this.anyServer())}/v2/${name}/${path}`, {
      ...options,
      headers,
    });
    const maySee = this.#model.maySee(asker, name);
    this.#count(maySee, got);
    const how = `${asker} ${options.method ?? 'GET'} ${name}/${path}: ${got.status}`;
    if (!isServed(got)) return;
    if (!maySee) throw new Error(how);
    if (path === 'tags/list' || path.startsWith('referrers/')) return;
    const served = digestIn(path) ?? String(got.headers['docker-content-digest']);
    if (!this.#model.mayReadHosted(asker, name, served)) throw new Error(`${how}: ${served}`);
    if (path.startsWith('manifests/')) {
      expectType(this.#model.hosted(name).types.get(served) ?? new Set(), got, how);
    }
  }

  /** All pages: what they list, and what their cursors tell. */
  async #catalog(asker: Asker): Promise<void> {
    const names: string[] = [];
    for (let path: string | undefined = '/v2/_catalog?n=2'; path !== undefined; ) {
      const got: Got = await get(this.#world.urlOf(0) + path, { headers: headersOf(asker) });
      this.#count(true, got);
      if (got.status !== 200) return;
      const link = decodeURIComponent(String(got.headers.link ?? ''));
      const { repositories }: { repositories: readonly string[] } = JSON.parse(got.text);
      names.push(...repositories);
      const told = HOSTED.filter(name => names.includes(name) || link.includes(name));
      const hidden = told.filter(name => !this.#model.maySee(asker, name));
      if (hidden.length > 0) throw new Error(`the catalog tells ${asker} of ${hidden.join()}`);
      path = /<([^>]*)>/.exec(String(got.headers.link))?.[1];
    }
    for (const name of HOSTED) {
      const isThere = this.#model.hosted(name).acknowledged.size > 0;
      if (isThere && this.#model.maySee(asker, name) && !names.includes(name)) {
        throw new Error(`the catalog hides ${name} from ${asker}`);
      }
    }
  }

  /**
   * Once upstream refuses what is all that the asker has, nothing that it proved before counts any more: it asks for
   * something else of the repository first, so that the refusal is heard.
   */
  async afterRefusal(asker: Asker, repository: Mirrored): Promise<void> {
    const [attempt, ...others] = this.#model.attempts(asker, repository);
    if (attempt === undefined || others.length > 0 || this.#model.mayBeAway(repository.upstream)) return;
    // Who is lent Entrepot's own login is asked about by other requests than the one that is made here.
    const mayBeLent = repository.upstream === TWO && this.#model.isNobody(asker, repository);
    if (mayBeLent || this.#model.isGranted(attempt, repository)) return;
    const requests = this.#world.requestsOf(repository.upstream);
    const before = requests.length;
    this.#missing += 1;
    await this.mirrored({ asker, repository, path: `manifests/missing-${this.#missing}`, byLogin: true });
    const isHeard = requests
      .slice(before)
      .some(
        ({ kind, repository: name, status }) =>
          kind === 'manifest' && name === repository.name && status >= 400,
      );
    if (!isHeard) return;
    this.#model.ended(asker, repository);
    for (let count = 0; count < SOME; count += 1) {
      const path = this.#pathOf(this.#chance.pick([...CONTENTS.keys()]));
      await this.mirrored({ asker, repository, path, options: this.optionsFor(path) });
    }
  }

  /** Whoever may read nothing of a repository gets the same answers for what is there as for what is not. */
  async same(asker: Asker): Promise<void> {
    if (this.#chance.in(0.5)) return this.#sameHosted(asker, this.#chance.pick(HOSTED));
    const repository = this.#chance.pick(REPOSITORIES);
    if (this.#model.mayBeAway(repository.upstream)) return;
    this.#model.mayProve(asker, repository);
    if (this.#model.mayList(asker, repository) !== undefined) return;
    const known = this.#chance.pick([...CONTENTS.values()]);
    const unknown = randomBlob(known.size, `nowhere ${this.#chance.next()}`);
    const kind = isManifest(known.digest) ? 'manifests' : 'blobs';
    const place = `${this.#world.urlOf(this.anyServer())}/v2/${textOf(repository)}/${kind}`;
    for (const method of ['HEAD', 'GET']) {
      const heard: string[] = [];
      for (const { digest } of [known, unknown]) {
        const got = await get(`${place}/${digest}`, { method, headers: headersOf(asker) });
        this.#count(false, got);
        heard.push(bare(got, digest));
      }
      if (heard[0] !== heard[1]) throw new Error(`${asker} can tell what is in ${place}: ${heard.join(' ')}`);
    }
  }

  async #sameHosted(asker: Asker, name: string): Promise<void> {
    if (this.#model.maySee(asker, name)) return;
    const { digest } = this.#chance.pick([...CONTENTS.values()]);
    const url = this.#world.urlOf(this.anyServer());
    for (const path of [`blobs/${digest}`, 'manifests/v1', 'tags/list', `referrers/${digest}`]) {
      const heard: string[] = [];
      for (const one of [name, `${name}-nowhere`]) {
        const got = await get(`${url}/v2/${one}/${path}`, { headers: headersOf(asker) });
        this.#count(false, got);
        heard.push(bare(got, one));
      }
      if (heard[0] !== heard[1])
        throw new Error(`${asker} can tell ${name} from nothing: ${heard.join(' ')}`);
    }
  }

  /** What an upstream only claims to have is not served to anybody. */
  async affirming(asker: Asker): Promise<void> {
    const url = this.#world.urlOf(this.anyServer());
    for (let count = 0; count < SOME; count += 1) {
      const content = this.#chance.pick([...CONTENTS.values()]);
      const kind = this.#chance.pick(['blobs', 'manifests']);
      const options = this.optionsFor('blobs/');
      const headers = { ...options.headers, ...headersOf(asker) };
      const place = `${url}/v2/any/thing/${kind}/${content.digest}?ns=${AFFIRMING}`;
      const got = await get(place, { ...options, headers });
      this.#count(false, got);
      if (isServed(got) && isPartOf(content, got)) throw new Error(`${asker} ${place}: ${got.status}`);
    }
  }

  /** Sends what changes something that lives here. */
  async send(name: string, path: string, options: GetOptions = {}): Promise<Got> {
    const headers = { ...options.headers, ...headersOf(ownerOf(name)) };
    return get(`${this.#world.urlOf(0)}/v2/${name}/${path}`, { ...options, headers });
  }

  /** Everything that must be readable, from servers that were just started. */
  async expectRequired(): Promise<void> {
    for (const asker of ASKERS) {
      for (const repository of REPOSITORIES) {
        for (const digest of CONTENTS.keys()) {
          if (!this.#model.mustRead(asker, repository, digest)) continue;
          const path = `${isManifest(digest) ? 'manifests' : 'blobs'}/${digest}`;
          const got = await this.mirrored({ asker, repository, path, byLogin: true });
          this.#expectWhole(got, digest, `${asker}, ${textOf(repository)}`);
        }
      }
    }
    for (const name of HOSTED) {
      const { acknowledged, tags } = this.#model.hosted(name);
      const wanted = new Map([...acknowledged.values()].flat().map(digest => [digest, digest]));
      for (const [reference, digest] of [...wanted, ...tags]) {
        const got = await this.send(name, `${isManifest(digest) ? 'manifests' : 'blobs'}/${reference}`);
        this.#expectWhole(got, digest, name);
      }
    }
  }

  #expectWhole(got: Got, digest: string, where: string): void {
    this.counts.required += 1;
    if (got.status === 200 && got.complete && `sha256:${got.sha256}` === digest) return;
    throw new Error(`${where}: ${digest} is missing: ${got.status} ${got.text.slice(0, 300)}`);
  }

  anyServer(): number {
    return this.#chance.in(0.6) ? 0 : 1;
  }

  #count(mayRead: boolean, got: Got): void {
    this.counts.asks += 1;
    if (!mayRead) this.counts.forbidden += 1;
    if (isServed(got)) this.counts.served += 1;
  }

  /** By the login itself, by a token for it, or by one of an earlier time. */
  async #authorization(
    asker: Asker,
    repository: Mirrored,
    at: number,
    byLogin: boolean,
  ): Promise<Readonly<Record<string, string>>> {
    if (byLogin || asker === 'nobody' || this.#chance.in(0.5)) return headersOf(asker);
    const key = `${asker} ${textOf(repository)}`;
    let token = this.#tokens.get(key);
    if (token === undefined || this.#chance.in(0.5)) {
      const scope = `repository:${textOf(repository)}:pull`;
      const query = new URLSearchParams({ service: this.#world.host, scope });
      const url = `${this.#world.urlOf(at)}/token?${query.toString()}`;
      const got = await get(url, { headers: headersOf(asker) });
      if (got.status !== 200) return headersOf(asker);
      token = String(JSON.parse(got.text).token);
      this.#tokens.set(key, token);
    }
    return { authorization: `Bearer ${token}` };
  }
}

function headersOf(asker: Asker): Readonly<Record<string, string>> {
  return asker === 'nobody' ? {} : basic(LOGINS[asker]);
}

function isServed({ status }: Got): boolean {
  return status >= 200 && status < 300;
}

function digestIn(path: string): string | undefined {
  return /sha256:[0-9a-f]{64}/.exec(path)?.[0];
}

function expectType(types: ReadonlySet<string>, { headers }: Got, how: string): void {
  const type = headers['content-type'] ?? '';
  if (!types.has(type)) throw new Error(`${how}: of type ${type}, never ${[...types].join()}`);
}

function isPartOf(content: Content, { text, bytes }: Got): boolean {
  return bytes > 0 && bytesOf(content).toString().includes(text.slice(0, 20));
}

/** How long ago upstream has failed depends on when it was asked. */
const WAIT = /upstream is not asked again for \d+s: /g;

/** An answer, from the status line to the body, without what may differ from one request to the next. */
function bare({ status, phrase, headers, text }: Got, name: string): string {
  const { date: _date, 'retry-after': _wait, 'content-length': _length, ...others } = headers;
  return JSON.stringify([status, phrase, others, text]).replaceAll(name, 'NAME').replaceAll(WAIT, '');
}
