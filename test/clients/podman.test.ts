import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { IMAGE_PROGRAMS } from '../support/images.ts';
import {
  beyondTagChecks,
  FIXED,
  fetchedBlobs,
  LATEST,
  MirroredRegistry,
  UPSTREAM,
  UPSTREAM_MODES,
} from '../support/mirrored-registry.ts';
import { PODMAN_PROGRAMS, Podman } from '../support/podman.ts';
import { hasPrograms } from '../support/programs.ts';

const canRun = hasPrograms(...PODMAN_PROGRAMS, ...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

function registriesConf(entrepotHost: string): string {
  return `
unqualified-search-registries = []
[[registry]]
prefix = "${UPSTREAM}"
location = "${UPSTREAM}"
[[registry.mirror]]
location = "${entrepotHost}/${UPSTREAM}"
insecure = true
`;
}

for (const mode of UPSTREAM_MODES) {
  describe.skipIf(!canRun)(
    `podman with a mirror in registries.conf, from an upstream that is ${mode}`,
    () => {
      let mirror: MirroredRegistry;
      let podman: Podman;
      beforeAll(async () => {
        mirror = await MirroredRegistry.start(mode);
        podman = await Podman.make(registriesConf(mirror.entrepot.host));
      });
      afterAll(async () => {
        await podman.remove();
        await mirror.remove();
      });

      /** Pulls as a machine that holds nothing of it, and answers the id of the image. */
      async function pullAnew(image: string): Promise<string> {
        const reference = `${UPSTREAM}/${image}`;
        const id = (await podman.run('pull', '--quiet', reference)).trim();
        await podman.run('image', 'rm', '--force', reference);
        return id;
      }

      test('pulls cold, each blob once', async () => {
        expect(await pullAnew(FIXED)).toMatch(/^[0-9a-f]{64}$/);
        const blobs = fetchedBlobs(await mirror.takeRequests());
        expect(blobs).toHaveLength(3);
        expect(new Set(blobs).size).toBe(3);
      });

      test('pulls warm without a request to upstream', async () => {
        await pullAnew(FIXED);
        expect(await mirror.takeRequests()).toEqual([]);
      });

      test('pulls latest with one question about the tag', async () => {
        await pullAnew(LATEST);
        await mirror.takeRequests();
        await pullAnew(LATEST);
        expect(beyondTagChecks(await mirror.takeRequests())).toEqual([]);
      });

      test('pulls stored images while upstream is stopped', async () => {
        const id = await pullAnew(FIXED);
        await mirror.upstream.stop();
        expect(await pullAnew(FIXED)).toBe(id);
        expect(await pullAnew(LATEST)).toBe(id);
      });
    },
  );
}
