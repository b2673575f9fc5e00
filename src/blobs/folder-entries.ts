import { opendir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { absentAsUndefined } from '../lib/error-code.ts';

/** The entries of a folder; none if it does not exist or is a file. */
export async function* folderEntries(
  folder: string,
): AsyncIterable<{ readonly name: string; readonly path: string }> {
  const found = await absentAsUndefined(stat(folder));
  if (found?.isDirectory()) {
    for await (const { name } of await opendir(folder)) {
      yield { name, path: join(folder, name) };
    }
  }
}
