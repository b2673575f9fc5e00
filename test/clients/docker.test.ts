import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { DOCKER_PROGRAMS, Dockerd } from '../support/dockerd.ts';
import { IMAGE_PROGRAMS, pushImage } from '../support/images.ts';
import { beyondTagChecks, fetchedBlobs, MirroredRegistry } from '../support/mirrored-registry.ts';
import { freePort, hasPrograms } from '../support/programs.ts';

const canRun = hasPrograms(...DOCKER_PROGRAMS, ...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

describe.skipIf(!canRun)('dockerd with --registry-mirror', () => {
  let mirror: MirroredRegistry;
  let docker: Dockerd;
  beforeAll(async () => {
    // Docker names no registry to a mirror, so this listener belongs to Docker Hub; the registry here stands for it.
    const address = `127.0.0.1:${await freePort()}`;
    const listen = [`127.0.0.1:${await freePort()}`, { address, upstream: 'docker.io' }];
    mirror = await MirroredRegistry.start('open', 'docker.io', { server: { listen } });
    await pushImage('busybox', mirror.upstream, 'library/busybox:latest');
    await pushImage('busybox', mirror.upstream, 'library/busybox:1');
    await mirror.takeRequests();
    docker = await Dockerd.start({ settings: { 'registry-mirrors': [`http://${address}`] } });
  });
  afterAll(async () => {
    await docker.remove();
    await mirror.remove();
  });

  /** Pulls as a daemon that holds nothing of it, runs it and answers what it said. */
  async function runAnew(image: string): Promise<string> {
    await docker.run('pull', '--quiet', image);
    const said = await docker.outputOf(image);
    await docker.run('image', 'rm', '--force', image);
    return said;
  }

  test('an image is pulled and runs, each blob fetched from upstream once', async () => {
    expect(await runAnew('busybox:1')).toBe('hello from the first');
    const blobs = fetchedBlobs(await mirror.takeRequests());
    expect(blobs).toHaveLength(3);
    expect(new Set(blobs).size).toBe(3);
  });

  test('again, without a request to the upstream', async () => {
    expect(await runAnew('busybox:1')).toBe('hello from the first');
    expect(await mirror.takeRequests()).toEqual([]);
  });

  test('latest that moved upstream is the new image', async () => {
    expect(await runAnew('busybox')).toBe('hello from the first');
    expect(beyondTagChecks(await mirror.takeRequests())).toEqual([]);
    await pushImage('busybox-moved', mirror.upstream, 'library/busybox:latest');
    await mirror.takeRequests();
    expect(await runAnew('busybox')).toBe('hello from the second');
    expect(fetchedBlobs(await mirror.takeRequests())).toHaveLength(2);
  });

  test('a stored image runs while upstream is stopped', async () => {
    await mirror.upstream.stop();
    expect(await runAnew('busybox:1')).toBe('hello from the first');
    expect(await runAnew('busybox')).toBe('hello from the second');
  });
});
