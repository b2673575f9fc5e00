// Real images, built once per machine: a small one for three platforms out of Debian's busybox-static, the same
// with another content (for tags that move), and a big one. Kept as an OCI layout, pushed from there to registries.
import { createHash, randomFillSync } from 'node:crypto';
import { existsSync } from 'node:fs';
import { cp, mkdir, rename, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DockerRegistry } from './docker-registry.ts';
import { run } from './programs.ts';
import { removeFolder } from './temp-folder.ts';

export const IMAGE_PROGRAMS: readonly string[] = ['buildah', 'skopeo', 'apt-get', 'dpkg-deb'];

/**
 * What there is: `busybox` and `busybox-moved` are indexes for linux/amd64, linux/arm64 and linux/arm/v7 of two
 * layers each, of which they share one; `big` is an index for linux/amd64 alone, of 8 layers of 16 MiB that do not compress.
 */
export type ImageName = 'busybox' | 'busybox-moved' | 'big';

export const BIG_LAYERS = 8;
const BIG_LAYER_BYTES = 16 * 1024 * 1024;

/** Debian's name of an architecture → the platform of OCI. */
const PLATFORMS: ReadonlyMap<string, string> = new Map([
  ['amd64', 'linux/amd64'],
  ['arm64', 'linux/arm64'],
  ['armhf', 'linux/arm/v7'],
]);

/** Changes with what is built, so that an older cache is not taken for it. */
const CACHE_VERSION = 'images-2';

const APPLETS = ['sh', 'echo', 'cat', 'ls', 'sleep', 'true', 'wget', 'httpd', 'sha256sum', 'uname'];

/** The folder for what is expensive to make and the same for every run. */
export function testCacheFolder(): string {
  return process.env['TEST_CACHE'] ?? join(tmpdir(), 'entrepot-test-cache');
}

/** The OCI layout that holds all images, each under its name as reference; built if it is not there yet. */
export async function imageLayout(): Promise<string> {
  const layout = join(testCacheFolder(), CACHE_VERSION);
  if (existsSync(join(layout, 'index.json'))) return layout;
  // Another run may build at the same time: each in its own folder, and the first rename wins.
  const work = `${layout}.${process.pid}`;
  await removeFolder(work);
  await mkdir(work, { recursive: true });
  try {
    await buildAll(work);
    await rename(join(work, 'layout'), layout).catch((error: unknown) => {
      if (!existsSync(join(layout, 'index.json'))) throw error;
    });
  } finally {
    await removeFolder(work);
  }
  return layout;
}

/** No criterion, only an end for what hangs: on a busy machine it takes minutes. */
const MAKING_MS = 1_200_000;

/** A root file system with Debian's Node and npm, since no base image can be pulled without a registry: the path of a tar. */
export async function debianWithNode(): Promise<string> {
  const archive = join(testCacheFolder(), 'debian-with-node-1.tar');
  if (existsSync(archive)) return archive;
  await mkdir(testCacheFolder(), { recursive: true });
  const made = `${archive.replace(/\.tar$/, '')}.${process.pid}.tar`;
  const packages = '--include=nodejs,npm,ca-certificates';
  await run('mmdebstrap', ['--quiet', '--variant=minbase', packages, 'trixie', made], {
    timeoutMs: MAKING_MS,
  });
  await rename(made, archive);
  return archive;
}

/** Puts an image, all its platforms and byte for byte, into a registry as `repository:tag`. */
export async function pushImage(image: ImageName, registry: DockerRegistry, name: string): Promise<void> {
  const credential = registry.credential === undefined ? [] : ['--dest-creds', registry.credential];
  const from = `oci:${await imageLayout()}:${image}`;
  const flags = ['--all', '--preserve-digests', '--dest-tls-verify=false', ...credential];
  await run('skopeo', ['copy', '--quiet', ...flags, from, `docker://${registry.host}/${name}`]);
}

