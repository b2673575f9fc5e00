import { realpath } from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import { absentAsUndefined } from '../lib/error-code.ts';
import { INDEX_FILE } from '../metadata/store-identity.ts';
import { CommandError, EXIT } from './command.ts';

/** Refuses an output file that is, or would be, one of the files of the store. Others in its folder are allowed. */
export async function requireOutsideStore(file: string, storePath: string): Promise<void> {
  if (file === '-') return;
  const [store, target] = [await realPath(storePath), await realPath(file)];
  if (store === undefined || target === undefined) return;
  const within = relative(store, target);
  const [name = ''] = within.split(sep);
  const { STORE_CONTENTS } = await import('../compose/storage.ts');
  if (!name.startsWith(INDEX_FILE) && !STORE_CONTENTS.includes(name)) return;
  throw new CommandError(`${file} is part of the store: choose another name`, EXIT.usage);
}

/** Without symbolic links, also if only its folder exists. */
async function realPath(path: string): Promise<string | undefined> {
  const real = await absentAsUndefined(realpath(path));
  if (real !== undefined) return real;
  const folder = await absentAsUndefined(realpath(dirname(path)));
  return folder && join(folder, basename(path));
}
