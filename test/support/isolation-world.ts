// Two servers on one store, upstreams whose repositories become public and private, tenants whose logins come and go, and
// a clock that is set forward and back. The model (`isolation-model.ts`) is told of every change.
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { pack } from 'tar-stream';
import { OCI_ARTIFACT_MANIFEST } from '../../src/oci/media-types.ts';
import type { Chance } from './chance.ts';
import { bytesOf, type Content, descriptorOf, type Image, imageOf, randomBlob, readAs } from './content.ts';
import { Entrepot, type EntrepotConfig } from './entrepot.ts';
import { FakeUpstream } from './fake-upstream.ts';
import {
  type Asker,
  IsolationModel,
  type Login as LoginName,
  type Mirrored,
  NAMES,
  ONE,
  OPEN_TO_ALL,
  OWN,
  ownerOf,
  TENANTS,
  type Tenant,
  textOf,
  TWO,
  USERS,
  type User,
  VERIFY_FOR_MS,
} from './isolation-model.ts';
import { soonLogsIn, soonRefused } from './logins.ts';
import { freePort, type RunResult } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';
import { type Login, secretManifest } from './tenants.ts';

/** Claims to have every digest, and sends other bytes of the right size. */
export const AFFIRMING = 'yes.example';
export const UPSTREAMS = [ONE, TWO] as const;
export const REPOSITORIES: readonly Mirrored[] = UPSTREAMS.flatMap(upstream =>
  NAMES.map(name => ({ upstream, name })),
);
export const TAGS = ['v1', 'v2', 'latest'] as const;

export const LOGINS: Readonly<Record<Exclude<Asker, 'nobody'>, Login>> = {
  alice: ['alice', 'alice-upstream'],
  bob: ['bob', 'bob-upstream'],
  dora: ['dora', 'dora-upstream'],
  a: ['robot-a', 'password-of-a'],
  b: ['robot-b', 'password-of-b'],
  c: ['robot-c', 'password-of-c'],
};

const LAYERS = [120, 900, 4_000, 20_000, 70_000, 300_000].map((size, at) =>
  randomBlob(size, `isolated ${at}`),
);
/** They share layers. Every other one does not say of which type it is. */
export const IMAGES: readonly Image[] = [[1], [1, 2], [0, 3], [2, 4], [4, 5], [3, 5]].map((layers, at) =>
  imageOf(
    layers.flatMap(one => LAYERS[one] ?? []),
    at % 2 === 0 ? { isUntyped: true } : { annotations: { image: String(at) } },
  ),
);
/** Attached to the first images. */
const SIGNATURES = IMAGES.slice(0, 2).map((image, at) =>
  imageOf([randomBlob(600, `signature ${at}`)], { subject: image.manifest, artifactType: 'test/signature' }),
);
export const ALL: readonly Image[] = [...IMAGES, ...SIGNATURES];
export const CONTENTS: ReadonlyMap<string, Content> = new Map(
  ALL.flatMap(contentsOf).map(one => [one.digest, one]),
);

const PAGE = `<html>${'please log in '.repeat(50)}</html>`;
const JSON_PAGE = JSON.stringify({ maintenance: 'x'.repeat(400) });
const HTML = { 'Content-Type': 'text/html' };
const JSON_TYPE = { 'Content-Type': 'application/json' };
/** Weak answers, wrong ones and none. */
const MISBEHAVIOURS = [
  { status: 200, headers: HTML, body: PAGE },
  { status: 200, headers: JSON_TYPE, body: JSON_PAGE },
  { status: 200 },
  { kind: 'manifest', status: 200, headers: JSON_TYPE, body: '{}' },
  { kind: 'blob', method: 'HEAD', status: 200 },
  { kind: 'blob', redirectTo: '/token' },
  { kind: 'blob', corruptByte: 5 },
  { kind: 'blob', cutAtByte: 50 },
  { kind: 'blob', spaces: 900 },
  { status: 503 },
  { status: 429 },
  { reset: true },
] as const;

