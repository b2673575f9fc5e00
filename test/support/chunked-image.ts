// An image of one zstd:chunked layer in two versions, of which the second changes one file in ten: made by podman, and
// pushed as `:1` and `:2`.
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Podman } from './podman.ts';

export const CHUNKED_IMAGE_PROGRAMS: readonly string[] = ['buildah'];

/** One file in so many differs in the second version; they are scattered over the layer. */
const CHANGED_EACH = 10;

export interface ChunkedImageSize {
  readonly files: number;
  readonly fileBytes: number;
}

export class ChunkedImage {
  /** What is in the files that differ. */
  readonly changedBytes: number;
  readonly #size: ChunkedImageSize;
  readonly #builder: Podman;

  private constructor(size: ChunkedImageSize, builder: Podman) {
    this.changedBytes = (size.files / CHANGED_EACH) * size.fileBytes;
    this.#size = size;
    this.#builder = builder;
  }

  /** `repository` includes the registry, of which nothing but plain HTTP is expected. */
  static async push(repository: string, size: ChunkedImageSize): Promise<ChunkedImage> {
    const image = new ChunkedImage(size, await Podman.make());
    await mkdir(image.#root, { recursive: true });
    await writeFile(join(image.#context, 'Containerfile'), 'FROM scratch\nCOPY root /\nCMD ["/none"]\n');
    await image.#writeFiles(1);
    await image.#push(`${repository}:1`);
    await image.#writeFiles(CHANGED_EACH);
    await image.#push(`${repository}:2`);
    return image;
  }

  /** Compares every byte of the second version where it was pulled, and removes it there. */
  async removePulled(podman: Podman, reference: string): Promise<void> {
    const root = (await podman.run('image', 'mount', reference)).trim();
    for (const name of this.#names()) {
      const [pulled, built] = await Promise.all([root, this.#root].map(from => readFile(join(from, name))));
      if (pulled === undefined || built?.equals(pulled) !== true)
        throw new Error(`${name} is not what it was`);
    }
    await podman.run('image', 'unmount', reference);
    await podman.run('image', 'rm', '--force', reference);
  }

  /** Removes what it was made with. */
  async remove(): Promise<void> {
    await this.#builder.remove();
  }

  get #context(): string {
    return join(this.#builder.config.folder, 'context');
  }

  get #root(): string {
    return join(this.#context, 'root');
  }

  #names(each = 1): string[] {
    return Array.from({ length: this.#size.files / each }, (_, at) => `f-${at * each}`);
  }

  async #writeFiles(each: number): Promise<void> {
    for (const name of this.#names(each))
      await writeFile(join(this.#root, name), randomBytes(this.#size.fileBytes));
  }

  async #push(image: string): Promise<void> {
    const build = ['--quiet', '--isolation', 'chroot', '--no-cache', '--tag', image];
    await this.#builder.run('build', ...build, this.#context);
    const push = ['--quiet', '--tls-verify=false', '--compression-format', 'zstd:chunked'];
    await this.#builder.run('push', ...push, image);
  }
}
