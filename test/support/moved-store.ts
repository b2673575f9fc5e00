// A store with something of everything, for tests that move it: what it answers must be the same wherever it is.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { get } from './client.ts';
import { type Content, imageOf, randomBlob } from './content.ts';
import { Entrepot, type EntrepotConfig } from './entrepot.ts';
import type { FakeS3 } from './fake-s3.ts';
import { FakeUpstream } from './fake-upstream.ts';
import { until } from './programs.ts';
import * as pushClient from './push-client.ts';
import { loginStatus } from './logins.ts';
import type { Login } from './tenants.ts';

const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;

/** Where a store is. */
export interface Place {
  readonly storage: { readonly path: string; readonly s3?: object };
  readonly index?: object;
}

export class MovedStore {
  readonly pushed = imageOf([randomBlob(3 * MIB, 'moved layer'), randomBlob(20, 'small moved layer')]);
  readonly signature = imageOf([randomBlob(100, 'signature')], {
    subject: this.pushed.manifest,
    artifactType: 'application/vnd.example.signature',
  });
  readonly mirrored = imageOf([randomBlob(MIB, 'mirrored layer')]);
  readonly #upstreamUrl: string;
  #login: Login = ['', ''];

  private constructor(upstreamUrl: string) {
    this.#upstreamUrl = upstreamUrl;
  }

  /** Fills the store of `place`, and stops its server and its upstream. */
  static async make(place: Place, folder: string): Promise<MovedStore> {
    const upstream = await FakeUpstream.start();
    const store = new MovedStore(upstream.url);
    upstream.add('library/app', store.mirrored, 'v1');
    const entrepot = await store.serve(place, folder);
    await store.#fill(entrepot);
    await entrepot.stop();
    await upstream.stop();
    return store;
  }

  /** Starts a server on the store of `place`. */
  serve(place: Place, folder: string): Promise<Entrepot> {
    return Entrepot.start(this.#config(place), { folder });
  }

  /** Writes a configuration with the store of `place`; returns the file. */
  async configFile(place: Place, folder: string, name = 'moved.yaml'): Promise<string> {
    const file = join(folder, name);
    await writeFile(file, stringify(this.#config(place)));
    return file;
  }

  /** What the server of a store says of all of it. Every blob is read, and compared with its digest. */
  async answersOf(entrepot: Entrepot): Promise<unknown> {
    const contents: [string, Content][] = [
      ...[this.pushed, this.signature].flatMap(({ config, layers }) =>
        [config, ...layers].map((blob): [string, Content] => ['team/app', blob]),
      ),
      ...[this.mirrored.config, ...this.mirrored.layers].map((blob): [string, Content] => [
        'library/app',
        blob,
      ]),
    ];
    const blobs: unknown[] = [];
    for (const [repository, { digest }] of contents) {
      const got = await this.#get(entrepot, repository, `blobs/${digest}`);
      blobs.push([digest, got.status, got.status === 200 && `sha256:${got.sha256}` === digest]);
    }
    const documents = [
      await this.#get(entrepot, 'team/app', 'manifests/v1'),
      await this.#get(entrepot, 'team/app', 'tags/list'),
      await this.#get(entrepot, 'team/app', `referrers/${this.pushed.manifest.digest}`),
      await this.#get(entrepot, 'library/app', 'manifests/v1'),
    ];
    return {
      blobs,
      documents: documents.map(({ status, text }) => [status, text]),
      login: await loginStatus(this.#login, entrepot),
      images: (await entrepot.command('images', '--json')).stdout,
      tenants: await tenantsOf(entrepot),
      have: (await entrepot.command('check', `${UPSTREAM}/library/app:v1`)).code,
    };
  }

  async #fill(entrepot: Entrepot): Promise<void> {
    for (const { config, layers, manifest } of [this.pushed, this.signature]) {
      const reference = manifest === this.pushed.manifest ? 'v1' : manifest.digest;
      await pushClient.pushImage(entrepot.url, 'team/app', reference, {
        config,
        layers,
        manifest,
        platform: this.pushed.platform,
      });
    }
    const contents = [this.mirrored.config, ...this.mirrored.layers];
    for (const path of ['manifests/v1', ...contents.map(({ digest }) => `blobs/${digest}`)]) {
      await until(`${path} to be stored`, 60_000, async () => {
        const { headers } = await this.#get(entrepot, 'library/app', path);
        return headers['cache-status'] === 'entrepot; hit';
      });
    }
    await entrepot.command('pin', `${UPSTREAM}/library/app:v1`);
    await entrepot.command('tenant', 'add', 'team-a');
    const { stdout, stderr } = await entrepot.command('tenant', 'secret', 'team-a', '--json');
    if (stdout === '') throw new Error(stderr);
    const secret = JSON.parse(JSON.parse(stdout).stringData['.dockerconfigjson']);
    const [{ auth }] = Object.values<{ auth: string }>(secret.auths) as [{ auth: string }];
    const [username = '', password = ''] = Buffer.from(auth, 'base64').toString().split(':');
    this.#login = [username, password];
  }

  #get(entrepot: Entrepot, repository: string, path: string) {
    const ns = repository.startsWith('team/') ? '' : `?ns=${UPSTREAM}`;
    return get(`${entrepot.url}/v2/${repository}/${path}${ns}`);
  }

  #config(place: Place): EntrepotConfig {
    return {
      upstreams: { [UPSTREAM]: { url: this.#upstreamUrl, freshFor: 'forever' } },
      hosted: { prefixes: ['team'], anonymous: 'push' },
      server: { serverNames: ['registry.example:5000'] },
      ...place,
      // Whatever else is on the disk of the tests.
      storage: { minFree: '1MiB', ...place.storage },
    };
  }
}

/** Without when they last logged in. */
async function tenantsOf(entrepot: Entrepot): Promise<unknown> {
  const { tenants }: TenantsDocument = JSON.parse((await entrepot.command('tenants', '--json')).stdout);
  return tenants.map(({ name, issued }) => [name, issued.map(({ id }) => id)]);
}

interface TenantsDocument {
  readonly tenants: readonly { readonly name: string; readonly issued: readonly { readonly id: string }[] }[];
}

/** The section of a configuration for a bucket; `folder` gets its keys. */
export async function inBucket(s3: FakeS3, folder: string, prefix: string): Promise<object> {
  const { endpoint, region, bucket, keys } = s3;
  const credentialsFile = join(folder, 'keys');
  const { accessKeyId, secretAccessKey } = keys;
  await writeFile(
    credentialsFile,
    `[default]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`,
  );
  return { endpoint, region, bucket, prefix, pathStyle: true, credentials: 'file', credentialsFile };
}
