import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { BIG_LAYERS, IMAGE_PROGRAMS, imageDigest, pushImage } from '../support/images.ts';
import {
  beyondTagChecks,
  FIXED,
  fetchedBlobs,
  LATEST,
  MirroredRegistry,
  PRIVATE,
  UPSTREAM_MODES,
} from '../support/mirrored-registry.ts';
import { hasPrograms } from '../support/programs.ts';
import { BUSYBOX_BLOBS, countIntact, Skopeo } from '../support/skopeo.ts';

const canRun = hasPrograms('skopeo', ...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

describe.skipIf(!canRun)('skopeo', () => {
  let skopeo: Skopeo;
  beforeAll(async () => void (skopeo = await Skopeo.make()));
  afterAll(async () => skopeo.remove());

  for (const mode of UPSTREAM_MODES) {
    describe(`from an upstream that is ${mode}`, () => {
      let mirror: MirroredRegistry;
      beforeAll(async () => void (mirror = await MirroredRegistry.start(mode)));
      afterAll(async () => mirror.remove());

      test('inspect gets the index byte for byte', async () => {
        const reference = `docker://${mirror.reference(FIXED)}`;
        const bytes = await skopeo.run('inspect', '--raw', '--tls-verify=false', reference);
        expect(`sha256:${createHash('sha256').update(bytes).digest('hex')}`).toBe(
          await imageDigest('busybox'),
        );
      });

      test('copy --all gets three platforms, and each blob is fetched from upstream once', async () => {
        const folder = await skopeo.copyOut(mirror.reference(FIXED), '--all', '--preserve-digests');
        expect(await countIntact(folder)).toBe(BUSYBOX_BLOBS);
        const blobs = fetchedBlobs(await mirror.takeRequests());
        expect(blobs).toHaveLength(BUSYBOX_BLOBS);
        expect(new Set(blobs).size).toBe(BUSYBOX_BLOBS);
      });

      test('a second copy sends no request to upstream', async () => {
        await skopeo.copyOut(mirror.reference(FIXED), '--all', '--preserve-digests');
        expect(await mirror.takeRequests()).toEqual([]);
      });

      test('latest is checked, and nothing else', async () => {
        await skopeo.copyOut(mirror.reference(LATEST), '--all');
        await mirror.takeRequests();
        await skopeo.copyOut(mirror.reference(LATEST), '--all');
        expect(beyondTagChecks(await mirror.takeRequests())).toEqual([]);
      });

      test('tags are listed', async () => {
        const repository = `docker://${mirror.reference(FIXED).replace(/:1$/, '')}`;
        const listed = await skopeo.run('list-tags', '--tls-verify=false', repository);
        expect(JSON.parse(listed)).toMatchObject({ Tags: expect.arrayContaining(['1', 'latest']) });
      });

      test("a repository that only Entrepot's own credential can read can be copied, too", async () => {
        expect(await countIntact(await skopeo.copyOut(mirror.reference(PRIVATE), '--all'))).toBe(
          BUSYBOX_BLOBS,
        );
      });

      test('says why an image cannot be had, and that a stored one may be old, with upstream stopped', async () => {
        await mirror.upstream.stop();
        const inspect = (reference: string) => {
          const args = ['inspect', '--tls-verify=false', `docker://${mirror.reference(reference)}`];
          return skopeo.config.tryRun('skopeo', ...args);
        };
        expect(await inspect(FIXED.replace(/:1$/, ':2'))).toMatchObject({
          code: 1,
          stderr: expect.stringMatching(/Warning from registry.*cannot be reached/),
        });
        expect(await inspect(LATEST)).toMatchObject({
          code: 0,
          stderr: expect.stringMatching(/Warning from registry.*could not confirm/),
        });
      });

      test('everything stored is still served with upstream stopped', async () => {
        await mirror.upstream.stop();
        for (const image of [FIXED, LATEST, PRIVATE]) {
          expect(await countIntact(await skopeo.copyOut(mirror.reference(image), '--all'))).toBe(
            BUSYBOX_BLOBS,
          );
        }
      });
    });
  }

  describe('several at once', () => {
    let mirror: MirroredRegistry;
    beforeAll(async () => {
      mirror = await MirroredRegistry.start('open');
      await pushImage('big', mirror.upstream, 'public/big:1');
      await mirror.takeRequests();
    });
    afterAll(async () => mirror.remove());

    test('three copies of a cold image of eight large layers fetch it from upstream once', async () => {
      const folders = await Promise.all(
        [1, 2, 3].map(() => skopeo.copyOut(mirror.reference('public/big:1'))),
      );
      for (const folder of folders) expect(await countIntact(folder)).toBe(BIG_LAYERS + 1);
      const blobs = fetchedBlobs(await mirror.takeRequests());
      expect(blobs).toHaveLength(BIG_LAYERS + 1);
      expect(new Set(blobs).size).toBe(blobs.length);
    });
  });
});
