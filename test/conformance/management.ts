import { newBlob, type Registry } from './registry.ts';
import type { Requirement } from './requirement.ts';

const UNKNOWN_DIGEST = `sha256:${'0'.repeat(64)}`;

export const MANAGEMENT: readonly Requirement[] = [
  {
    id: 'X1',
    section: 'Deleting tags',
    level: 'MUST',
    text: 'DELETE of a tag is 202 and takes that tag alone',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      await registry.pushManifest(name, manifest, 'v2');
      const path = `/v2/${name}/manifests/v1`;
      await registry.expect({ method: 'DELETE', path }, { status: 202 });
      await registry.expect({ path }, { status: 404 });
      for (const reference of ['v2', manifest.digest]) {
        await registry.expect({ path: `/v2/${name}/manifests/${reference}` }, { status: 200 });
      }
      await registry.expect({ method: 'DELETE', path }, { status: 404 });
    },
  },
  {
    id: 'X2',
    section: 'Deleting Manifests',
    level: 'MUST',
    text: 'DELETE by digest is 202; then the digest and every tag that meant it are 404',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      await registry.pushManifest(name, manifest, 'v2');
      await registry.expect(
        { method: 'DELETE', path: `/v2/${name}/manifests/${manifest.digest}` },
        { status: 202 },
      );
      for (const reference of ['v1', 'v2', manifest.digest]) {
        await registry.expect({ path: `/v2/${name}/manifests/${reference}` }, { status: 404 });
      }
    },
  },
  {
    id: 'X3',
    section: 'Deleting Manifests',
    level: 'MUST',
    text: 'in a repository that does not exist it is 404',
    async check(registry) {
      for (const reference of ['v1', UNKNOWN_DIGEST]) {
        const path = `/v2/${registry.repository()}/manifests/${reference}`;
        await registry.expect({ method: 'DELETE', path }, { status: 404 });
      }
    },
  },
  {
    id: 'X4',
    section: 'Deleting Blobs',
    level: 'MUST',
    text: 'DELETE of a blob is 202; then it is 404',
    async check(registry) {
      const name = registry.repository();
      const blob = newBlob();
      await registry.pushBlob(name, blob);
      const path = `/v2/${name}/blobs/${blob.digest}`;
      await registry.expect({ method: 'DELETE', path }, { status: 202 });
      await registry.expect({ path }, { status: 404 });
      await registry.expect({ method: 'HEAD', path }, { status: 404 });
      await registry.expect({ method: 'DELETE', path }, { status: 404, code: 'BLOB_UNKNOWN' });
    },
  },
  {
    id: 'X5',
    section: 'Deleting Blobs',
    level: 'own',
    text: "what one repository deletes, another keeps, and it does not come back by another's use",
    async check(registry) {
      const [name, other] = [registry.repository(), registry.repository()];
      const image = await registry.pushImage(name, 'v1');
      await registry.pushImage(other, 'v1', image);
      const [layer] = image.layers;
      const blob = `/v2/${name}/blobs/${layer?.digest}`;
      await registry.expect(
        { method: 'DELETE', path: `/v2/${name}/manifests/${image.manifest.digest}` },
        { status: 202 },
      );
      await registry.expect({ method: 'DELETE', path: blob }, { status: 202 });
      await registry.expect({ path: `/v2/${other}/manifests/v1` }, { status: 200 });
      await registry.expect({ path: `/v2/${other}/blobs/${layer?.digest}` }, { status: 200 });
      await registry.expect({ path: blob }, { status: 404 });
      await registry.expect({ path: `/v2/${name}/manifests/v1` }, { status: 404 });
    },
  },
];

/** Where deleting is disabled, it is refused with 405 or 400. Cancelling an upload deletes no content. */
export async function expectNothingDeletable(registry: Registry): Promise<void> {
  const name = registry.repository();
  const { manifest, config } = await registry.pushImage(name, 'v1');
  const upload = await registry.beginUpload(name);
  const paths = [
    `/v2/${name}/manifests/v1`,
    `/v2/${name}/manifests/${manifest.digest}`,
    `/v2/${name}/blobs/${config.digest}`,
  ];
  for (const path of paths) {
    await registry.expect({ method: 'DELETE', path }, { status: [400, 405], code: 'UNSUPPORTED' });
    await registry.expect({ path }, { status: 200 });
  }
  await registry.expect({ method: 'DELETE', path: upload }, { status: 204 });
}
