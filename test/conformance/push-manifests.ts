import { expect } from 'vitest';
import {
  DOCKER_CONFIG,
  DOCKER_LAYER,
  DOCKER_MANIFEST,
  OCI_EMPTY,
  OCI_INDEX,
  OCI_MANIFEST,
} from '../../src/oci/media-types.ts';
import {
  bytesOf,
  type Content,
  contentOf,
  descriptorOf,
  imageOf,
  indexOf,
  randomBlob,
} from '../support/content.ts';
import { manifestPut, newBlob, type Registry, smallImage } from './registry.ts';
import type { Requirement } from './requirement.ts';

const FOREIGN_LAYER = 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip';
const INVALID = { status: 400, code: 'MANIFEST_INVALID' };

function manifestOf(document: object, mediaType: string = OCI_MANIFEST): Content {
  return contentOf(JSON.stringify({ schemaVersion: 2, mediaType, ...document }), mediaType);
}

/** A config and a layer that are there. */
async function pushParts(registry: Registry, name: string) {
  const config = contentOf('{}', OCI_EMPTY);
  const layer = newBlob();
  for (const blob of [config, layer]) await registry.pushBlob(name, blob);
  return { config: descriptorOf(config), layers: [descriptorOf(layer)] };
}

export const PUSH_MANIFESTS: readonly Requirement[] = [
  {
    id: 'M1',
    section: 'Pushing Manifests',
    level: 'MUST',
    text: 'PUT by tag is 201 with a pullable Location and the digest',
    async check(registry) {
      const name = registry.repository();
      const image = await registry.pushImage(name);
      const { headers } = await registry.expect(manifestPut(name, image.manifest, 'v1'), {
        status: 201,
        headers: { 'Docker-Content-Digest': image.manifest.digest, Location: /./ },
      });
      const path = headers.location ?? '';
      await registry.expect({ path }, { status: 200, body: bytesOf(image.manifest) });
    },
  },
  {
    id: 'M2',
    section: 'Pushing Manifests',
    level: 'MUST',
    text: 'PUT by digest is 201 with exactly that digest; a digest of other bytes is 400',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      const other = smallImage().manifest;
      await registry.expect(manifestPut(name, manifest), {
        status: 201,
        headers: { 'Docker-Content-Digest': manifest.digest },
      });
      await registry.expect(manifestPut(name, manifest, other.digest), {
        status: 400,
        code: 'DIGEST_INVALID',
      });
      await registry.expect({ path: `/v2/${name}/manifests/${other.digest}` }, { status: 404 });
    },
  },
  {
    id: 'M3',
    section: 'Pushing Manifests',
    level: 'MUST',
    text: 'the manifest is stored in the exact bytes that were sent',
    async check(registry) {
      const name = registry.repository();
      const parts = await pushParts(registry, name);
      const document = {
        zebra: 1,
        schemaVersion: 2,
        mediaType: OCI_MANIFEST,
        ...parts,
        'x-own': { é: [1, 2.5] },
      };
      const odd = contentOf(`\n${JSON.stringify(document, undefined, 3)}  \n`, OCI_MANIFEST);
      await registry.pushManifest(name, odd, 'odd');
      await registry.expect({ path: `/v2/${name}/manifests/odd` }, { status: 200, body: bytesOf(odd) });
    },
  },
  {
    id: 'M4',
    section: 'Pushing Manifests',
    level: 'SHOULD',
    text: 'parameters of the Content-Type are ignored',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name);
      await registry.expect(
        {
          ...manifestPut(name, manifest, 'v1'),
          headers: { 'content-type': `${manifest.mediaType}; charset=utf-8` },
        },
        { status: 201 },
      );
      await registry.expect(
        { path: `/v2/${name}/manifests/v1` },
        { status: 200, headers: { 'Content-Type': manifest.mediaType } },
      );
    },
  },
  {
    id: 'M5',
    section: 'Pushing Manifests',
    level: 'SHOULD',
    text: 'a manifest of 4 megabytes is taken, one over the limit is 413, however its length is told',
    async check(registry) {
      const name = registry.repository();
      const parts = await pushParts(registry, name);
      const large = manifestOf({ ...parts, annotations: { a: 'a'.repeat(4_000_000) } });
      await registry.pushManifest(name, large, 'large');
      const tooLarge = manifestPut(
        name,
        manifestOf({ ...parts, annotations: { a: 'a'.repeat(4_300_000) } }),
        'over',
      );
      await registry.expect(tooLarge, { status: 413 });
      await registry.expect({ ...tooLarge, streamed: true }, { status: 413 });
      await registry.expect({ path: `/v2/${name}/manifests/over` }, { status: 404 });
    },
  },
  {
    id: 'M6',
    section: 'Push',
    level: 'MAY',
    text: 'a manifest that names what is not in the repository is MANIFEST_BLOB_UNKNOWN, also when another has it',
    async check(registry) {
      const name = registry.repository();
      const image = await registry.pushImage(registry.repository());
      const answer = await registry.expect(manifestPut(name, image.manifest, 'v1'), {
        status: 404,
        code: 'MANIFEST_BLOB_UNKNOWN',
      });
      for (const { digest } of [image.config, ...image.layers])
        expect(answer.body.toString()).toContain(digest);
      await registry.expect({ path: `/v2/${name}/manifests/v1` }, { status: 404 });
      await registry.expect({ path: `/v2/${name}/blobs/${image.config.digest}` }, { status: 404 });
    },
  },
  {
    id: 'M7',
    section: 'Pushing Manifests with Subject',
    level: 'MUST',
    text: 'a subject that does not exist is accepted, and answered with OCI-Subject',
    async check(registry) {
      const name = registry.repository();
      const subject = smallImage().manifest;
      const artifact = imageOf([newBlob()], { subject, artifactType: 'application/vnd.example' });
      for (const blob of [artifact.config, ...artifact.layers]) await registry.pushBlob(name, blob);
      await registry.expect(manifestPut(name, artifact.manifest), {
        status: 201,
        headers: { 'OCI-Subject': subject.digest },
      });
      await registry.expect({ path: `/v2/${name}/manifests/${subject.digest}` }, { status: 404 });
    },
  },
  {
    id: 'M8',
    section: 'Pushing Manifests',
    level: 'MAY',
    text: 'tags beside a digest are set, at least ten, and each is named in OCI-Tag',
    async check(registry) {
      const name = registry.repository();
      const image = await registry.pushImage(name);
      const tags = Array.from({ length: 12 }, (_, at) => `1.${at}`);
      const put = manifestPut(name, image.manifest);
      const { headers } = await registry.expect(
        { ...put, path: `${put.path}?${tags.map(tag => `tag=${tag}`).join('&')}` },
        { status: 201 },
      );
      expect(String(headers['oci-tag']).split(', ').sort()).toEqual([...tags].sort());
      for (const tag of tags) {
        await registry.expect(
          { method: 'HEAD', path: `/v2/${name}/manifests/${tag}` },
          { status: 200, headers: { 'Docker-Content-Digest': image.manifest.digest } },
        );
      }
      await registry.expect({ ...put, path: `${put.path}?tag=good&tag=.bad` }, { status: 400 });
      await registry.expect({ path: `/v2/${name}/manifests/good` }, { status: 404 });
    },
  },
  {
    id: 'M9',
    section: 'Pushing Manifests',
    level: 'MUST',
    text: 'the Content-Type is the mediaType of the manifest, else it is invalid',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name);
      for (const type of [OCI_INDEX, DOCKER_MANIFEST, 'application/json', 'text/plain']) {
        await registry.expect(
          { ...manifestPut(name, manifest, 'v1'), headers: { 'content-type': type } },
          INVALID,
        );
      }
      await registry.expect({ path: `/v2/${name}/manifests/v1` }, { status: 404 });
    },
  },
  {
    id: 'M10',
    section: 'Pushing Manifests',
    level: 'own',
    text: 'what is no manifest, or could be read as two, is invalid',
    async check(registry) {
      const name = registry.repository();
      const { config, layers } = await pushParts(registry, name);
      const { manifest } = await registry.pushImage(name);
      const bad: readonly Content[] = [
        contentOf('no JSON', OCI_MANIFEST),
        contentOf('[]', OCI_MANIFEST),
        manifestOf({ config, layers, manifests: [descriptorOf(manifest)] }),
        manifestOf({ manifests: [descriptorOf(manifest)], layers }, OCI_INDEX),
        manifestOf({ manifests: layers }, OCI_INDEX),
        manifestOf({ config: { ...config, digest: 'sha256:../../x' }, layers }),
        manifestOf({ config: { ...config, size: -1 }, layers }),
        contentOf(`${'['.repeat(10_000)}${']'.repeat(10_000)}`, OCI_MANIFEST),
      ];
      for (const content of bad) await registry.expect(manifestPut(name, content, 'bad'), INVALID);
      await registry.expect({ path: `/v2/${name}/manifests/bad` }, { status: 404 });
    },
  },
  {
    id: 'M11',
    section: 'Push',
    level: 'MAY',
    text: 'an index needs its manifests, and indexes may hold indexes',
    async check(registry) {
      const name = registry.repository();
      const image = smallImage();
      const { manifest: index } = indexOf([image]);
      const unknown = { status: 404, code: 'MANIFEST_BLOB_UNKNOWN' };
      await registry.expect(manifestPut(name, index, 'multi'), unknown);
      // The same digest as a blob is no manifest.
      await registry.pushBlob(name, image.manifest);
      await registry.expect(manifestPut(name, index, 'multi'), unknown);
      await registry.pushImage(name, undefined, image);
      await registry.pushManifest(name, index, 'multi');
      let nested = index;
      for (let depth = 0; depth < 2; depth += 1) {
        nested = manifestOf({ manifests: [descriptorOf(nested)] }, OCI_INDEX);
        await registry.pushManifest(name, nested);
      }
      await registry.pushManifest(name, manifestOf({ manifests: [] }, OCI_INDEX), 'empty');
    },
  },
  {
    id: 'M12',
    section: 'Push',
    level: 'own',
    text: 'a non-distributable layer need not be there, and naming it does not make it pullable',
    async check(registry) {
      const name = registry.repository();
      const { config, layers } = await pushParts(registry, name);
      const foreign = randomBlob(500, `foreign ${name}`, FOREIGN_LAYER);
      await registry.pushBlob(registry.repository(), foreign);
      const urls = ['https://store.example/foreign'];
      const manifest = manifestOf({ config, layers: [{ ...descriptorOf(foreign), urls }, ...layers] });
      await registry.pushManifest(name, manifest, 'windows');
      await registry.expect({ path: `/v2/${name}/blobs/${foreign.digest}` }, { status: 404 });
    },
  },
  {
    id: 'M13',
    section: 'Pushing Manifests',
    level: 'own',
    text: 'Docker schema 2, artifacts, and a manifest without layers are taken',
    async check(registry) {
      const name = registry.repository();
      const { config, layers } = await pushParts(registry, name);
      const [layer] = layers;
      const docker = {
        config: { ...config, mediaType: DOCKER_CONFIG },
        layers: [{ ...layer, mediaType: DOCKER_LAYER }],
      };
      await registry.pushManifest(name, manifestOf(docker, DOCKER_MANIFEST), 'docker');
      await registry.pushManifest(
        name,
        manifestOf({ config, layers, artifactType: 'text/x-own' }),
        'artifact',
      );
      await registry.pushManifest(name, manifestOf({ config, layers: [] }), 'no-layers');
      await registry.expect(
        { path: `/v2/${name}/manifests/docker` },
        { status: 200, headers: { 'Content-Type': DOCKER_MANIFEST } },
      );
    },
  },
  {
    id: 'M14',
    section: 'Pushing Manifests',
    level: 'own',
    text: 'the same push again is the same, and a tag moves to what was pushed last',
    async check(registry) {
      const name = registry.repository();
      const first = await registry.pushImage(name, 'v1');
      await registry.pushManifest(name, first.manifest, 'v1');
      const second = await registry.pushImage(name, 'v1');
      await registry.expect(
        { path: `/v2/${name}/manifests/v1` },
        { status: 200, headers: { 'Docker-Content-Digest': second.manifest.digest } },
      );
      await registry.expect({ path: `/v2/${name}/manifests/${first.manifest.digest}` }, { status: 200 });
    },
  },
  {
    id: 'M15',
    section: 'Pushing Manifests',
    level: 'own',
    text: 'more than fifty tags in one push are refused, and none of them is set',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name);
      const put = manifestPut(name, manifest);
      const tags = Array.from({ length: 51 }, (_, at) => `tag=v${at}`);
      await registry.expect(
        { ...put, path: `${put.path}?${tags.join('&')}` },
        { status: 400, code: 'QUERY_INVALID' },
      );
      await registry.expect({ path: `/v2/${name}/manifests/v0` }, { status: 404 });
    },
  },
];
