// Upstreams behind a path: a project of Harbor, a repository of Artifactory, an upstream of another Entrepot.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { get, type Got } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, type EntrepotConfig } from '../support/entrepot.ts';
import { FakeUpstream, type FakeUpstreamOptions } from '../support/fake-upstream.ts';
import { freePort } from '../support/programs.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import { basic, type Login, secretManifest } from '../support/tenants.ts';

const layer = randomBlob(200_000, 'behind a path');
const image = imageOf([layer]);
const TEAM: Login = ['team', 'password-of-team'];
const ROBOT: Login = ['robot', 'password-of-robot'];

let folder: string;
let stops: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  folder = await makeTempFolder('path');
});

afterEach(async () => {
  for (const stop of stops.toReversed()) await stop();
  stops = [];
});

async function fake(options: FakeUpstreamOptions = {}): Promise<FakeUpstream> {
  const upstream = await FakeUpstream.start(options);
  stops.push(() => upstream.stop());
  return upstream;
}

async function start(config: EntrepotConfig, where: string = folder): Promise<Entrepot> {
  const entrepot = await Entrepot.start(config, { folder: where });
  stops.push(() => entrepot.remove());
  return entrepot;
}

/** Manifest by tag and digest, blob, and all pages of tags and referrers of `name`, as they come through `entrepot`. */
async function pulled(entrepot: Entrepot, name: string): Promise<readonly unknown[]> {
  const at = `${entrepot.url}/v2/${name}`;
  const manifest = await get(`${at}/manifests/1`);
  const digest = await get(`${at}/manifests/${image.manifest.digest}`);
  const blob = await get(`${at}/blobs/${layer.digest}`);
  const tags = await pagesOf<{ tags: unknown[] }>(entrepot, `/v2/${name}/tags/list`);
  const referrers = await pagesOf<{ manifests: unknown[] }>(
    entrepot,
    `/v2/${name}/referrers/${image.manifest.digest}`,
  );
  return [
    manifest.status,
    digest.status,
    `sha256:${blob.sha256}`,
    tags.flatMap(page => page.tags),
    referrers.flatMap(page => page.manifests).length,
  ];
}

async function pagesOf<Page>(entrepot: Entrepot, path: string): Promise<readonly Page[]> {
  const pages: Page[] = [];
  for (let next: string | undefined = path; next !== undefined; ) {
    const got: Got = await get(entrepot.url + next);
    expect(got).toMatchObject({ status: 200 });
    pages.push(JSON.parse(got.text));
    next = /<([^>]+)>/.exec(String(got.headers['link'] ?? ''))?.[1];
  }
  return pages;
}

const ALL = [200, 200, layer.digest, ['1', '2', '3'], 2];

function fill(upstream: FakeUpstream, repository: string): void {
  for (const tag of ['1', '2', '3']) upstream.add(repository, image, tag);
  const about = { subject: image.manifest, artifactType: 'application/vnd.example.signature' };
  for (const name of ['one', 'two']) upstream.add(repository, imageOf([randomBlob(100, name)], about));
}

