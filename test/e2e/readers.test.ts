// Who may read what, whoever brought it: every pair of ways in which content comes into one mirrored repository, and
// everybody who may ask, before, while and after it comes, against one small model.
import { createServer, type Server } from 'node:http';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pack } from 'tar-stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { get, type GetOptions } from '../support/client.ts';
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
import { freePort } from '../support/programs.ts';
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
type Way = 'pull' | 'pullForA' | 'pullByAnotherProcess' | 'importForAll' | 'importForA' | 'importForC';
const PULLS = ['pull', 'pullForA', 'pullByAnotherProcess'] as const;
const IMPORTS = ['importForAll', 'importForA', 'importForC'] as const;
const PAIRS = [...PULLS, ...IMPORTS]
  .flatMap(first => [...PULLS, ...IMPORTS].map(second => [first, second] as const))
  .filter(pair => pair.some(way => IMPORTS.some(each => each === way)));

/** The model: upstream lets alice have everything; an import opens to whom it was made what it brought. */
function mayRead(asker: Asker, broughtBy: readonly Way[]): boolean {
  if (asker === 'alice' || asker === 'ofA') return true;
  return broughtBy.includes('importForAll') || (asker === 'ofC' && broughtBy.includes('importForC'));
}

interface Brought {
  readonly tag: string;
  readonly image: Image;
}

/** Every way to ask for an image, with the content that is asked for. */
function asksOf({ tag, image }: Brought): readonly (readonly [string, Content, GetOptions])[] {
  const { manifest, config, layers } = image;
  const range = { headers: { range: 'bytes=3-9' } };
  return [
    [`manifests/${tag}`, manifest, {}],
    [`manifests/${tag}`, manifest, { method: 'HEAD' }],
    [`manifests/${manifest.digest}`, manifest, {}],
    [`manifests/${manifest.digest}`, manifest, { method: 'HEAD' }],
    [`referrers/${manifest.digest}`, manifest, {}],
    ...[config, ...layers].flatMap(blob =>
      [{}, { method: 'HEAD' }, range].map(options => [`blobs/${blob.digest}`, blob, options] as const),
    ),
  ];
}

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
  };
  entrepot = await Entrepot.start({ ...config, server: { listen: host, serverNames: [host] } });
  another = await Entrepot.start(config);
});

afterAll(async () => {
  await another.remove();
  await entrepot.remove();
  await upstream.stop();
  affirming.closeAllConnections();
  affirming.close();
  await removeFolder(folder);
});

async function statusFor(
  asker: Asker,
  repository: string,
  path: string,
  options: GetOptions = {},
): Promise<number> {
  const login = LOGINS[asker];
  const headers = { ...options.headers, ...(login === undefined ? {} : basic(login)) };
  const got = await get(`${entrepot.url}/v2/${repository}/${path}?ns=${UP}`, { ...options, headers });
  return got.status;
}

/** Asks in every way, as everybody, for what came by the ways that `waysOf` says. Names each answer that is not the model's. */
async function differences(
  repository: string,
  brought: Brought,
  waysOf: (content: Content) => readonly Way[],
  askers: readonly Asker[] = ASKERS,
): Promise<readonly string[]> {
  const found: string[] = [];
  for (const asker of askers) {
    for (const [path, content, options] of asksOf(brought)) {
      const status = await statusFor(asker, repository, path, options);
      const isServed = status === 200 || status === 206;
      if (isServed !== mayRead(asker, waysOf(content))) {
        found.push(`${asker} ${options.method ?? 'GET'} ${repository}/${path}: ${status}`);
      }
    }
  }
  return found;
}

const NAMES: Readonly<Record<Way, readonly string[]>> = {
  pull: [],
  pullByAnotherProcess: [],
  pullForA: ['pull', '--tenant', 'team-a'],
  importForAll: ['import'],
  importForA: ['import', '--tenant', 'team-a'],
  importForC: ['import', '--tenant', 'team-c'],
};

