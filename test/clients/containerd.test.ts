import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CONTAINERD_PROGRAMS, Containerd } from '../support/containerd.ts';
import { REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { IMAGE_PROGRAMS, imageDigest, pushImage } from '../support/images.ts';
import {
  beyondTagChecks,
  FIXED,
  fetchedBlobs,
  LATEST,
  MirroredRegistry,
  PRIVATE,
  UPSTREAM,
  UPSTREAM_MODES,
} from '../support/mirrored-registry.ts';
import { hasPrograms } from '../support/programs.ts';

const canRun = hasPrograms(...CONTAINERD_PROGRAMS, ...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

/** The ways in which a hosts.toml can name Entrepot. */
const ROUTES = {
  'ns=': (url: string) => `
server = "${url}"
[host."${url}"]
capabilities = ["pull", "resolve"]
`,
  override_path: (url: string) => `
server = "${url}/v2/${UPSTREAM}"
[host."${url}/v2/${UPSTREAM}"]
capabilities = ["pull", "resolve"]
override_path = true
`,
};

describe.skipIf(!canRun)('containerd', () => {
  let node: Containerd;
  beforeAll(async () => void (node = await Containerd.start()));
  afterAll(async () => node.remove());

  /** Pulls as a node that holds nothing of it, and answers what the reference turned out to be. */
  async function pullAnew(image: string, platform?: string): Promise<string | undefined> {
    const reference = `${UPSTREAM}/${image}`;
    await node.pull(reference, platform === undefined ? {} : { platform });
    const digest = await node.imageDigest(reference);
    await node.removeImage(reference);
    return digest;
  }

  for (const mode of UPSTREAM_MODES) {
    for (const [route, hostsToml] of Object.entries(ROUTES)) {
      describe(`pulling by ${route} from an upstream that is ${mode}`, () => {
        let mirror: MirroredRegistry;
        beforeAll(async () => {
          mirror = await MirroredRegistry.start(mode);
          await node.writeHosts(UPSTREAM, hostsToml(mirror.entrepot.url));
        });
        afterAll(async () => mirror.remove());

        test('amd64 and arm64 of one index are pulled cold, and each blob is fetched from upstream once', async () => {
          const digest = await imageDigest('busybox');
          expect(await pullAnew(FIXED, 'linux/amd64')).toBe(digest);
          expect(await pullAnew(FIXED, 'linux/arm64')).toBe(digest);
          const blobs = fetchedBlobs(await mirror.takeRequests());
          // Two configurations, two layers of programs, and one layer that both platforms share.
          expect(blobs).toHaveLength(5);
          expect(new Set(blobs).size).toBe(blobs.length);
        });

        test('they are pulled warm without a request to upstream', async () => {
          await pullAnew(FIXED, 'linux/amd64');
          await pullAnew(FIXED, 'linux/arm64');
          expect(await mirror.takeRequests()).toEqual([]);
        });

        test('latest is checked once on each pull, and stored content is not transferred again', async () => {
          await pullAnew(LATEST, 'linux/amd64');
          await mirror.takeRequests();
          await pullAnew(LATEST, 'linux/amd64');
          const requests = await mirror.takeRequests();
          expect(requests.filter(({ method }) => method === 'HEAD')).toHaveLength(1);
          expect(beyondTagChecks(requests)).toEqual([]);
        });

        test("a repository that only Entrepot's own credential can read can be pulled, too", async () => {
          expect(await pullAnew(PRIVATE, 'linux/amd64')).toBe(await imageDigest('busybox'));
        });

        test('everything stored is still served with upstream stopped', async () => {
          await mirror.upstream.stop();
          const digest = await imageDigest('busybox');
          expect(await pullAnew(FIXED, 'linux/amd64')).toBe(digest);
          expect(await pullAnew(FIXED, 'linux/arm64')).toBe(digest);
          expect(await pullAnew(LATEST, 'linux/amd64')).toBe(digest);
        });
      });
    }
  }

  describe('pulling like a kubelet, through the CRI', () => {
    let mirror: MirroredRegistry;
    beforeAll(async () => {
      mirror = await MirroredRegistry.start('open');
      await node.writeHosts(UPSTREAM, ROUTES['ns='](mirror.entrepot.url));
    });
    afterAll(async () => mirror.remove());

    test('an image can be pulled, and a tag that does not exist is not found', async () => {
      const image = `${UPSTREAM}/${FIXED}`;
      expect(await node.cri.pull(image)).toMatch(/^sha256:/);
      await node.cri.remove(image);
      await expect(node.cri.pull(`${UPSTREAM}/public/busybox:none`)).rejects.toThrow('not found');
    });

    test('latest that moved upstream is the new image, and a shared layer is not transferred again', async () => {
      expect(await pullAnew(LATEST)).toBe(await imageDigest('busybox'));
      await pushImage('busybox-moved', mirror.upstream, LATEST);
      await mirror.takeRequests();
      expect(await pullAnew(LATEST)).toBe(await imageDigest('busybox-moved'));
      // The new configuration and the one layer that differs.
      expect(fetchedBlobs(await mirror.takeRequests())).toHaveLength(2);
    });

    test('an image of eight large layers is pulled, each layer once', async () => {
      await pushImage('big', mirror.upstream, 'public/big:1');
      await mirror.takeRequests();
      expect(await pullAnew('public/big:1')).toBe(await imageDigest('big'));
      const blobs = fetchedBlobs(await mirror.takeRequests());
      expect(blobs).toHaveLength(9);
      expect(new Set(blobs).size).toBe(9);
    });
  });
});
