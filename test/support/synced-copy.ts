// What a power loss would leave of a folder that processes write to: what was synced of it, and nothing else. Their syncs go
// through a small library (synced-copy.c) that keeps it aside.
import { copyFile, mkdir, readFile, realpath, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { absentAsUndefined } from '../../src/lib/error-code.ts';
import { preloadLibrary } from './preload-library.ts';
import { run } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

export class SyncedCopy {
  /** Environment variables for every process that writes to the folder. */
  readonly env: Readonly<Record<string, string>>;
  readonly #watched: string;
  readonly #kept: string;

  private constructor(watched: string, kept: string, library: string) {
    this.#watched = watched;
    this.#kept = kept;
    this.env = { LD_PRELOAD: library, SYNCED_COPY_OF: watched, SYNCED_COPY: kept };
  }

  /** Of the folder `watched`, whose own name counts as synced; what is synced of it goes into the folder `kept`. */
  static async of(watched: string, kept: string): Promise<SyncedCopy> {
    await Promise.all([watched, kept].map(folder => mkdir(folder, { recursive: true })));
    return new SyncedCopy(await realpath(watched), kept, await preloadLibrary('synced-copy.c'));
  }

  /** Makes the new folder `to` of what is synced now, at one moment of all processes. */
  async copyTo(to: string): Promise<void> {
    const { ino, birthtimeNs } = await stat(this.#watched, { bigint: true });
    const seconds = birthtimeNs / 1_000_000_000n;
    const rest = String(birthtimeNs % 1_000_000_000n).padStart(9, '0');
    const kept = await makeTempFolder('kept');
    try {
      // Whoever syncs holds the lock, and waits meanwhile. What is kept is only ever replaced, so that links are as good.
      const copy = ['cp', '--recursive', '--link', `${this.#kept}/.`, kept];
      await run('flock', [join(this.#kept, 'lock'), ...copy]);
      await copyFolder(kept, `${ino}-${seconds}.${rest}`, to);
    } finally {
      await removeFolder(kept);
    }
  }
}

async function copyFolder(kept: string, name: string, to: string): Promise<void> {
  await mkdir(to);
  const entries = (await absentAsUndefined(readFile(join(kept, name), 'utf8'))) ?? '';
  for (const entry of entries.split('\n').slice(0, -1)) {
    const [kind, child = '', ...rest] = entry.split(' ');
    const path = join(to, rest.join(' '));
    await (kind === 'folder' ? copyFolder : copySynced)(kept, child, path);
  }
}

/** One whose name was synced and whose bytes never were is empty. */
async function copySynced(kept: string, name: string, to: string): Promise<void> {
  const copied = await absentAsUndefined(copyFile(join(kept, name), to).then(() => true));
  if (copied === undefined) await writeFile(to, '');
}