/** The digest of an image as registries will name it: of its index. */
export async function imageDigest(image: ImageName): Promise<string> {
  const bytes = await run('skopeo', ['inspect', '--raw', `oci:${await imageLayout()}:${image}`]);
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

async function buildAll(work: string): Promise<void> {
  for (const architecture of PLATFORMS.keys()) {
    await makeBusyboxRoot(work, architecture);
  }
  const buildah = new Buildah(work);
  for (const image of ['busybox', 'busybox-moved'] as const) {
    for (const [architecture, platform] of PLATFORMS) {
      await buildah.build(image, platform, join(work, architecture), [
        'FROM scratch',
        'COPY bin /bin',
        `COPY ${image}.txt /etc/image.txt`,
        'ENV PATH=/bin',
        'CMD ["cat", "/etc/image.txt"]',
      ]);
    }
    await buildah.save(image);
  }
  const big = join(work, 'big');
  await mkdir(big);
  const layers = Array.from({ length: BIG_LAYERS }, (_, at) => `layer-${at}`);
  for (const layer of layers)
    await writeFile(join(big, layer), randomFillSync(Buffer.alloc(BIG_LAYER_BYTES)));
  const copies = layers.map(layer => `COPY ${layer} /${layer}`);
  await buildah.build('big', 'linux/amd64', big, ['FROM scratch', ...copies, 'CMD ["/layer-0"]']);
  await buildah.save('big');
}

/** buildah with a storage of its own, that needs neither a daemon nor a kernel feature. */
class Buildah {
  readonly #work: string;

  constructor(work: string) {
    this.#work = work;
  }

  async build(image: string, platform: string, context: string, lines: readonly string[]): Promise<void> {
    const file = join(this.#work, `${image}.containerfile`);
    await writeFile(file, `${lines.join('\n')}\n`);
    // One layer for each COPY, and the same bytes on each platform where the content is the same.
    const flags = ['--layers', '--timestamp', '0', '--isolation', 'chroot', '--quiet'];
    await this.#run('build', ...flags, '--platform', platform, '--manifest', image, '--file', file, context);
  }

  async save(image: string): Promise<void> {
    const layout = `oci:${join(this.#work, 'layout')}:${image}`;
    await this.#run('manifest', 'push', '--quiet', '--all', image, layout);
  }

  async #run(command: string, ...args: string[]): Promise<void> {
    const folders = ['--root', join(this.#work, 'storage'), '--runroot', join(this.#work, 'run')];
    await run('buildah', ['--storage-driver', 'vfs', ...folders, command, ...args]);
  }
}

/** A folder named after the architecture: `bin/` with busybox and its applets, and a text for each image. */
async function makeBusyboxRoot(work: string, architecture: string): Promise<void> {
  const root = join(work, architecture);
  const file = await downloadBusybox(work, architecture);
  await run('dpkg-deb', ['--extract', file, join(work, `${architecture}.deb`)]);
  await mkdir(join(root, 'bin'), { recursive: true });
  const extracted = join(work, `${architecture}.deb`, 'usr', 'bin', 'busybox');
  await cp(extracted, join(root, 'bin', 'busybox'));
  for (const applet of APPLETS) await symlink('busybox', join(root, 'bin', applet));
  await writeFile(join(root, 'busybox.txt'), 'hello from the first\n');
  await writeFile(join(root, 'busybox-moved.txt'), 'hello from the second\n');
}

/**
 * The .deb file of an architecture, from where apt finds the machine's own. Beside it lie the others: no foreign
 * architecture needs to be added to the machine. Their hash is not checked, and nothing runs them.
 */
async function downloadBusybox(work: string, architecture: string): Promise<string> {
  const printed = await run('apt-get', ['--print-uris', 'download', 'busybox-static'], { cwd: work });
  const url = /^'([^']+)_[a-z0-9]+\.deb'/m.exec(printed)?.[1];
  if (url === undefined) throw new Error(`apt-get knows no busybox-static (apt-get update): ${printed}`);
  const file = join(work, `busybox-static_${architecture}.deb`);
  await run(APT_HELPER, ['download-file', `${url}_${architecture}.deb`, file]);
  return file;
}

/** Downloads as apt is configured to: mirrors and proxies included. */
const APT_HELPER = '/usr/lib/apt/apt-helper';
