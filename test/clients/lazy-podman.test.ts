// podman with zstd:chunked layers: of a layer it requests only the files that it lacks, many ranges at once.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CHUNKED_IMAGE_PROGRAMS, ChunkedImage } from '../support/chunked-image.ts';
import { REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { type Metered, MeteredMirror } from '../support/metered-mirror.ts';
import { PODMAN_PROGRAMS, Podman } from '../support/podman.ts';
import { hasPrograms } from '../support/programs.ts';

const canRun = hasPrograms(...PODMAN_PROGRAMS, ...REGISTRY_PROGRAMS, ...CHUNKED_IMAGE_PROGRAMS);

const SIZE = { files: 400, fileBytes: 50_000 };
const LAYER_BYTES = SIZE.files * SIZE.fileBytes;
const REPOSITORY = 'team/chunked';

describe.skipIf(!canRun)(
  'podman that has a version of an image, and pulls the next one through a mirror',
  () => {
    let mirror: MeteredMirror;
    let image: ChunkedImage;
    let podman: Podman;
    let fromOrigin: Metered;
    let first: Metered;

    beforeAll(async () => {
      mirror = await MeteredMirror.start(12.5e6);
      image = await ChunkedImage.push(`${mirror.origin.host}/${REPOSITORY}`, SIZE);
      podman = await Podman.make('', 'overlay');
      await podman.run('pull', '--quiet', '--tls-verify=false', mirror.direct(`${REPOSITORY}:1`));
      fromOrigin = await pull(mirror.direct(`${REPOSITORY}:2`));
    });

    afterAll(async () => {
      await podman.remove();
      await image.remove();
      await mirror.remove();
    });

    test('requests what it requests of the origin, and upstream sends little more', async () => {
      first = await pull(mirror.mirrored(`${REPOSITORY}:2`));
      expect(fromOrigin.upstreamBytes).toBeLessThan(LAYER_BYTES / 5);
      expect(first.clientBytes).toBeLessThan(fromOrigin.upstreamBytes * 1.05);
      expect(first.upstreamBytes).toBeLessThan(first.clientBytes * 1.3);
    });

    test('has what another has requested without asking upstream', async () => {
      const again = await pull(mirror.mirrored(`${REPOSITORY}:2`));
      expect(again.upstreamBytes).toBe(0);
      expect(again.clientBytes).toBeLessThan(fromOrigin.upstreamBytes * 1.05);
    });

    test('leaves only the rest of the layer to be fetched by one that pulls it whole', async () => {
      const other = await Podman.make();
      try {
        const sent = mirror.meter();
        await other.run('pull', '--quiet', '--tls-verify=false', mirror.mirrored(`${REPOSITORY}:2`));
        expect(sent().upstreamBytes + first.upstreamBytes).toBeLessThan(LAYER_BYTES * 1.05);
      } finally {
        await other.remove();
      }
    });

    test('requests no more of a layer that is stored whole', async () => {
      const stored = await pull(mirror.mirrored(`${REPOSITORY}:2`));
      expect(stored.upstreamBytes).toBe(0);
      expect(stored.clientBytes).toBeLessThan(fromOrigin.upstreamBytes * 1.05);
    });

    /** Pulls the second version, which must be right, and removes it again. */
    async function pull(reference: string): Promise<Metered> {
      const sent = mirror.meter();
      await podman.run('pull', '--quiet', '--tls-verify=false', reference);
      const all = sent();
      await image.removePulled(podman, reference);
      return all;
    }
  },
);