describe('an upstream whose URL has a path', () => {
  it('is asked for everything of an image below it, page by page and with its own scopes', async () => {
    const users = { [ROBOT[0]]: { password: ROBOT[1], repositories: ['proxy-hub/library/app'] } };
    const harbor = await fake({ auth: { scheme: 'bearer', users }, pageSize: 1 });
    fill(harbor, 'proxy-hub/library/app');
    await writeFile(join(folder, 'password'), ROBOT[1]);
    const credentials = { username: ROBOT[0], passwordFile: 'password' };
    const upstreams = { 'docker.io': { url: `${harbor.url}/v2/proxy-hub/`, credentials, openToAll: true } };
    const entrepot = await start({ upstreams });
    expect(await pulled(entrepot, 'docker.io/library/app')).toEqual(ALL);
    const asked = harbor.requests.filter(({ kind }) => kind !== 'token');
    expect([...new Set(asked.map(({ repository }) => repository))]).toEqual(['proxy-hub/library/app']);
    expect(asked.filter(({ status }) => status === 401)).toHaveLength(1);
    const tokens = harbor.requests.filter(({ kind }) => kind === 'token').map(({ path }) => path);
    expect([...new Set(tokens.map(path => new URL(path, harbor.url).searchParams.get('scope')))]).toEqual([
      'repository:proxy-hub/library/app:pull',
    ]);
  });

  it('may have its API elsewhere, with storage and links that a proxy in front does not know', async () => {
    const storage = await fake();
    const artifactory = await fake({ api: '/artifactory/api/docker/hub/v2', pageSize: 1 });
    fill(artifactory, 'library/app');
    fill(storage, 'library/app');
    artifactory.redirectBlobsTo(storage);
    const upstreams = { 'docker.io': { url: `${artifactory.url}/artifactory/api/docker/hub/v2` } };
    const entrepot = await start({ upstreams });
    expect(await pulled(entrepot, 'docker.io/library/app')).toEqual(ALL);
    expect(storage.count('storage')).toBe(1);
  });

  it('may have mirrors with paths of their own', async () => {
    const [harbor, mirror] = [await fake(), await fake()];
    fill(harbor, 'proxy-hub/library/app');
    fill(mirror, 'cache/hub/library/app');
    harbor.misbehave({ kind: 'blob', status: 503 });
    const url = `${harbor.url}/v2/proxy-hub`;
    const upstreams = { 'docker.io': { url, mirrors: [`${mirror.url}/v2/cache/hub/`] } };
    const entrepot = await start({ upstreams });
    expect(await pulled(entrepot, 'docker.io/library/app')).toEqual(ALL);
    expect(mirror.count('blob', { repository: 'cache/hub/library/app' })).toBeGreaterThan(0);
  });

  it('may be another Entrepot, with its own login', async () => {
    const users = { own: { password: 'p', repositories: ['acme/app'] } };
    const origin = await fake({ auth: { scheme: 'bearer', users } });
    fill(origin, 'acme/app');
    const host = `127.0.0.1:${await freePort()}`;
    const outerFolder = await makeTempFolder('outer');
    const logins: Record<string, Login> = { [host]: TEAM, 'up.example': ['own', 'p'] };
    await writeFile(join(outerFolder, 'team.json'), secretManifest('pull', logins));
    await start(
      {
        server: { listen: host, serverNames: [host] },
        upstreams: { 'up.example': { url: origin.url } },
        tenants: [{ name: 'team', secrets: 'team.json' }],
      },
      outerFolder,
    );
    await writeFile(join(folder, 'password'), TEAM[1]);
    const credentials = { username: TEAM[0], passwordFile: 'password' };
    const inner = await start({
      upstreams: { 'up.example': { url: `http://${host}/v2/up.example`, credentials, openToAll: true } },
    });
    expect(await pulled(inner, 'up.example/acme/app')).toEqual(ALL);
  });
});

describe("tenants' Secrets for a part of a registry", () => {
  it('are used for the upstream that is this part, and those for other parts are not', async () => {
    const users = { [ROBOT[0]]: { password: ROBOT[1], repositories: ['proxy-hub/library/app'] } };
    const harbor = await fake({ auth: { scheme: 'bearer', users } });
    harbor.add('proxy-hub/library/app', image, '1');
    const host = `127.0.0.1:${await freePort()}`;
    const logins: Record<string, Login> = {
      [host]: TEAM,
      [`${harbor.host}/proxy-hub`]: ROBOT,
      [`${harbor.host}/other`]: ['other', 'password-of-other'],
    };
    await writeFile(join(folder, 'team.json'), secretManifest('pull', logins));
    const entrepot = await start({
      server: { listen: host, serverNames: [host] },
      upstreams: { 'docker.io': { url: `${harbor.url}/v2/proxy-hub` } },
      tenants: [{ name: 'team', secrets: 'team.json' }],
    });
    const url = `${entrepot.url}/v2/docker.io/library/app/manifests/1`;
    expect((await get(url, { headers: basic(TEAM) })).status).toBe(200);
    expect([harbor.saw(ROBOT[1]), harbor.saw('password-of-other')]).toEqual([true, false]);
    // A node hands over the Secret of the pod, which names the tenant.
    expect((await get(url, { headers: basic(ROBOT) })).status).toBe(200);
    expect((await get(url, { headers: basic(['other', 'password-of-other']) })).status).not.toBe(200);
  });
});

describe('the commands', () => {
  it('print files by which nodes fall back to the path, and say for which nodes that is impossible', async () => {
    const upstreams = {
      'docker.io': { url: 'https://harbor.example/v2/proxy-hub/' },
      'quay.io': { url: 'https://j.example/artifactory/quay/v2' },
    };
    const entrepot = await start({ upstreams });
    const hosts = (kind: string, upstream: string, ...flags: string[]) =>
      entrepot.command('hosts', kind, '--server', 'https://e.example', '--upstream', upstream, ...flags);
    expect((await hosts('containerd', 'docker.io')).stdout).toContain(
      'server = "https://harbor.example/v2/proxy-hub"\noverride_path = true\n\n[host."https://e.example"]\n',
    );
    expect((await hosts('crio', 'docker.io')).stdout).toContain('location = "harbor.example/proxy-hub"\n');
    const { code, stderr } = await hosts('crio', 'quay.io');
    expect([code, stderr]).toEqual([2, expect.stringContaining('use --no-fallback')]);
    expect((await hosts('crio', 'quay.io', '--no-fallback')).code).toBe(0);
  });

  it('refuse a path without /v2', async () => {
    const entrepot = await start({});
    await writeFile(
      entrepot.configFile,
      'upstreams:\n  docker.io:\n    url: https://harbor.example/proxy-hub\n',
    );
    const { code, stderr } = await entrepot.command('config', 'check');
    expect(code).toBe(2);
    expect(stderr).toContain('a path must include /v2');
  });
});
