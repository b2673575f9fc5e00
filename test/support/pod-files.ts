// What the kubelet puts into a container for the pod's own ServiceAccount, and a process that sees it where pods do.
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ACCOUNT_FOLDER } from '../../src/tenants/kubernetes/cluster-access.ts';
import { hasPrograms } from './programs.ts';

/** Mounting needs root. */
export const CAN_MOUNT = process.getuid?.() === 0 && hasPrograms('unshare', 'mount', 'sh');

export interface AccountFiles {
  readonly token: string;
  readonly 'ca.crt': string;
  readonly namespace: string;
}

/** The volume of a pod's ServiceAccount: links into a folder that each renewal replaces as a whole. */
export class AccountVolume {
  readonly #folder: string;
  #version = 0;

  constructor(folder: string) {
    this.#folder = folder;
  }

  /** Replaces all files in one step, as the kubelet does before a token expires. */
  async write(files: AccountFiles): Promise<void> {
    const last = `..${this.#version}`;
    const next = `..${(this.#version += 1)}`;
    await mkdir(join(this.#folder, next), { recursive: true });
    for (const [name, text] of Object.entries(files)) {
      await writeFile(join(this.#folder, next, name), text);
      if (this.#version === 1) await symlink(`..data/${name}`, join(this.#folder, name));
    }
    await symlink(next, join(this.#folder, '..data_tmp'));
    await rename(join(this.#folder, '..data_tmp'), join(this.#folder, '..data'));
    await rm(join(this.#folder, last), { recursive: true, force: true });
  }

  /** For `Entrepot.start`: a mount namespace of its own, in which the volume lies where a pod has it. */
  get within(): readonly string[] {
    const script = [
      'mount -t tmpfs tmpfs /run',
      `mkdir -p ${ACCOUNT_FOLDER}`,
      `mount --bind "$0" ${ACCOUNT_FOLDER}`,
      'exec "$@"',
    ];
    return ['unshare', '--mount', 'sh', '-c', script.join(' && '), this.#folder];
  }
}
