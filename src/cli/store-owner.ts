import { dirname, join } from 'node:path';
import { errorCode } from '../lib/error-code.ts';
import { becomeUser, isOpenToUs, type Owner, fileOwner, ownUid, userText } from '../lib/file-owner.ts';
import { INDEX_FILE } from '../metadata/store-identity.ts';
import { CommandError } from './command.ts';

/**
 * A store has one owner, since the owner's server could not use what another user creates in it. So root becomes the
 * owner, irrevocably, before it touches anything there, and everybody else gets an error. The owner is the owner of the
 * index (the folder itself may be root's, as on a Kubernetes volume), otherwise of the folder or, if there is none yet,
 * of its parent.
 */
export async function actAsOwner(storePath: string): Promise<void> {
  const owner = (await storeOwner(storePath)) ?? (await ownerAbove(storePath));
  if (owner !== undefined && ownUid() === 0 && owner.uid !== 0) await become(storePath, owner);
  else await requireOwn(storePath);
}

/** Throws the error for a user who is not the owner. For root, an empty folder of another user counts as its own. */
export async function requireOwn(storePath: string): Promise<void> {
  const owner = await storeOwner(storePath);
  if (owner === undefined || owner.uid === ownUid()) return;
  const isRoot = ownUid() === 0;
  // In some file systems the owner does not tell who may use the files.
  const isOurs = isRoot ? !(await fileOwner(join(storePath, INDEX_FILE))) : await isUsable(storePath);
  if (!isOurs) throw new CommandError(`${await foreign(storePath, owner)}: run the command as that user`);
}

/** Refused by the kernel, or by Node if io_uring may have kept root's rights (CVE-2024-22017). */
const MAY_NOT_BECOME = new Set<string | undefined>(['EPERM', 'ERR_INVALID_STATE']);

async function become(storePath: string, owner: Owner): Promise<void> {
  try {
    becomeUser(owner);
  } catch (error) {
    if (!MAY_NOT_BECOME.has(errorCode(error))) throw error;
    const text = await foreign(storePath, owner);
    throw new CommandError(
      `${text}, and this process cannot switch to that user: run the command as that user`,
    );
  }
  if (!(await isUsable(storePath))) {
    throw new CommandError(`${await foreign(storePath, owner)}, and cannot be accessed by that user`);
  }
}

async function storeOwner(storePath: string): Promise<Owner | undefined> {
  return (await fileOwner(join(storePath, INDEX_FILE))) ?? fileOwner(storePath);
}

async function ownerAbove(path: string): Promise<Owner | undefined> {
  const parent = dirname(path);
  return (await fileOwner(parent)) ?? (parent === path ? undefined : ownerAbove(parent));
}

async function isUsable(storePath: string): Promise<boolean> {
  const isOpen = await isOpenToUs(storePath, { isFolder: true });
  return isOpen && isOpenToUs(join(storePath, INDEX_FILE), { isFolder: false });
}

async function foreign(storePath: string, { uid }: Owner): Promise<string> {
  return `the store in ${storePath} belongs to ${await userText(uid)}`;
}
