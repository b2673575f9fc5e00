// Small real file systems that are filled to their last byte by somebody else. Making one needs root; its user is nobody.
import { chmod, chown, mkdir, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { hasPrograms, run } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

export type FileSystem = 'ext4' | 'tmpfs';

/** nobody and nogroup of Debian. */
export const NOBODY = 65_534;

/** Whether this machine lets tests mount what they like. */
export const canMount =
  process.getuid?.() === 0 && hasPrograms('mount', 'umount', 'mkfs.ext4', 'losetup', 'setpriv', 'dd');

/** Becomes nobody, who has no part in what a file system keeps for root. */
export const AS_NOBODY = [
  'setpriv',
  `--reuid=${NOBODY}`,
  `--regid=${NOBODY}`,
  '--clear-groups',
  '--pdeathsig=KILL',
] as const;

/** A mounted file system, on which nobody may write. */
export class SmallDisk {
  /** Readable by all. */
  readonly folder: string;
  /** Where it is mounted. */
  readonly path: string;
  #fillers = 0;

  private constructor(folder: string) {
    this.folder = folder;
    this.path = join(folder, 'disk');
  }

  static async mount(fileSystem: FileSystem, mebibytes: number): Promise<SmallDisk> {
    const folder = await makeTempFolder('disk');
    await chmod(folder, 0o755);
    const disk = new SmallDisk(folder);
    await mkdir(disk.path);
    if (fileSystem === 'tmpfs') {
      await run('mount', ['-t', 'tmpfs', '-o', `size=${mebibytes}M`, 'tmpfs', disk.path]);
    } else {
      const image = join(folder, 'image');
      await run('truncate', ['-s', `${mebibytes}M`, image]);
      await run('mkfs.ext4', ['-q', image]);
      await run('mount', ['-o', 'loop', image, disk.path]);
    }
    await chown(disk.path, NOBODY, NOBODY);
    return disk;
  }

  /** Writes until not one byte more is taken from nobody; then gives `leftBytes` back. */
  async fill(leftBytes = 0): Promise<void> {
    this.#fillers += 1;
    const filler = join(this.path, `filler-${this.#fillers}`);
    const write = (blockSize: string) =>
      `dd if=/dev/zero of=${filler} bs=${blockSize} oflag=append conv=notrunc status=none 2>/dev/null`;
    const [program, ...args] = [...AS_NOBODY, 'sh', '-c', `${write('64k')}; ${write('1')}; sync; true`];
    await run(program, args);
    if (leftBytes > 0) await run('truncate', ['-s', `-${leftBytes}`, join(this.path, 'filler-1')]);
  }

  /** Removes what filled it. */
  async empty(): Promise<void> {
    for (; this.#fillers > 0; this.#fillers -= 1) {
      await rm(join(this.path, `filler-${this.#fillers}`), { force: true });
    }
  }

  /** For nobody. */
  async freeBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(this.path);
    return bavail * bsize;
  }

  /** `share` of it, of a hundred. */
  async percentBytes(share: number): Promise<number> {
    const { blocks, bsize } = await statfs(this.path);
    return (blocks * bsize * share) / 100;
  }

  async unmount(): Promise<void> {
    await run('umount', [this.path]);
    await removeFolder(this.folder);
  }
}
