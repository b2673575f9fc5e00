// Random histories of an isolation world: after each step, everybody asks for anything. A seed repeats a history, except
// for what happens concurrently.
import { setTimeout as sleep } from 'node:timers/promises';
import { OCI_ARTIFACT_MANIFEST } from '../../src/oci/media-types.ts';
import { Chance } from './chance.ts';
import type { Got } from './client.ts';
import { bytesOf, type Content, type Image, readAs } from './content.ts';
import { type Counts, IsolationAsks } from './isolation-asks.ts';
import {
  ASKERS,
  HOSTED,
  type IsolationModel,
  type Login,
  type Mirrored,
  NAMES,
  OWN,
  ownerOf,
  TENANTS,
  type Tenant,
  textOf,
  USERS,
} from './isolation-model.ts';
import {
  ALL,
  CONTENTS,
  contentsOf,
  IMAGES,
  IsolationWorld,
  isUntyped,
  REPOSITORIES,
  TAGS,
  UPSTREAMS,
} from './isolation-world.ts';

/** How often each step is taken, next to the others. Commands and restarts take a second each. */
const WEIGHTS = {
  grant: 5,
  refuse: 5,
  publish: 4,
  close: 4,
  addImage: 4,
  withdraw: 2,
  pull: 8,
  storm: 5,
  importForAll: 2,
  importForTenant: 2,
  pullAsOperator: 1,
  pullForTenant: 2,
  push: 4,
  pushAsArtifact: 2,
  pushWithoutBlobs: 2,
  mount: 4,
  restart: 1,
  kill: 2,
  killWhilePulling: 1,
  moveClock: 2,
  lapse: 3,
  offline: 1,
  misbehave: 3,
  behave: 4,
  takeLogin: 1,
  giveLogin: 2,
  collect: 1,
  forget: 1,
  afterRefusal: 4,
  same: 4,
  affirming: 1,
} as const;
type Step = keyof typeof WEIGHTS;
const STEPS = Object.entries(WEIGHTS).flatMap(([step, weight]) => Array<Step>(weight).fill(step as Step));

const LOGIN_NAMES: readonly Login[] = [...USERS, OWN];
const HOUR_MS = 3_600_000;
const HOURS = [0.4, 0.7, 1.5, 3, 3, -0.5, -4];
const STORM_CLIENTS = 12;
const MAX_DELAY_MS = 60;
/** Of what happened before something was found. */
const LINES_SHOWN = 60;

export class IsolationHistory {
  readonly #world: IsolationWorld;
  readonly #model: IsolationModel;
  readonly #asks: IsolationAsks;
  readonly #chance: Chance;
  readonly #happened: string[] = [];

  private constructor(world: IsolationWorld, chance: Chance) {
    this.#world = world;
    this.#model = world.model;
    this.#chance = chance;
    this.#asks = new IsolationAsks(world, chance);
  }

  static async open(seed: number): Promise<IsolationHistory> {
    const chance = new Chance(seed);
    return new IsolationHistory(await IsolationWorld.open(chance), chance);
  }

  close(): Promise<void> {
    return this.#world.close();
  }

  get counts(): Readonly<Counts> {
    return this.#asks.counts;
  }

  async run(steps: number): Promise<void> {
    try {
      this.#begin();
      for (let count = 0; count < steps; count += 1) {
        await this.#take(this.#chance.pick(STEPS));
        await this.#asks.many();
      }
      for (const upstream of UPSTREAMS) this.#world.behave(upstream);
      for (const at of [0, 1]) await this.#world.kill(at);
      this.#model.forgetFailures();
      await this.#asks.expectRequired();
    } catch (cause) {
      const happened = this.#happened.slice(-LINES_SHOWN).join('\n');
      throw new Error(`${String(cause)}\nafter:\n${happened}`, { cause });
    }
  }

