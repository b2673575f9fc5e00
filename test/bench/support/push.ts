import { createHash, randomFillSync } from 'node:crypto';

export interface PushedImage {
  readonly repository: string;
  readonly tag: string;
  readonly digest: string;
  readonly manifestBytes: number;
  /** Config first, then the layers. */
  readonly digests: readonly string[];
  readonly sizes: readonly number[];
  /** All of it, bytes. */
  readonly bytes: number;
}

const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';

function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

async function expectStatus(response: Response, status: number): Promise<Response> {
  if (response.status !== status) {
    throw new Error(`${response.url}: ${response.status} ${await response.text()}`);
  }
  return response;
}

async function pushBlob(registry: string, repository: string, bytes: Uint8Array): Promise<void> {
  const begun = await expectStatus(
    await fetch(`${registry}/v2/${repository}/blobs/uploads/`, { method: 'POST' }),
    202,
  );
  const target = new URL(begun.headers.get('location') ?? '', registry);
  target.searchParams.set('digest', digestOf(bytes));
  const put = await fetch(target, {
    method: 'PUT',
    body: bytes as Uint8Array<ArrayBuffer>,
    headers: { 'content-type': 'application/octet-stream' },
  });
  await expectStatus(put, 201);
}

/** Pushes an image of random layers, so that nothing on the way can compress or share them. */
export async function pushImage(
  registry: string,
  repository: string,
  tag: string,
  layerSizes: readonly number[],
): Promise<PushedImage> {
  const config = Buffer.from(
    JSON.stringify({
      architecture: 'amd64',
      os: 'linux',
      rootfs: { type: 'layers', diff_ids: [] },
      made: Date.now(),
    }),
  );
  await pushBlob(registry, repository, config);
  const layers = [];
  for (const size of layerSizes) {
    const bytes = randomFillSync(Buffer.allocUnsafe(size));
    await pushBlob(registry, repository, bytes);
    layers.push({ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: digestOf(bytes), size });
  }
  const configDescriptor = {
    mediaType: 'application/vnd.oci.image.config.v1+json',
    digest: digestOf(config),
    size: config.length,
  };
  const manifest = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST_TYPE, config: configDescriptor, layers }),
  );
  const put = await fetch(`${registry}/v2/${repository}/manifests/${tag}`, {
    method: 'PUT',
    body: manifest,
    headers: { 'content-type': MANIFEST_TYPE },
  });
  await expectStatus(put, 201);
  const blobs = [configDescriptor, ...layers];
  return {
    repository,
    tag,
    digest: digestOf(manifest),
    manifestBytes: manifest.length,
    digests: blobs.map(({ digest }) => digest),
    sizes: blobs.map(({ size }) => size),
    bytes: manifest.length + blobs.reduce((sum, { size }) => sum + size, 0),
  };
}
