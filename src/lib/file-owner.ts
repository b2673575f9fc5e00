import { access, constants, readFile, stat } from 'node:fs/promises';
import { absentAsUndefined, errorCode } from './error-code.ts';

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** Who this process acts as; `undefined` where the system knows no numbers for that. */
export function ownUid(): number | undefined {
  return process.geteuid?.();
}

/** Whose what is at `path` is, or that nothing is there, or that this user may not see it. */
export async function presence(path: string): Promise<Owner | 'absent' | 'hidden'> {
  try {
    return await stat(path);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errorCode(error) ?? '')) return 'absent';
    if (isDenied(error)) return 'hidden';
    throw error;
  }
}

/** `undefined` when nothing is there, or nothing of it can be seen. */
export async function ownerOf(path: string): Promise<Owner | undefined> {
  const found = await presence(path);
  return typeof found === 'string' ? undefined : found;
}

/** Whether this process may do everything with what is at `path`; true when nothing is there. */
export async function isOpenToUs(
  path: string,
  { isFolder }: { readonly isFolder: boolean },
): Promise<boolean> {
  const { R_OK, W_OK, X_OK } = constants;
  try {
    await absentAsUndefined(access(path, R_OK | W_OK | (isFolder ? X_OK : 0)));
    return true;
  } catch (error) {
    if (isDenied(error)) return false;
    // A file system that takes no writes says so itself, to who tries.
    return true;
  }
}

/** As people call a user: `entrepot (uid 1000)`, or its number alone. */
export async function userText(uid: number): Promise<string> {
  const users = (await absentAsUndefined(readFile('/etc/passwd', 'utf8')))?.split('\n') ?? [];
  const name = users.map(line => line.split(':')).find(([, , id]) => id === String(uid))?.[0];
  return name === undefined ? `uid ${uid}` : `${name} (uid ${uid})`;
}

/**
 * Makes this process the owner's, for good and in all its threads. Throws EPERM unless it is root and may change its user,
 * and ERR_INVALID_STATE where Node lets nobody do that, since it may use io_uring.
 */
export function becomeUser({ uid, gid }: Owner): void {
  try {
    initgroups(uid, gid);
  } catch (error) {
    // A number that no name belongs to, as in a container.
    if (errorCode(error) !== 'ERR_UNKNOWN_CREDENTIAL') throw error;
    process.setgroups?.([gid]);
  }
  process.setgid?.(gid);
  process.setuid?.(uid);
}

/** Of Node, which its types do not know. */
function initgroups(uid: number, gid: number): void {
  const known: unknown = Reflect.get(process, 'initgroups');
  if (typeof known === 'function') known.call(process, uid, gid);
}

/** Whether the system says that this user may not. */
export function isDenied(error: unknown): boolean {
  return ['EACCES', 'EPERM'].includes(errorCode(error) ?? '');
}