  /** Some of everything is granted and there. */
  #begin(): void {
    for (const repository of REPOSITORIES) {
      for (const login of LOGIN_NAMES) if (this.#chance.in(0.4)) this.#setGranted(login, repository, true);
      if (this.#chance.in(0.15)) this.#setGranted('*', repository, true);
      for (let count = 0; count < TAGS.length; count += 1) this.#addImage(repository);
    }
  }

  async #take(step: Step): Promise<void> {
    this.#note(step);
    this.#asks.counts.steps += 1;
    const repository = this.#chance.pick(REPOSITORIES);
    const upstream = this.#chance.pick(UPSTREAMS);
    const asker = this.#chance.pick(ASKERS);
    const tenant = this.#chance.pick(TENANTS);
    const name = this.#chance.pick(HOSTED);
    const image = this.#chance.pick(ALL);
    const at = this.#asks.anyServer();
    const steps: Readonly<Record<Step, () => Promise<void> | void>> = {
      grant: () => this.#setGranted(this.#chance.pick(LOGIN_NAMES), repository, true),
      refuse: () => this.#setGranted(this.#chance.pick(LOGIN_NAMES), repository, false),
      publish: () => this.#setGranted('*', repository, true),
      close: () => this.#setGranted('*', repository, false),
      addImage: () => this.#addImage(repository),
      withdraw: () => this.#world.withdraw(repository, image.manifest),
      pull: () => this.#asks.image(asker, repository, image, at),
      storm: () => this.#storm(repository, image),
      importForAll: () => this.#import('all', repository, image),
      importForTenant: () => this.#import(tenant, repository, image),
      pullAsOperator: () => this.#pull(undefined, repository),
      pullForTenant: () => this.#pull(tenant, repository),
      push: () => this.#push(name, this.#chance.pick(IMAGES)),
      pushAsArtifact: () => this.#pushAsArtifact(name, this.#chance.pick(IMAGES)),
      pushWithoutBlobs: () => this.#pushWithoutBlobs(name, this.#chance.pick(IMAGES)),
      mount: () => this.#mount(name, this.#chance.pick([...CONTENTS.values()])),
      restart: () => this.#world.restart(at),
      kill: () => this.#world.kill(at),
      killWhilePulling: () => this.#killWhilePulling(repository, at),
      moveClock: () => this.#moveClock(),
      lapse: () => this.#lapse(repository),
      offline: () => this.#offline(),
      misbehave: () => this.#note(`  ${upstream}: ${this.#world.misbehave(upstream, this.#chance)}`),
      behave: () => this.#world.behave(upstream),
      takeLogin: () => this.#changeLogin(tenant, false),
      giveLogin: () => this.#changeLogin(tenant, true),
      collect: () => this.#collect(),
      forget: () => this.#forget(repository),
      afterRefusal: () => this.#asks.afterRefusal(asker, repository),
      same: () => this.#asks.same(asker),
      affirming: () => this.#asks.affirming(asker),
    };
    await steps[step]();
  }