async function bring(way: Way, repository: string, { tag, image }: Brought): Promise<void> {
  if (way === 'pull' || way === 'pullByAnotherProcess') {
    const { url } = way === 'pull' ? entrepot : another;
    const headers = basic(LOGINS.alice!);
    for (const path of [
      `manifests/${tag}`,
      ...[image.config, ...image.layers].map(one => `blobs/${one.digest}`),
    ]) {
      const got = await get(`${url}/v2/${repository}/${path}?ns=${UP}`, { headers });
      if (got.status !== 200 || !got.complete) throw new Error(`${way}: ${path}: ${got.status} ${got.text}`);
    }
    return;
  }
  const name = `${UP}/${repository}:${tag}`;
  const what = way === 'pullForA' ? name : await bundleOf(name, [image], image.manifest);
  const { code, stderr } = await entrepot.command(...NAMES[way], what);
  if (code !== 0) throw new Error(`${way}: ${stderr}`);
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

/** Two images of one repository with a layer in common. */
function pairOf(at: number): readonly [Brought, Brought] {
  const shared = randomBlob(5_000, `shared ${at}`);
  const brought = ['first', 'second'].map(tag => {
    const image = imageOf([shared, randomBlob(70_000, `${tag} ${at}`)], {
      annotations: { of: `${tag} ${at}` },
    });
    upstream.add(`acme/pair${at}`, image, tag);
    for (const { digest, size } of [image.manifest, image.config, ...image.layers]) sizes.set(digest, size);
    return { tag, image };
  });
  return [brought[0]!, brought[1]!];
}

const pairs: { readonly repository: string; readonly check: () => Promise<readonly string[]> }[] = [];

describe('what came into a mirrored repository', () => {
  it.each(PAIRS.map((pair, at) => [...pair, at] as const))(
    'by %s, then by %s, is read by whom the model lets, before, meanwhile and afterwards',
    async (firstWay, secondWay, at) => {
      const repository = `acme/pair${at}`;
      const [first, second] = pairOf(at);
      const config = (content: Content) =>
        [first, second].every(({ image }) => image.config.digest === content.digest);
      const isIn = (content: Content, { image }: Brought) =>
        config(content) ||
        [image.manifest, image.config, ...image.layers].some(({ digest }) => digest === content.digest);
      const ways = (content: Content): readonly Way[] => [
        ...(isIn(content, first) ? [firstWay] : []),
        ...(isIn(content, second) ? [secondWay] : []),
      ];
      const strangers = ['nobody', 'bob', 'ofC'] as const;
      expect(await differences(repository, first, () => [], strangers)).toEqual([]);

      await bring(firstWay, repository, first);
      const beforeSecond = (content: Content) => (isIn(content, first) ? [firstWay] : []);
      expect(await differences(repository, first, beforeSecond)).toEqual([]);
      expect(await differences(repository, second, beforeSecond, strangers)).toEqual([]);

      const under = { way: true };
      const bringing = bring(secondWay, repository, second).finally(() => void (under.way = false));
      const meanwhile: string[] = [];
      while (under.way) {
        for (const asker of strangers) {
          for (const [path, content, options] of asksOf(second)) {
            const status = await statusFor(asker, repository, path, options);
            const mayBeServed = mayRead(asker, ways(content));
            if (!mayBeServed && status < 400) meanwhile.push(`${asker} ${path}: ${status}`);
          }
        }
      }
      await bringing;
      expect(meanwhile).toEqual([]);
      const check = async () => [
        ...(await differences(repository, first, ways)),
        ...(await differences(repository, second, ways)),
      ];
      expect(await check()).toEqual([]);
      pairs.push({ repository, check });
    },
  );

  it('is given by no other upstream that only says it has it', async () => {
    for (const digest of sizes.keys()) {
      for (const kind of ['blobs', 'manifests']) {
        for (const method of ['HEAD', 'GET']) {
          const got = await get(`${entrepot.url}/v2/any/thing/${kind}/${digest}?ns=${AFFIRMING}`, { method });
          const isGiven =
            got.complete && got.status === 200 && method === 'GET' && `sha256:${got.sha256}` === digest;
          expect({ kind, method, isGiven }).toEqual({ kind, method, isGiven: false });
        }
      }
    }
    for (const { check } of pairs) expect(await check()).toEqual([]);
  });

  it("is nobody else's for having pushed the same bytes into a repository of his own", async () => {
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
    expect(await statusFor('ofC', repository, `blobs/${layer.digest}`)).toBe(404);
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

  it('as an index with one child opens no other child that somebody pulls later', async () => {
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
    expect(await statusFor('nobody', 'acme/index', 'manifests/v1')).toBe(200);
    expect(await statusFor('nobody', 'acme/index', `manifests/${images[0]!.manifest.digest}`)).toBe(200);
  });

  it('is read by the same while upstream is away', async () => {
    await upstream.stop();
    for (const { check } of pairs) expect(await check()).toEqual([]);
  });
});
