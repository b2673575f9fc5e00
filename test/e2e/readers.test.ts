// Who may read what, whoever brought it: every pair of ways in which the same content comes into one mirrored repository
// and two hosted ones, and everybody who may ask, before, while and after it comes, against one small model.
import { existsSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import { Agent, createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OCI_ARTIFACT_MANIFEST, OCI_MANIFEST } from '../../src/oci/media-types.ts';
import { get, type GetOptions, type Got } from '../support/client.ts';
import {
  bytesOf,
  type Content,
  descriptorOf,
  type Image,
  imageOf,
  indexOf,
  randomBlob,
} from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { freePort, until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { basic, type Login, writeSecret } from '../support/tenants.ts';

const UP = 'up.example';

/** Says of every digest that it has it, and sends something else. */
const AFFIRMING = 'yes.example';

const LOGINS: Readonly<Record<Asker, Login | undefined>> = {
  nobody: undefined,
  /** What upstream takes, from the Secrets of team-a. */
  alice: ['alice', 'alice-upstream'],
  /** The login of team-a here. */
  ofA: ['a', 'password-of-a'],
  /** What upstream knows and gives nothing to, from the Secrets of team-b. */
  bob: ['bob', 'bob-upstream'],
  /** The login of team-c here, which has nothing upstream. */
  ofC: ['c', 'password-of-c'],
};
type Asker = 'nobody' | 'alice' | 'ofA' | 'bob' | 'ofC';
const ASKERS = ['nobody', 'alice', 'ofA', 'bob', 'ofC'] as const;

/** How an image came into its repository. */
type Way = Pull | Import | Push;
type Pull = (typeof PULLS)[number];
type Import = (typeof IMPORTS)[number];
type Push = (typeof PUSHES)[number];
const PULLS = ['pull', 'pullForA', 'pullByAnotherProcess'] as const;
const IMPORTS = ['importForAll', 'importForA', 'importForC'] as const;
/** `pushAsArtifact`: the bytes of the manifest alone, as a type that names none of its blobs. */
const PUSHES = ['push', 'pushByAnotherProcess', 'mount', 'pushAsArtifact'] as const;
const WAYS = [...PULLS, ...IMPORTS, ...PUSHES];
const PAIRS = WAYS.flatMap(first => WAYS.map(second => [first, second] as const)).filter(
  pair => !pair.every(way => isAnyOf(PULLS, way)),
);

function isAnyOf(ways: readonly Way[], way: Way): boolean {
  return ways.includes(way);
}

/** Where the images of a pair come to: the mirrored repository, team-c's, or team-a's. */
const PLACES = ['acme', 'team-c', 'team-a'] as const;
type Place = (typeof PLACES)[number];

function placeOf(way: Way): Place {
  if (way === 'pushAsArtifact') return 'team-a';
  return isAnyOf(PUSHES, way) ? 'team-c' : 'acme';
}

interface Brought {
  readonly tag: string;
  readonly image: Image;
}

/**
 * The model. Of the mirrored repository upstream lets alice have everything, and an import opens to whom it was made what
 * it brought. A hosted one is its owner's, and has what was pushed or mounted there; a list of referrers, if only an empty one.
 */
function mayRead(asker: Asker, place: Place, path: string, broughtBy: readonly Way[]): boolean {
  const isOfBlob = path.startsWith('blobs/');
  if (place !== 'acme') {
    if (asker !== (place === 'team-a' ? 'ofA' : 'ofC')) return false;
    const isHere = broughtBy.some(way => placeOf(way) === place);
    return path.startsWith('referrers/') || (isHere && !(isOfBlob && place === 'team-a'));
  }
  if (asker === 'alice' || asker === 'ofA') return true;
  return broughtBy.includes('importForAll') || (asker === 'ofC' && broughtBy.includes('importForC'));
}

/** What a repository reads the manifests as. */
function mediaTypeIn(place: Place): string {
  return place === 'team-a' ? OCI_ARTIFACT_MANIFEST : OCI_MANIFEST;
}

/** Every way to ask for an image, with the content that is asked for. */
function asksOf({ tag, image }: Brought): readonly (readonly [string, Content, GetOptions])[] {
  const { manifest, config, layers } = image;
  const own = layers.at(-1)!;
  return [
    [`manifests/${tag}`, manifest, {}],
    [`manifests/${tag}`, manifest, { method: 'HEAD' }],
    [`manifests/${manifest.digest}`, manifest, {}],
    [`manifests/${manifest.digest}`, manifest, { method: 'HEAD' }],
    [`referrers/${manifest.digest}`, manifest, {}],
    ...[config, ...layers].map(blob => [`blobs/${blob.digest}`, blob, {}] as const),
    [`blobs/${own.digest}`, own, { method: 'HEAD' }],
    [`blobs/${own.digest}`, own, { headers: { range: 'bytes=3-9' } }],
  ];
}

// Tens of thousands of questions.
const agent = new Agent({ keepAlive: true });

let upstream: FakeUpstream;
let affirming: Server;
let folder: string;
let entrepot: Entrepot;
let another: Entrepot;
const sizes = new Map<string, number>();

beforeAll(async () => {
  const repositories = [...PAIRS.map((_, at) => `acme/pair${at}`), 'acme/index'];
  const users = {
    alice: { password: LOGINS.alice![1], repositories },
    bob: { password: LOGINS.bob![1], repositories: [] },
  };
  upstream = await FakeUpstream.start({ auth: { scheme: 'bearer', users } });
  affirming = createServer((request, response) => {
    const digest = decodeURIComponent(request.url?.split('/').at(-1)?.split('?')[0] ?? '');
    const body = Buffer.alloc(sizes.get(digest) ?? 9, 'x');
    response.writeHead(200, {
      'content-type': 'application/octet-stream',
      'content-length': body.length,
      'docker-content-digest': digest,
    });
    response.end(request.method === 'HEAD' ? undefined : body);
  });
  await new Promise<void>(resolve => affirming.listen(0, '127.0.0.1', resolve));
  const address = affirming.address();
  if (address === null || typeof address === 'string') throw new Error('expected a port');

  folder = await makeTempFolder('readers');
  const host = `127.0.0.1:${await freePort()}`;
  const server = { serverNames: [host] };
  await writeSecret(join(folder, 'a.json'), { [host]: LOGINS.ofA!, [UP]: LOGINS.alice! });
  await writeSecret(join(folder, 'b.json'), { [UP]: LOGINS.bob! });
  await writeSecret(join(folder, 'c.json'), { [host]: LOGINS.ofC! });
  const config = {
    upstreams: {
      [UP]: { url: upstream.url, freshFor: 'forever' },
      [AFFIRMING]: { url: `http://127.0.0.1:${address.port}` },
    },
    tenants: ['a', 'b', 'c'].map(name => ({ name: `team-${name}`, secrets: join(folder, `${name}.json`) })),
    storage: { path: join(folder, 'shared') },
    log: { level: 'warn' },
  };
  entrepot = await Entrepot.start({ ...config, server: { ...server, listen: host } });
  another = await Entrepot.start({ ...config, server });
});

afterAll(async () => {
  agent.destroy();
  await another.remove();
  await entrepot.remove();
  await upstream.stop();
  affirming.closeAllConnections();
  affirming.close();
  await removeFolder(folder);
});

async function ask(asker: Asker, repository: string, path: string, options: GetOptions = {}): Promise<Got> {
  const login = LOGINS[asker];
  const headers = { ...options.headers, ...(login === undefined ? {} : basic(login)) };
  const query = repository.startsWith('acme/') ? `?ns=${UP}` : '';
  return get(`${entrepot.url}/v2/${repository}/${path}${query}`, { agent, ...options, headers });
}

/** What of its images is in a repository by which ways. */
type WaysOf = (content: Content) => readonly Way[];

/** Asks in every way, as everybody, for what came by the ways that `waysOf` says. Names each answer that is not the model's. */
async function differences(
  repository: string,
  brought: Brought,
  waysOf: WaysOf,
  askers: readonly Asker[] = ASKERS,
): Promise<readonly string[]> {
  const place = PLACES.find(each => repository.startsWith(`${each}/`))!;
  const found: string[] = [];
  for (const asker of askers) {
    for (const [path, content, options] of asksOf(brought)) {
      const { status, headers } = await ask(asker, repository, path, options);
      const isServed = status === 200 || status === 206;
      const question = `${asker} ${options.method ?? 'GET'} ${repository}/${path}`;
      if (isServed !== mayRead(asker, place, path, waysOf(content))) found.push(`${question}: ${status}`);
      const type = headers['content-type'];
      if (isServed && path.startsWith('manifests/') && type !== mediaTypeIn(place))
        found.push(`${question}: ${type}`);
    }
  }
  return found;
}

const COMMANDS: Readonly<Record<Import | 'pullForA', readonly string[]>> = {
  pullForA: ['pull', '--tenant', 'team-a'],
  importForAll: ['import'],
  importForA: ['import', '--tenant', 'team-a'],
  importForC: ['import', '--tenant', 'team-c'],
};

async function bring(way: Way, repository: string, brought: Brought): Promise<void> {
  const name = `${UP}/${repository}:${brought.tag}`;
  switch (way) {
    case 'pull':
      return pull(entrepot, repository, brought);
    case 'pullByAnotherProcess':
      return pull(another, repository, brought);
    case 'pullForA':
      return run(way, name);
    case 'importForAll':
    case 'importForA':
    case 'importForC':
      return run(way, await bundleOf(name, [brought.image], brought.image.manifest));
    case 'push':
      return push(entrepot, 'ofC', repository, brought);
    case 'pushByAnotherProcess':
      return push(another, 'ofC', repository, brought);
    case 'mount':
      await push(entrepot, 'ofC', `${repository}/source`, brought);
      return push(entrepot, 'ofC', repository, brought, `${repository}/source`);
    case 'pushAsArtifact':
      return push(entrepot, 'ofA', repository, brought);
  }
}

async function run(way: Import | 'pullForA', what: string): Promise<void> {
  const { code, stderr } = await entrepot.command(...COMMANDS[way], what);
  if (code !== 0) throw new Error(`${way}: ${stderr}`);
}

async function pull({ url }: Entrepot, repository: string, { tag, image }: Brought): Promise<void> {
  const headers = basic(LOGINS.alice!);
  const blobs = [image.config, ...image.layers].map(({ digest }) => `blobs/${digest}`);
  for (const path of [`manifests/${tag}`, ...blobs]) {
    const got = await get(`${url}/v2/${repository}/${path}?ns=${UP}`, { headers });
    if (got.status !== 200 || !got.complete) throw new Error(`pull: ${path}: ${got.status} ${got.text}`);
  }
}

/** `from`: where the blobs are mounted from. */
async function push(
  { url }: Entrepot,
  owner: 'ofA' | 'ofC',
  repository: string,
  { tag, image }: Brought,
  from?: string,
): Promise<void> {
  const send = async (method: string, path: string, mediaType: string, body: string | Uint8Array) => {
    const headers = { ...basic(LOGINS[owner]!), 'content-type': mediaType };
    const got = await get(`${url}/v2/${repository}/${path}`, { method, headers, body });
    if (got.status !== 201) throw new Error(`${method} ${repository}/${path}: ${got.status} ${got.text}`);
  };
  for (const blob of owner === 'ofC' ? [image.config, ...image.layers] : []) {
    const query = from === undefined ? `digest=${blob.digest}` : `mount=${blob.digest}&from=${from}`;
    const body = from === undefined ? bytesOf(blob) : '';
    await send('POST', `blobs/uploads/?${query}`, 'application/octet-stream', body);
  }
  const mediaType = owner === 'ofA' ? OCI_ARTIFACT_MANIFEST : OCI_MANIFEST;
  await send('PUT', `manifests/${tag}`, mediaType, bytesOf(image.manifest));
}

/** An image layout in a tar, of an image or an index with some of its children. */
async function bundleOf(name: string, images: readonly Image[], root: Content): Promise<string> {
  const file = join(folder, `${name.replaceAll(/\W/g, '-')}.tar`);
  const entry = { ...descriptorOf(root), annotations: { 'org.opencontainers.image.ref.name': name } };
  const tar = pack();
  tar.entry({ name: 'oci-layout' }, '{"imageLayoutVersion":"1.0.0"}');
  tar.entry({ name: 'index.json' }, JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
  const contents = [root, ...images.flatMap(image => [image.manifest, image.config, ...image.layers])];
  for (const content of new Map(contents.map(one => [one.digest, one])).values()) {
    tar.entry({ name: `blobs/sha256/${content.digest.replace('sha256:', '')}` }, bytesOf(content));
  }
  tar.finalize();
  await writeFile(file, Readable.from(tar));
  return file;
}

/** Two images of one repository with a layer and the config in common, whose manifests do not say what they are. */
function pairOf(at: number): readonly [Brought, Brought] {
  const shared = randomBlob(5_000, `shared ${at}`);
  const brought = ['first', 'second'].map(tag => {
    const image = imageOf([shared, randomBlob(70_000, `${tag} ${at}`)], {
      annotations: { of: `${tag} ${at}` },
      isUntyped: true,
    });
    upstream.add(`acme/pair${at}`, image, tag);
    for (const { digest, size } of [image.manifest, image.config, ...image.layers]) sizes.set(digest, size);
    return { tag, image };
  });
  return [brought[0]!, brought[1]!];
}

const blobFile = ({ digest }: Content): string => {
  const hex = digest.replace('sha256:', '');
  return join(folder, 'shared', 'blobs', 'sha256', hex.slice(0, 2), hex);
};

/** Asks for all of it while the files of its blobs are missing for a moment. */
async function askWithoutFiles(
  repository: string,
  brought: Brought,
  askers: readonly Asker[],
): Promise<void> {
  const { config, layers } = brought.image;
  const files = [config, ...layers].map(blobFile).filter(file => existsSync(file));
  for (const file of files) await rename(file, `${file}.away`);
  for (const asker of askers) {
    for (const [path, , options] of asksOf(brought)) await ask(asker, repository, path, options);
  }
  for (const file of files) await rename(`${file}.away`, file);
}

const STORED_WITHIN_MS = 30_000;

/** Everybody joins a download of a blob whose file was lost. */
async function joinDownload(repository: string, blob: Content, waysOf: WaysOf): Promise<readonly string[]> {
  await rm(blobFile(blob), { force: true });
  const end = upstream.misbehave({ kind: 'blob', reference: blob.digest, bytesPerS: 4 * blob.size });
  const path = `blobs/${blob.digest}`;
  let begun: (() => void) | undefined;
  const hasBegun = new Promise<void>(resolve => (begun = resolve));
  const first = ask('alice', repository, path, { onFirstByte: () => begun?.() }).finally(() => begun?.());
  await hasBegun;
  const statuses = await Promise.all(
    // Those whom an import lets in first: nobody else is to be let in by their right.
    (['ofC', 'nobody', 'bob', 'ofA'] as const).map(
      async asker => [asker, (await ask(asker, repository, path)).status] as const,
    ),
  );
  end();
  const all = [...statuses, ['alice', (await first).status] as const];
  // Readers have it before it is stored.
  await until('the blob to be stored', STORED_WITHIN_MS, async () => existsSync(blobFile(blob)));
  return all
    .filter(([asker, status]) => (status === 200) !== mayRead(asker, 'acme', path, waysOf(blob)))
    .map(([asker, status]) => `${asker} joins ${repository}/${path}: ${status}`);
}

/** Of each pair, whether strangers still read what the model lets. */
const checks: (() => Promise<readonly string[]>)[] = [];

describe('content', () => {
  it.each(PAIRS.map((pair, at) => [...pair, at] as const))(
    'that comes by %s, then by %s, is read by exactly those that the model allows, before, meanwhile and afterwards',
    async (firstWay, secondWay, at) => {
      const [first, second] = pairOf(at);
      const [firstPlace, secondPlace] = [firstWay, secondWay].map(way => `${placeOf(way)}/pair${at}`);
      const places = [...new Set([firstPlace!, secondPlace!])];
      const isIn = ({ digest }: Content, { image }: Brought) =>
        [image.manifest, image.config, ...image.layers].some(one => one.digest === digest);
      const afterFirst: WaysOf = content => (isIn(content, first) ? [firstWay] : []);
      const afterBoth: WaysOf = content => [
        ...afterFirst(content),
        ...(isIn(content, brought) ? [secondWay] : []),
      ];
      // Where both come into one repository, one brings another image than the other; else both bring the same.
      const brought = places.length === 1 ? second : first;
      const strangers = ['nobody', 'bob', 'ofC'] as const;
      for (const place of places) {
        expect(await differences(place, first, () => [], strangers)).toEqual([]);
      }

      await bring(firstWay, firstPlace!, first);
      for (const place of places) expect(await differences(place, first, afterFirst)).toEqual([]);
      expect(await differences(secondPlace!, second, afterFirst, strangers)).toEqual([]);

      const under = { way: true };
      const bringing = bring(secondWay, secondPlace!, brought).finally(() => void (under.way = false));
      const meanwhile: string[] = [];
      while (under.way) {
        for (const asker of strangers) {
          for (const [path, content, options] of asksOf(brought)) {
            const { status } = await ask(asker, secondPlace!, path, options);
            const mayBeServed = mayRead(asker, placeOf(secondWay), path, afterBoth(content));
            if (!mayBeServed && status < 400) meanwhile.push(`${asker} ${path}: ${status}`);
          }
        }
      }
      await bringing;
      expect(meanwhile).toEqual([]);

      const check = async (askers: readonly Asker[] = ASKERS) => {
        const found: string[] = [];
        for (const place of places) {
          for (const one of new Set([first, brought])) {
            found.push(...(await differences(place, one, afterBoth, askers)));
          }
        }
        return found;
      };
      expect(await check()).toEqual([]);
      for (const place of places) await askWithoutFiles(place, brought, ['nobody', 'bob']);
      for (const place of places.filter(each => each.startsWith('acme/'))) {
        expect(await joinDownload(place, brought.image.layers.at(-1)!, afterBoth)).toEqual([]);
      }
      // Neither has given anybody a right.
      expect(await check()).toEqual([]);
      checks.push(() => check(['nobody', 'ofC']));
    },
  );

  it('is served from no other upstream that only claims to have it', async () => {
    // What the tests of pairs above have brought.
    expect(sizes.size).toBeGreaterThan(0);
    for (const digest of sizes.keys()) {
      for (const kind of ['blobs', 'manifests']) {
        for (const method of ['HEAD', 'GET']) {
          const url = `${entrepot.url}/v2/any/thing/${kind}/${digest}?ns=${AFFIRMING}`;
          const got = await get(url, { method, agent });
          const isGiven =
            got.complete && got.status === 200 && method === 'GET' && `sha256:${got.sha256}` === digest;
          expect({ kind, method, isGiven }).toEqual({ kind, method, isGiven: false });
        }
      }
    }
    for (const check of checks) expect(await check()).toEqual([]);
  });

  it('is not served to somebody for having pushed the same bytes to a repository of their own', async () => {
    const [stolen] = pairOf(
      PAIRS.findIndex(([first, second]) => first === 'pull' && second === 'importForA'),
    );
    const repository = `acme/pair${PAIRS.findIndex(([first, second]) => first === 'pull' && second === 'importForA')}`;
    const layer = stolen.image.layers[1]!;
    const headers = basic(LOGINS.ofC!);
    const pushed = await get(`${entrepot.url}/v2/team-c/own/blobs/uploads/?digest=${layer.digest}`, {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/octet-stream' },
      body: bytesOf(layer),
    });
    expect(pushed.status).toBe(201);
    const url = (name: string) => `${entrepot.url}/v2/${name}/blobs/${layer.digest}`;
    expect((await get(url('team-c/own'), { headers })).sha256).toBe(layer.digest.slice(7));
    expect((await ask('ofC', repository, `blobs/${layer.digest}`)).status).toBe(404);
    const mounted = await get(
      `${entrepot.url}/v2/team-c/copy/blobs/uploads/?mount=${stolen.image.config.digest}&from=${UP}/${repository}`,
      { method: 'POST', headers },
    );
    expect(mounted.status).toBe(202);
    for (const asker of ['nobody', 'alice', 'ofA', 'bob'] as const) {
      const login = LOGINS[asker];
      const got = await get(url('team-c/own'), login === undefined ? {} : { headers: basic(login) });
      expect([asker, [401, 404].includes(got.status)]).toEqual([asker, true]);
    }
  });

  it('in an index with one child gives no access to another child that somebody pulls later', async () => {
    const images = ['amd64', 'arm64'].map(architecture =>
      imageOf([randomBlob(4_000, `child ${architecture}`)], { platform: { os: 'linux', architecture } }),
    );
    const index = indexOf(images);
    upstream.add('acme/index', index, 'v1');
    const bundle = await bundleOf(`${UP}/acme/index:v1`, images.slice(0, 1), index.manifest);
    expect(await entrepot.command('import', bundle, '--platform', 'linux/amd64')).toMatchObject({ code: 0 });
    const paths = [
      'manifests/v1?platform=linux/arm64&',
      `manifests/${images[1]!.manifest.digest}?`,
      `blobs/${images[1]!.layers[0]!.digest}?`,
    ];
    const statuses = (login: Login | undefined) =>
      Promise.all(
        paths.map(async path => {
          const headers = login === undefined ? {} : basic(login);
          return (await get(`${entrepot.url}/v2/acme/index/${path}ns=${UP}`, { headers })).status;
        }),
      );
    expect(await statuses(LOGINS.alice)).toEqual([200, 200, 200]);
    for (const status of await statuses(undefined)) expect(status).toBeGreaterThanOrEqual(400);
    expect((await ask('nobody', 'acme/index', 'manifests/v1')).status).toBe(200);
    expect((await ask('nobody', 'acme/index', `manifests/${images[0]!.manifest.digest}`)).status).toBe(200);
  });

  it('is read by the same clients while upstream is down', async () => {
    await upstream.stop();
    for (const check of checks) expect(await check()).toEqual([]);
  });
});