  #setGranted(login: Login | '*', repository: Mirrored, isGranted: boolean): void {
    this.#note(`  ${login}, ${textOf(repository)}`);
    this.#world.setGranted(login, repository, isGranted);
  }

  #addImage(repository: Mirrored): void {
    const [image, tag] = [this.#chance.pick(ALL), this.#chance.pick(TAGS)];
    this.#note(`  ${textOf(repository)}:${tag} is ${ALL.indexOf(image)}`);
    this.#world.addImage(repository, image, tag, this.#chance.in(0.3));
  }

  /** Many at once, while upstream changes its mind, or content comes or goes. */
  async #storm(repository: Mirrored, image: Image): Promise<void> {
    const change = this.#chance.pick<() => Promise<void> | void>([
      () => this.#setGranted(this.#chance.pick(LOGIN_NAMES), repository, this.#chance.in(0.5)),
      () => this.#setGranted('*', repository, this.#chance.in(0.5)),
      () => this.#addImage(repository),
      () => this.#import(this.#chance.pick(['all', ...TENANTS]), repository, image),
      () => this.#pull(this.#chance.pick(TENANTS), repository),
      () => this.#collect(),
    ]);
    const clients = Array.from({ length: STORM_CLIENTS }, () => this.#client(repository, image));
    await Promise.all([...clients, sleep(this.#chance.below(MAX_DELAY_MS)).then(change)]);
  }

  #client(repository: Mirrored, image: Image, at = this.#asks.anyServer()): Promise<void> {
    return this.#asks.image(this.#chance.pick(ASKERS), repository, image, at);
  }

  async #killWhilePulling(repository: Mirrored, at: number): Promise<void> {
    const clients = Array.from({ length: STORM_CLIENTS }, () =>
      this.#client(repository, this.#chance.pick(ALL), at),
    );
    await sleep(this.#chance.below(MAX_DELAY_MS));
    await this.#world.kill(at);
    await Promise.all(clients);
  }

  async #import(grantee: Tenant | 'all', repository: Mirrored, image: Image): Promise<void> {
    const tag = this.#chance.pick(TAGS);
    // Where the repository has its bytes as an artifact, that needs and brings nothing else.
    const types = this.#model.typesOf(repository, image.manifest.digest);
    if (types.has(OCI_ARTIFACT_MANIFEST)) return;
    this.#note(`  ${ALL.indexOf(image)} for ${grantee}, ${textOf(repository)}:${tag}`);
    this.#model.imported(grantee, repository, contentsOf(image), tag);
    const options = grantee === 'all' ? [] : ['--tenant', grantee];
    const file = await this.#world.bundleOf(repository, image, tag);
    const { code, stderr } = await this.#world.command('import', ...options, file);
    if (code !== 0) throw new Error(`import: ${stderr}`);
  }

  /** `entrepot pull`, whatever comes of it. */
  async #pull(tenant: Tenant | undefined, repository: Mirrored): Promise<void> {
    const image = `${textOf(repository)}:${this.#chance.pick(TAGS)}`;
    this.#note(`  ${tenant ?? 'operator'}, ${image}`);
    const asker = tenant === undefined ? 'operator' : ownerOf(tenant);
    this.#model.mayProve(asker, repository);
    await this.#world.command('pull', ...(tenant === undefined ? [] : ['--tenant', tenant]), image);
    this.#model.mayProve(asker, repository);
  }

  async #push(name: string, image: Image): Promise<void> {
    const tag = this.#chance.pick(TAGS);
    for (const blob of [image.config, ...image.layers]) {
      this.#model.mayBePushed(name, blob);
      const path = `blobs/uploads/?digest=${blob.digest}`;
      expectStatus(201, await this.#asks.send(name, path, { method: 'POST', body: bytesOf(blob) }), name);
    }
    expectStatus(201, await this.#putManifest(name, tag, image.manifest), name);
    this.#model.pushed(name, image.manifest, [image.config, ...image.layers], tag);
  }

  /** The known bytes of others, as a type that needs no blobs. */
  async #pushAsArtifact(name: string, image: Image): Promise<void> {
    if (!isUntyped(image)) return;
    const tag = this.#chance.pick(TAGS);
    const manifest = readAs(image.manifest, OCI_ARTIFACT_MANIFEST);
    expectStatus(201, await this.#putManifest(name, tag, manifest), name);
    this.#model.pushed(name, manifest, [], tag);
  }

  /** The same bytes as an image, without its blobs: they are not taken from other repositories. */
  async #pushWithoutBlobs(name: string, image: Image): Promise<void> {
    const { types } = this.#model.hosted(name);
    if ([image.config, ...image.layers].every(({ digest }) => types.has(digest))) return;
    const headers = { 'content-type': image.manifest.mediaType };
    const put = { method: 'PUT', headers, body: bytesOf(image.manifest) };
    const { status } = await this.#asks.send(name, 'manifests/without', put);
    if (status < 400) throw new Error(`${name} took a manifest without its blobs`);
  }

  #putManifest(name: string, tag: string, manifest: Content): Promise<Got> {
    this.#model.mayBePushed(name, manifest);
    const headers = { 'content-type': manifest.mediaType };
    const put = { method: 'PUT', headers, body: bytesOf(manifest) };
    return this.#asks.send(name, `manifests/${tag}`, put);
  }

  /** From a repository that the tenant may or may not read, and that may or may not have the blob. */
  async #mount(name: string, blob: Content): Promise<void> {
    const places = [...HOSTED, ...REPOSITORIES.map(textOf), ...NAMES];
    const from = this.#chance.in(0.2) ? undefined : this.#chance.pick(places);
    const path = `blobs/uploads/?mount=${blob.digest}${from === undefined ? '' : `&from=${from}`}`;
    const got = await this.#asks.send(name, path, { method: 'POST' });
    const source = from ?? name;
    const isHosted = HOSTED.some(one => one === source);
    if (got.status !== 201) {
      expectStatus(202, got, name);
      const upload = new URL(got.headers.location ?? '', this.#world.urlOf(0)).pathname;
      const left = await this.#asks.send(name, upload.replace(`/v2/${name}/`, ''), { method: 'DELETE' });
      expectStatus(204, left, name);
      return;
    }
    if (!isHosted || !this.#model.mayReadHosted(ownerOf(name), source, blob.digest)) {
      throw new Error(`${name} mounted ${blob.digest} from ${source}`);
    }
    this.#model.mayBePushed(name, blob);
  }

  async #moveClock(): Promise<void> {
    const hours = this.#chance.pick(HOURS);
    this.#note(`  ${hours} h`);
    await this.#world.moveClock(hours * HOUR_MS);
  }

  /** Upstream refuses everybody, and every proof becomes too old to count. */
  async #lapse(repository: Mirrored): Promise<void> {
    for (const login of [...LOGIN_NAMES, '*'] as const) this.#setGranted(login, repository, false);
    await this.#world.moveClock(3 * HOUR_MS);
    await this.#asks.again(repository);
  }

  async #offline(): Promise<void> {
    await this.#world.setOffline(true);
    await this.#asks.many();
    await this.#world.setOffline(false);
  }

  async #changeLogin(tenant: Tenant, isHeld: boolean): Promise<void> {
    const user = this.#chance.pick(USERS);
    if (this.#model.held[tenant].has(user) === isHeld) return;
    this.#note(`  ${user}, ${tenant}`);
    await (isHeld ? this.#world.giveLogin(tenant, user) : this.#world.takeLogin(tenant, user));
  }

  async #collect(): Promise<void> {
    await this.#world.command('gc', '--grace-period', '1h');
  }

  async #forget(repository: Mirrored): Promise<void> {
    this.#note(`  ${textOf(repository)}`);
    const { code } = await this.#world.command('rm', '--force', textOf(repository));
    if (code === 0) this.#model.forgotten(repository);
  }

  #note(line: string): void {
    this.#happened.push(line);
  }
}

function expectStatus(status: number, got: Got, where: string): void {
  if (got.status !== status) throw new Error(`${where}: ${got.status} and not ${status}: ${got.text}`);
}