/** A clock that a file sets: what `date --set` does, to these processes and their threads alone. */
const CLOCK = `import { readFileSync } from 'node:fs';
const Real = Date;
let offset = 0;
let readAt = -Infinity;
const now = () => {
  if (performance.now() - readAt > 20) {
    readAt = performance.now();
    offset = Number(readFileSync(process.env.CLOCK_OFFSET_FILE, 'utf8'));
  }
  return Real.now() + offset;
};
globalThis.Date = class Date extends Real {
  constructor(...args) {
    if (args.length === 0) super(now());
    else super(...args);
  }
  static now() {
    return now();
  }
};
`;
/** Until every process has read it. */
const CLOCK_MS = 50;
/** Until the servers have noticed that one of several tenants has lost a Secret, which no request can show. */
const SECRET_MS = 3_000;

interface FakeRegistry {
  readonly fake: FakeUpstream;
  readonly users: Record<string, { readonly password: string; readonly repositories: string[] }>;
  readonly public: string[];
}

export class IsolationWorld {
  readonly model = new IsolationModel();
  readonly host: string;
  readonly #registries: ReadonlyMap<string, FakeRegistry>;
  readonly #affirming: Server;
  readonly #folder: string;
  readonly #servers: Entrepot[] = [];
  #config: EntrepotConfig = {};
  #bundles = 0;

  private constructor(
    parts: { registries: ReadonlyMap<string, FakeRegistry>; affirming: Server },
    folder: string,
    host: string,
  ) {
    this.host = host;
    this.#registries = parts.registries;
    this.#affirming = parts.affirming;
    this.#folder = folder;
  }

  static async open(chance: Chance): Promise<IsolationWorld> {
    const registries = new Map<string, FakeRegistry>();
    for (const upstream of UPSTREAMS) registries.set(upstream, await startRegistry(upstream, chance));
    const affirming = await startAffirming();
    const host = `127.0.0.1:${await freePort()}`;
    const folder = await makeTempFolder('isolation');
    const world = new IsolationWorld({ registries, affirming }, folder, host);
    await world.#start();
    return world;
  }

