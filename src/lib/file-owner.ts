import { access, constants, readFile, stat } from 'node:fs/promises';
import { absentAsUndefined, errorCode } from './error-code.ts';

/** The owner of a file, by number. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** The user id of this process; `undefined` on a system without user ids. */
export function ownUid(): number | undefined {
  return process.geteuid?.();
}

/** The owner of what is at `path`; 'absent' if nothing is there, 'hidden' if this user may not see it. */
export async function presence(path: string): Promise<Owner | 'absent' | 'hidden'> {
  try {
    return await stat(path);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errorCode(error) ?? '')) return 'absent';
    if (isDenied(error)) return 'hidden';
    throw error;
  }
}

/** `undefined` if nothing is there, or this user may not see it. */
export async function fileOwner(path: string): Promise<Owner | undefined> {
  const found = await presence(path);
  return typeof found === 'string' ? undefined : found;
}

/** Whether this process may read and write what is at `path`; true if nothing is there. */
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
    // Read-only file systems report that themselves when something is written.
    return true;
  }
}

/** A user for people: `entrepot (uid 1000)`, or only the number. */
export async function userText(uid: number): Promise<string> {
  const users = (await absentAsUndefined(readFile('/etc/passwd', 'utf8')))?.split('\n') ?? [];
  const name = users.map(line => line.split(':')).find(([, , id]) => id === String(uid))?.[0];
  return name === undefined ? `uid ${uid}` : `${name} (uid ${uid})`;
}

/**
 * Makes this process run as the owner, irrevocably and in all its threads. Throws EPERM unless it is root and may
 * change its user, and ERR_INVALID_STATE if Node forbids that because it may use io_uring.
 */
export function becomeUser({ uid, gid }: Owner): void {
  try {
    initgroups(uid, gid);
  } catch (error) {
    // The number has no name, as in a container.
    if (errorCode(error) !== 'ERR_UNKNOWN_CREDENTIAL') throw error;
    process.setgroups?.([gid]);
  }
  process.setgid?.(gid);
  process.setuid?.(uid);
}

/** A function of Node that is missing in its types. */
function initgroups(uid: number, gid: number): void {
  const known: unknown = Reflect.get(process, 'initgroups');
  if (typeof known === 'function') known.call(process, uid, gid);
}

const startedAs = ownUid();

/** A hint for root, who has become the owner of the store, and may not open a file. */
export async function deniedHint(error: unknown): Promise<string> {
  const uid = ownUid();
  if (!isDenied(error) || uid === undefined || uid === startedAs) return '';
  return ` (running as ${await userText(uid)}, the owner of the store; for files of other users, use a pipe: -)`;
}

/** Whether the system refuses this user. */
export function isDenied(error: unknown): boolean {
  return ['EACCES', 'EPERM'].includes(errorCode(error) ?? '');
}
