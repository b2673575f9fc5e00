import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bytesOf, type Content, contentOf, type Image, imageOf } from '../../test/support/content.ts';
import { HostedBench } from '../../test/support/hosted-bench.ts';
import { Latch } from '../../test/support/latch.ts';
import { MemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import { OCI_LAYER } from '../oci/media-types.ts';
import { ANONYMOUS } from '../oci/requester.ts';
import { Cursors } from './cursors.ts';
import { hostedHandlers } from './hosted.ts';
import { connect, MemorySource, openSubject, type Reply, request, startServer } from './server.fixture.ts';
import type { RegistryServer } from './server.ts';

const APP = { upstream: '', name: 'team-a/app' };
const BASE = { upstream: '', name: 'team-a/base' };

/** What a client may ask for that changes something. */
interface Asked {
  readonly path: string;
  readonly method: string;
  readonly body?: Content;
}

let bench: HostedBench;
let server: RegistryServer & { readonly port: number };
/** An image that is there as `v1`, and one of the same blobs that is not. */
let image: Image;
let another: Image;
/** Called when a request is about to be authenticated. */
let onAuthenticate: () => Promise<void>;

beforeEach(async () => {
  bench = await HostedBench.open(undefined, { hasMemoryIndex: true });
  const layer = contentOf('layer', OCI_LAYER);
  image = imageOf([layer]);
  another = imageOf([layer], { annotations: { other: 'yes' } });
  await bench.pushImage(APP, image, 'v1');
  await bench.pushBlob(APP, another.config);
  await bench.pushBlob(BASE, contentOf('base', OCI_LAYER));
  onAuthenticate = async () => {};
  const { hosted, uploads, publication, removal, metadata } = bench;
  server = await startServer(new MemorySource(), {
    access: { authenticate: () => onAuthenticate().then(() => openSubject) },
    hosted,
    presence: () => metadata.presence,
    hostedHandlers: hostedHandlers({
      hosted,
      uploads,
      publication,
      removal,
      cursors: new Cursors('ab'.repeat(32)),
    }),
  });
});

afterEach(async () => {
  await server.close(0);
  await bench.remove();
});

function ask({ path, method, body }: Asked): Promise<Reply> {
  const headers = body === undefined ? {} : { 'content-type': body.mediaType, 'content-length': body.size };
  return request(server.port, `/v2/team-a/app/${path}`, {
    method,
    headers,
    ...(body && { body: bytesOf(body).toString() }),
  });
}

/** Other processes consider this one dead before it comes back: what began before must not be done any more. */
function seemDead(): void {
  if (!(bench.metadata instanceof MemoryMetadataStore)) throw new Error('this is no index in memory');
  bench.metadata.seemDead();
}

async function beginUpload(): Promise<string> {
  const { id } = await bench.uploads.begin(ANONYMOUS, APP);
  return `blobs/uploads/${id}`;
}

const NEW = contentOf('new', OCI_LAYER);

const WRITES: readonly (readonly [what: string, asked: () => Asked | Promise<Asked>])[] = [
  ['a new tag', () => ({ method: 'PUT', path: 'manifests/v2', body: another.manifest })],
  ['the move of a tag', () => ({ method: 'PUT', path: 'manifests/v1', body: another.manifest })],
  [
    'several tags',
    () => ({
      method: 'PUT',
      path: `manifests/${another.manifest.digest}?tag=v1&tag=v2`,
      body: another.manifest,
    }),
  ],
  ['the removal of a tag', () => ({ method: 'DELETE', path: 'manifests/v1' })],
  ['the removal of a manifest', () => ({ method: 'DELETE', path: `manifests/${image.manifest.digest}` })],
  ['the removal of a blob', () => ({ method: 'DELETE', path: `blobs/${image.layers[0]!.digest}` })],
  ['a blob', () => ({ method: 'POST', path: `blobs/uploads/?digest=${NEW.digest}`, body: NEW })],
  [
    'the end of an upload',
    async () => ({ method: 'PUT', path: `${await beginUpload()}?digest=${NEW.digest}`, body: NEW }),
  ],
  [
    'a mount',
    () => ({
      method: 'POST',
      path: `blobs/uploads/?mount=${contentOf('base', OCI_LAYER).digest}&from=${BASE.name}`,
    }),
  ],
];

function rawRequest(method: string, path: string): string {
  return `${method} /v2/team-a/app/${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`;
}

async function everything(): Promise<unknown> {
  const { metadata } = bench;
  const digests = [...image.layers, image.manifest, another.manifest, NEW, contentOf('base', OCI_LAYER)];
  return {
    tags: await Promise.all(['v1', 'v2'].map(tag => metadata.readTag(APP, tag))),
    linked: await Promise.all(digests.map(({ digest }) => metadata.isLinked(APP, digest))),
  };
}

describe('what was asked of a process before others considered it dead is not done', () => {
  it.each(WRITES)('%s, although the client was authenticated after that', async (_, asked) => {
    const given = await asked();
    const before = await everything();
    onAuthenticate = async () => seemDead();
    expect(await ask(given)).toMatchObject({
      status: 503,
      headers: { 'retry-after': expect.any(String) },
    });
    expect(await everything()).toEqual(before);
    onAuthenticate = async () => {};
    expect((await ask(await asked())).status).toBeLessThan(300);
    expect(await everything()).not.toEqual(before);
  });

  it('nor what has waited behind another request on its connection', async () => {
    const client = connect(server.port);
    const [arrived, judged] = [new Latch(), new Latch()];
    onAuthenticate = () => {
      onAuthenticate = async () => {};
      arrived.open();
      return judged.opened;
    };
    client.socket.write(rawRequest('GET', 'manifests/missing') + rawRequest('DELETE', 'manifests/v1'));
    await arrived.opened;
    // Node has parsed the other one, too.
    await new Promise(resolve => setImmediate(resolve));
    seemDead();
    judged.open();
    await expect
      .poll(() => client.received().match(/HTTP\/1\.1 \d+/g))
      .toEqual(['HTTP/1.1 404', 'HTTP/1.1 503']);
    client.socket.destroy();
    expect(await bench.metadata.readTag(APP, 'v1')).toBeDefined();
  });
});
