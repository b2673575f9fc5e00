// podman with zstd:chunked layers: of a layer it requests only the files that it lacks, many ranges at once.
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DockerRegistry, REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { Entrepot } from '../support/entrepot.ts';
import { fetchedBlobs, UPSTREAM } from '../support/mirrored-registry.ts';
import { PODMAN_PROGRAMS, Podman } from '../support/podman.ts';
import { hasPrograms } from '../support/programs.ts';

const canRun = hasPrograms(...PODMAN_PROGRAMS, ...REGISTRY_PROGRAMS, 'buildah');

const FILES = 100;
const FILE_BYTES = 50_000;
/** How many files differ in the second version, scattered over the layer. */
const CHANGED_FILES = FILES / 10;
/** Beside the changed files: the layer's table of contents, config and manifest. */
const OTHER_BYTES = 100_000;

describe.skipIf(!canRun)('podman with zstd:chunked layers, through a mirror', () => {
  let upstream: DockerRegistry;
  let entrepot: Entrepot;
  let builder: Podman;
  let context: string;
  let podman: Podman;

  beforeAll(async () => {
    upstream = await DockerRegistry.start();
    entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } } });
    builder = await Podman.make();
    context = join(builder.config.folder, 'context');
    await mkdir(context);
    await writeFile(join(context, 'Containerfile'), 'FROM scratch\nCOPY f-* /\nCMD ["/none"]\n');
    await writeFiles(1);
    await push('1');
    await writeFiles(FILES / CHANGED_FILES);
    await push('2');
    await upstream.forgetRequests();
    podman = await Podman.make('', 'overlay');
  });

  afterAll(async () => {
    await podman.remove();
    await builder.remove();
    await entrepot.remove();
    await upstream.remove();
  });

  test('pulls only what changed of a version that is not stored yet, and upstream sends it once', async () => {
    expect(await bytesOf(() => pull('1'))).toBeGreaterThan(FILES * FILE_BYTES);
    const bytes = await bytesOf(() => pull('2'));
    expect(bytes).toBeGreaterThan(CHANGED_FILES * FILE_BYTES);
    expect(bytes).toBeLessThan(CHANGED_FILES * FILE_BYTES + OTHER_BYTES);
    const fetched = fetchedBlobs(await upstream.requests());
    expect(fetched).toHaveLength(4);
    expect(new Set(fetched).size).toBe(4);
  });

  test('has every byte of it', async () => {
    const mounted = (await podman.run('image', 'mount', reference('2'))).trim();
    for (let at = 0; at < FILES; at += 1) {
      const [pulled, built] = await Promise.all(
        [mounted, context].map(from => readFile(join(from, `f-${at}`))),
      );
      expect(built?.equals(pulled ?? Buffer.alloc(0)), `f-${at}`).toBe(true);
    }
    await podman.run('image', 'unmount', reference('2'));
  });

  test('pulls only what changed of a version that is stored', async () => {
    await podman.run('image', 'rm', '--force', reference('2'));
    const bytes = await bytesOf(() => pull('2'));
    expect(bytes).toBeLessThan(CHANGED_FILES * FILE_BYTES + OTHER_BYTES);
  });

  function reference(version: string): string {
    return `${entrepot.host}/${UPSTREAM}/team/chunked:${version}`;
  }

  async function pull(version: string): Promise<void> {
    await podman.run('pull', '--quiet', '--tls-verify=false', reference(version));
  }

  /** How many bytes of bodies clients were sent meanwhile. */
  async function bytesOf(act: () => Promise<void>): Promise<number> {
    const before = await sentBytes();
    await act();
    return (await sentBytes()) - before;
  }

  async function sentBytes(): Promise<number> {
    const counters = (await entrepot.metrics()).matchAll(/^entrepot_http_sent_bytes_total\{.*\} (\d+)/gm);
    return [...counters].reduce((sum, [, count]) => sum + Number(count), 0);
  }

  async function writeFiles(each: number): Promise<void> {
    for (let at = 0; at < FILES; at += each)
      await writeFile(join(context, `f-${at}`), randomBytes(FILE_BYTES));
  }

  async function push(version: string): Promise<void> {
    const image = `${upstream.host}/team/chunked:${version}`;
    await builder.run('build', '--quiet', '--isolation', 'chroot', '--no-cache', '--tag', image, context);
    await builder.run('push', '--quiet', '--tls-verify=false', '--compression-format', 'zstd:chunked', image);
  }
});
