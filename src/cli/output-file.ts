import { realpath } from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import { absentAsUndefined } from '../lib/error-code.ts';
import { isDenied } from '../lib/file-owner.ts';
import { INDEX_FILE } from '../metadata/store-identity.ts';
import { CommandError, EXIT } from './command.ts';

/** Refuses an output file that is, or would be, one of the files of the store. Others in its folder are allowed. */
export async function requireOutsideStore(file: string, storePath: string): Promise<void> {
  if (file === '-') return;
  const [store, target] = [await realPath(storePath), await realPath(file).catch(unlessDenied)];
  if (store === undefined || target === undefined) return;
  const within = relative(store, target);
  const [name = ''] = within.split(sep);
  const { STORE_CONTENTS } = await import('../compose/storage.ts');
  const isOfIndex = OF_INDEX.has(name) || name.startsWith(`${INDEX_FILE}.damaged-`);
  if (!isOfIndex && !STORE_CONTENTS.includes(name)) return;
  throw new CommandError(`${file} is part of the store: choose another name`, EXIT.usage);
}

/** The index, and the files that SQLite has beside it. */
const OF_INDEX: ReadonlySet<string> = new Set(['', '-wal', '-shm', '-journal'].map(end => INDEX_FILE + end));

/** What this user may not see, it cannot write either, which is reported then. */
function unlessDenied(error: unknown): undefined {
  if (!isDenied(error)) throw error;
}

/** Without symbolic links, also if only its folder exists. */
async function realPath(path: string): Promise<string | undefined> {
  const real = await absentAsUndefined(realpath(path));
  if (real !== undefined) return real;
  const folder = await absentAsUndefined(realpath(dirname(path)));
  return folder && join(folder, basename(path));
}
