import { expect, test } from 'vitest';
import { OciError } from './errors.ts';
import * as manifest from './manifest.ts';
import * as mediaTypes from './media-types.ts';

const DIGEST = `sha256:${'ab'.repeat(32)}`;
const config = { mediaType: mediaTypes.OCI_CONFIG, digest: DIGEST, size: 10 };
const layer = { mediaType: `${mediaTypes.OCI_LAYER}+gzip`, digest: DIGEST, size: 20 };
const child = { mediaType: mediaTypes.OCI_MANIFEST, digest: DIGEST, size: 30 };
const image = { schemaVersion: 2, mediaType: mediaTypes.OCI_MANIFEST, config, layers: [layer] };
const index = { schemaVersion: 2, mediaType: mediaTypes.OCI_INDEX, manifests: [child] };

function parse(document: unknown, mediaType: string): manifest.ManifestView {
  const text = typeof document === 'string' ? document : JSON.stringify(document);
  return manifest.parseManifest(Buffer.from(text), mediaType);
}

function faultOf(document: unknown, mediaType: string): string {
  try {
    parse(document, mediaType);
  } catch (error) {
    return error instanceof OciError ? error.code : String(error);
  }
  return 'none';
}

function repeat(entry: object, count: number): readonly object[] {
  return Array.from({ length: count }, () => entry);
}

function imageOf(layers: number): object {
  return { ...image, layers: repeat(layer, layers) };
}

function indexOf(children: number): object {
  return { ...index, manifests: repeat(child, children) };
}

/** An index with a member that makes it `levels` levels deep. */
function nested(levels: number): string {
  return `{"x":${'['.repeat(levels - 1)}${']'.repeat(levels - 1)},"manifests":[]}`;
}

test('an image has its config and layers as blobs, and the media type of its config', () => {
  expect(parse(image, mediaTypes.OCI_MANIFEST)).toEqual({
    kind: 'manifest',
    mediaType: mediaTypes.OCI_MANIFEST,
    manifests: [],
    blobs: [config, layer],
    subject: undefined,
    artifactType: mediaTypes.OCI_CONFIG,
    annotations: {},
  });
});

test('an index has children with their platforms and annotations', () => {
  const platform = {
    os: 'windows',
    architecture: 'amd64',
    'os.version': '10.0.1',
    'os.features': ['win32k'],
  };
  const entry = { ...child, platform, annotations: { a: 'b' }, artifactType: 'x/y', urls: ['https://x'] };
  const view = parse({ ...index, manifests: [entry], annotations: { c: 'd' } }, mediaTypes.OCI_INDEX);
  expect(view).toMatchObject({ kind: 'index', manifests: [entry], blobs: [], annotations: { c: 'd' } });
  expect(view.artifactType).toBeUndefined();
});

test('an artifact has its own type and its subject', () => {
  const artifact = { ...image, artifactType: 'application/sbom', subject: child };
  expect(parse(artifact, mediaTypes.OCI_MANIFEST)).toMatchObject({
    artifactType: 'application/sbom',
    subject: child,
  });
  const old = {
    mediaType: mediaTypes.OCI_ARTIFACT_MANIFEST,
    artifactType: 'application/sbom',
    blobs: [layer],
  };
  expect(parse(old, mediaTypes.OCI_ARTIFACT_MANIFEST)).toMatchObject({ blobs: [layer] });
});

test('null counts as absent, as in Go', () => {
  const sparse = {
    ...image,
    mediaType: '',
    layers: null,
    annotations: null,
    subject: null,
    artifactType: '',
  };
  expect(parse(sparse, mediaTypes.OCI_MANIFEST)).toMatchObject({ blobs: [config], subject: undefined });
  expect(parse({ schemaVersion: 2, manifests: [] }, mediaTypes.OCI_INDEX)).toMatchObject({ manifests: [] });
});

test('the parameters of the Content-Type do not matter', () => {
  expect(parse(image, `${mediaTypes.OCI_MANIFEST}; charset=utf-8`).mediaType).toBe(mediaTypes.OCI_MANIFEST);
});

test('Docker schema 1 is accepted without blobs, since it declares no sizes', () => {
  const old = { schemaVersion: 1, fsLayers: [{ blobSum: DIGEST }], signatures: [] };
  expect(parse(old, mediaTypes.DOCKER_SCHEMA1_SIGNED)).toMatchObject({ kind: 'manifest', blobs: [] });
  expect(faultOf({ ...old, schemaVersion: 2 }, mediaTypes.DOCKER_SCHEMA1)).toBe('MANIFEST_INVALID');
});

