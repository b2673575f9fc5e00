// What the build pulls through the program, so that the code of a pull is compiled, too.
import { createHash } from 'node:crypto';
import { createServer, type Server } from 'node:http';

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';

/** A registry with one image, and clients that pull it. */
export class SampleImage {
  readonly #config = Buffer.from('{"architecture":"amd64","os":"linux"}');
  readonly #layer = Buffer.alloc(1_000_000, 'entrepot');
  readonly #manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST,
      config: descriptor('application/vnd.oci.image.config.v1+json', this.#config),
      layers: [descriptor('application/vnd.oci.image.layer.v1.tar', this.#layer)],
    }),
  );

  /** The registry, which does not listen yet. */
  serve(): Server {
    const content = new Map([this.#config, this.#layer, this.#manifest].map(each => [digestOf(each), each]));
    return createServer(({ method, url = '', headers }, response) => {
      const bytes = content.get(url.slice(url.lastIndexOf('/') + 1)) ?? this.#manifest;
      const isManifest = url.includes('/manifests/');
      response.setHeader('Docker-Content-Digest', digestOf(bytes));
      response.setHeader('Content-Type', isManifest ? MANIFEST : 'application/octet-stream');
      const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? [];
      if (start !== undefined) response.setHeader('Content-Range', `bytes ${start}-${end}/${bytes.length}`);
      const part = start === undefined ? bytes : bytes.subarray(Number(start), Number(end) + 1);
      response.writeHead(start === undefined ? 200 : 206, { 'Content-Length': part.length });
      response.end(method === 'HEAD' ? undefined : part);
    });
  }

  /** Pulls it as a lazy client does, and as others do. `repository`: its URL, as in `https://registry.example/v2/app`. */
  async pull(repository: string): Promise<void> {
    const [manifest, config, layer] = [this.#manifest, this.#config, this.#layer].map(digestOf);
    const request = async (path: string, { method = 'GET', ...headers }: Record<string, string> = {}) => {
      const response = await fetch(`${repository}/${path}`, {
        method,
        headers: { accept: MANIFEST, ...headers },
      });
      if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
      await response.arrayBuffer();
    };
    await request('manifests/1', { method: 'HEAD' });
    for (const reference of ['1', manifest, manifest]) await request(`manifests/${reference}`);
    await request(`blobs/${config}`);
    const twoRanges = '100000-149999,300000-349999';
    for (const range of ['0-1', '900000-999999', twoRanges, '500000-599999', '500000-599999', twoRanges])
      await request(`blobs/${layer}`, { range: `bytes=${range}` });
    await request(`blobs/${layer}`, { method: 'HEAD' });
    for (let pulls = 0; pulls < 2; pulls += 1) await request(`blobs/${layer}`);
  }
}

function descriptor(mediaType: string, bytes: Buffer) {
  return { mediaType, digest: digestOf(bytes), size: bytes.length };
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