  async #start(): Promise<void> {
    const inFolder = (name: string) => join(this.#folder, name);
    await writeFile(inFolder('clock.mjs'), CLOCK);
    await writeFile(inFolder('clock'), '0');
    await writeFile(inFolder('own'), passwordOf(OWN));
    for (const tenant of TENANTS) {
      await mkdir(inFolder(tenant));
      for (const of of ['own', ...this.model.held[tenant]] as const) await this.#putSecret(tenant, of);
    }
    const address = this.#affirming.address();
    if (address === null || typeof address === 'string') throw new Error('expected a port');
    this.#config = {
      upstreams: {
        [ONE]: { url: this.#registry(ONE).fake.url, freshFor: '0s' },
        [TWO]: {
          url: this.#registry(TWO).fake.url,
          credentials: { username: OWN, passwordFile: inFolder('own') },
          repositories: [{ match: OPEN_TO_ALL, openToAll: true }],
        },
        [AFFIRMING]: { url: `http://127.0.0.1:${address.port}` },
      },
      tenants: TENANTS.map(name => ({ name, secrets: inFolder(name) })),
      hosted: { shared: ['team-a/base'] },
      verifyFor: `${VERIFY_FOR_MS}ms`,
      staleGrantFor: `${VERIFY_FOR_MS}ms`,
      storage: { path: inFolder('store') },
      server: { serverNames: [this.host] },
    };
    const env = {
      NODE_OPTIONS: `--import=${inFolder('clock.mjs')}`,
      CLOCK_OFFSET_FILE: inFolder('clock'),
    };
    const commandsWithin = ['env', ...Object.entries(env).map(([name, value]) => `${name}=${value}`)];
    for (const listen of [this.host, `127.0.0.1:${await freePort()}`]) {
      const config = { ...this.#config, server: { ...this.#config.server, listen } };
      this.#servers.push(await Entrepot.start(config, { env, commandsWithin }));
    }
  }

  async close(): Promise<void> {
    for (const server of this.#servers) await server.remove();
    for (const { fake } of this.#registries.values()) await fake.stop();
    this.#affirming.closeAllConnections();
    this.#affirming.close();
    await removeFolder(this.#folder);
  }

  // Upstream.

  setGranted(user: User | typeof OWN | '*', repository: Mirrored, isGranted: boolean): void {
    const { upstream, name } = repository;
    const registry = this.#registry(upstream);
    const names = user === '*' ? registry.public : registry.users[user]?.repositories;
    if (names === undefined) throw new Error(`no ${user}`);
    this.model.setGranted(user, repository, isGranted);
    if (isGranted && !names.includes(name)) names.push(name);
    if (isGranted) return;
    if (names.includes(name)) names.splice(names.indexOf(name), 1);
    registry.fake.revokeTokens();
  }

  /** `asArtifact`: where the repository has not had it yet, it may have the bytes as another type than the rest. */
  addImage(repository: Mirrored, image: Image, tag: string, asArtifact: boolean): void {
    const [known] = this.model.typesOf(repository, image.manifest.digest);
    const other = asArtifact && isUntyped(image) ? OCI_ARTIFACT_MANIFEST : image.manifest.mediaType;
    const manifest = readAs(image.manifest, known ?? other);
    this.#registry(repository.upstream).fake.add(repository.name, { ...image, manifest }, tag);
    this.model.added(repository, [manifest, image.config, ...image.layers], tag);
  }

  withdraw(repository: Mirrored, { digest }: Content): void {
    this.#registry(repository.upstream).fake.remove(repository.name, digest);
    this.model.withdrawn(repository, digest);
  }

  /** What it answers from now on. */
  misbehave(upstream: string, chance: Chance): string {
    const way = chance.pick(MISBEHAVIOURS);
    this.model.setMisbehaving(upstream, true);
    this.#registry(upstream).fake.misbehave(way);
    return JSON.stringify(way).slice(0, 80);
  }

  /** Of the upstreams, as only operators know them. */
  get hosts(): readonly string[] {
    return [...this.#registries.values()].map(({ fake }) => new URL(fake.url).host);
  }

  behave(upstream: string): void {
    this.#registry(upstream).fake.behave();
    this.model.setMisbehaving(upstream, false);
  }

  requestsOf(upstream: string): FakeUpstream['requests'] {
    return this.#registry(upstream).fake.requests;
  }

  #registry(upstream: string): FakeRegistry {
    const registry = this.#registries.get(upstream);
    if (registry === undefined) throw new Error(`no ${upstream}`);
    return registry;
  }

  // The servers and their clock.

  urlOf(at: number): string {
    const server = this.#servers[at];
    if (server === undefined) throw new Error(`no server ${at}`);
    return server.url;
  }

  command(...args: string[]): Promise<RunResult> {
    return this.#servers[0]!.spawnCommand(...args);
  }

  async restart(at: number): Promise<void> {
    await this.#servers[at]!.stop();
    await this.#startAgain(at);
  }

  async kill(at: number): Promise<void> {
    await this.#servers[at]!.kill();
    await this.#startAgain(at);
  }

  async #startAgain(at: number): Promise<void> {
    const server = this.#servers[at]!;
    const config = { ...this.#config, server: { ...this.#config.server, listen: server.host } };
    this.#servers[at] = await server.startAgain({ ...config, offline: this.model.isOffline });
  }

  async setOffline(isOffline: boolean): Promise<void> {
    this.model.isOffline = isOffline;
    for (const at of this.#servers.keys()) await this.restart(at);
  }

  async moveClock(byMs: number): Promise<void> {
    this.model.clockOffsetMs += byMs;
    await writeFile(join(this.#folder, 'clock'), String(this.model.clockOffsetMs));
    await sleep(CLOCK_MS);
  }

  // Tenants.

  async giveLogin(tenant: Tenant, user: User): Promise<void> {
    this.model.hold(tenant, user, true);
    await this.#putSecret(tenant, user);
    for (const server of this.#servers) await soonLogsIn(LOGINS[user], server);
  }

  async takeLogin(tenant: Tenant, user: User): Promise<void> {
    await rm(join(this.#folder, tenant, `${user}.json`));
    const isElsewhere = TENANTS.some(one => one !== tenant && this.model.held[one].has(user));
    if (isElsewhere) await sleep(SECRET_MS);
    else for (const server of this.#servers) await soonRefused(LOGINS[user], server);
    this.model.hold(tenant, user, false);
  }

  /** A tenant's folder of Secrets has one for each login. */
  async #putSecret(tenant: Tenant, of: 'own' | User): Promise<void> {
    const login = LOGINS[of === 'own' ? ownerOf(tenant) : of];
    const servers = of === 'own' ? [this.host] : UPSTREAMS.filter(one => this.model.isFor(of, one));
    const logins = Object.fromEntries(servers.map(server => [server, login]));
    const file = join(this.#folder, tenant, `${of}.json`);
    await writeFile(`${file}.new`, secretManifest(of, logins));
    await rename(`${file}.new`, file);
  }

  /** An image layout in a tar. */
  async bundleOf(repository: Mirrored, image: Image, tag: string): Promise<string> {
    this.#bundles += 1;
    const file = join(this.#folder, `bundle-${this.#bundles}.tar`);
    const annotations = { 'org.opencontainers.image.ref.name': `${textOf(repository)}:${tag}` };
    const manifests = [{ ...descriptorOf(image.manifest), annotations }];
    const tar = pack();
    tar.entry({ name: 'oci-layout' }, '{"imageLayoutVersion":"1.0.0"}');
    tar.entry({ name: 'index.json' }, JSON.stringify({ schemaVersion: 2, manifests }));
    for (const content of contentsOf(image)) {
      tar.entry({ name: `blobs/sha256/${content.digest.replace('sha256:', '')}` }, bytesOf(content));
    }
    tar.finalize();
    await writeFile(file, Readable.from(tar));
    return file;
  }
}

async function startRegistry(upstream: string, chance: Chance): Promise<FakeRegistry> {
  const open: string[] = [];
  const names: readonly LoginName[] = [...USERS, OWN];
  const users = Object.fromEntries(
    names.map(name => [name, { password: passwordOf(name), repositories: [] as string[] }]),
  );
  const fake = await FakeUpstream.start({
    auth: {
      scheme: upstream === ONE ? 'bearer' : 'basic',
      users,
      public: open,
      denial: chance.pick([401, 403, 404] as const),
      tokenDenial: chance.pick(['empty', 401, 403] as const),
    },
  });
  return { fake, users, public: open };
}

async function startAffirming(): Promise<Server> {
  const server = createServer((request, response) => {
    const digest = decodeURIComponent(request.url?.split('/').at(-1)?.split('?')[0] ?? '');
    const body = Buffer.alloc(CONTENTS.get(digest)?.size ?? 9, 'x');
    const headers = { 'content-type': 'application/octet-stream', 'docker-content-digest': digest };
    response.writeHead(200, { ...headers, 'content-length': body.length });
    response.end(request.method === 'HEAD' ? undefined : body);
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  return server;
}

function passwordOf(login: LoginName): string {
  return login === OWN ? 'mirror-upstream' : LOGINS[login][1];
}

export function contentsOf({ manifest, config, layers }: Image): readonly Content[] {
  return [manifest, config, ...layers];
}

export function isManifest(digest: string): boolean {
  return ALL.some(({ manifest }) => manifest.digest === digest);
}

/** Whether its bytes may be read as more than one type. */
export function isUntyped({ manifest }: Image): boolean {
  return !bytesOf(manifest).includes('"mediaType": "application/vnd.oci.image.manifest');
}