test.each([
  ['no JSON', '{', mediaTypes.OCI_MANIFEST],
  ['a byte order mark', `\ufeff${JSON.stringify(image)}`, mediaTypes.OCI_MANIFEST],
  ['no object', [], mediaTypes.OCI_MANIFEST],
  ['null', null, mediaTypes.OCI_MANIFEST],
  ['an unknown media type', image, 'text/plain'],
  ['an image that came as an index', { ...image, mediaType: undefined }, mediaTypes.OCI_INDEX],
  ['an index that came as an image', { ...index, mediaType: undefined }, mediaTypes.OCI_MANIFEST],
  ['an image with children', { ...image, manifests: [] }, mediaTypes.OCI_MANIFEST],
  ['an index with layers', { ...index, layers: [] }, mediaTypes.OCI_INDEX],
  ['an index with Layers', { ...index, Layers: [layer] }, mediaTypes.OCI_INDEX],
  ['an image with layers of schema 1', { ...image, fsLayers: [] }, mediaTypes.OCI_MANIFEST],
  ['schema 1 with layers', { schemaVersion: 1, layers: [] }, mediaTypes.DOCKER_SCHEMA1],
  ['another schema version', { ...image, schemaVersion: 1 }, mediaTypes.OCI_MANIFEST],
  ['layers and Layers', { ...image, Layers: [layer] }, mediaTypes.OCI_MANIFEST],
  ['layers and layer\u017f', { ...image, 'layer\u017f': [layer] }, mediaTypes.OCI_MANIFEST],
  ['an image with manife\u017fts', { ...image, 'manife\u017fts': [child] }, mediaTypes.OCI_MANIFEST],
  ['a Content-Type that differs from mediaType', image, mediaTypes.DOCKER_MANIFEST],
  ['a MediaType that differs', { ...image, mediaType: undefined, MediaType: 'x' }, mediaTypes.OCI_MANIFEST],
  ['an index that lists a layer', { ...index, manifests: [layer] }, mediaTypes.OCI_INDEX],
  ['an image without config', { ...image, config: undefined }, mediaTypes.OCI_MANIFEST],
  ['layers that are no list', { ...image, layers: {} }, mediaTypes.OCI_MANIFEST],
  ['a layer that is no object', { ...image, layers: ['x'] }, mediaTypes.OCI_MANIFEST],
  [
    'a layer without media type',
    { ...image, layers: [{ digest: DIGEST, size: 1 }] },
    mediaTypes.OCI_MANIFEST,
  ],
  ['a short digest', { ...image, layers: [{ ...layer, digest: 'sha256:ab' }] }, mediaTypes.OCI_MANIFEST],
  ['a digest that is a path', { ...image, layers: [{ ...layer, digest: '../x' }] }, mediaTypes.OCI_MANIFEST],
  ['a negative size', { ...image, layers: [{ ...layer, size: -1 }] }, mediaTypes.OCI_MANIFEST],
  ['a fraction as size', { ...image, layers: [{ ...layer, size: 1.5 }] }, mediaTypes.OCI_MANIFEST],
  ['a size as text', { ...image, layers: [{ ...layer, size: '1' }] }, mediaTypes.OCI_MANIFEST],
  ['a size beyond 2^53', { ...image, layers: [{ ...layer, size: 2 ** 53 }] }, mediaTypes.OCI_MANIFEST],
  ['a subject without digest', { ...image, subject: { size: 1 } }, mediaTypes.OCI_MANIFEST],
  ['annotations that are no texts', { ...image, annotations: { a: 1 } }, mediaTypes.OCI_MANIFEST],
  [
    'a platform that is no object',
    { ...index, manifests: [{ ...child, platform: 'x' }] },
    mediaTypes.OCI_INDEX,
  ],
])('%s is invalid', (_what, document, mediaType) => {
  expect(faultOf(document, mediaType)).toBe('MANIFEST_INVALID');
});

test('each limit applies, and what is exactly at the limit is accepted', () => {
  expect(faultOf(imageOf(manifest.MAX_DESCRIPTORS), mediaTypes.OCI_MANIFEST)).toBe('none');
  expect(faultOf(imageOf(manifest.MAX_DESCRIPTORS + 1), mediaTypes.OCI_MANIFEST)).toBe('MANIFEST_INVALID');
  expect(faultOf(indexOf(manifest.MAX_INDEX_ENTRIES), mediaTypes.OCI_INDEX)).toBe('none');
  expect(faultOf(indexOf(manifest.MAX_INDEX_ENTRIES + 1), mediaTypes.OCI_INDEX)).toBe('MANIFEST_INVALID');

  expect(faultOf(nested(manifest.MAX_JSON_DEPTH), mediaTypes.OCI_INDEX)).toBe('none');
  expect(faultOf(nested(manifest.MAX_JSON_DEPTH + 1), mediaTypes.OCI_INDEX)).toBe('MANIFEST_INVALID');
  expect(faultOf(`{"x":${JSON.stringify('[\\"{'.repeat(100))}}`, mediaTypes.OCI_INDEX)).toBe('none');

  const padded = JSON.stringify(index).padEnd(manifest.MAX_MANIFEST_BYTES, ' ');
  expect(faultOf(padded, mediaTypes.OCI_INDEX)).toBe('none');
  expect(faultOf(`${padded} `, mediaTypes.OCI_INDEX)).toBe('MANIFEST_TOO_LARGE');
});

test('layers that may not be redistributed are recognized', () => {
  const foreign = { ...layer, mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip' };
  const view = parse({ ...image, layers: [layer, foreign] }, mediaTypes.OCI_MANIFEST);
  expect(view.blobs.map(manifest.isNonDistributable)).toEqual([false, false, true]);
});
