import { constants } from 'node:fs';
import { copyFile, readdir, rename, rm } from 'node:fs/promises';
import { absentAsUndefined, errorCode } from '../lib/error-code.ts';
import type { Lease } from '../lib/lease.ts';
import { type FilePaths, parseIngestName } from './file-paths.ts';

/**
 * Makes what the holder of `lease` before has left the ingest of `lease`: the same file if he certainly writes no more,
 * else a copy, and his is removed. When it is not wanted it is only removed. No ingest is there if he left none.
 */
export async function leftIngest(
  paths: FilePaths,
  { key, epoch, left }: Lease,
  { isWanted }: { readonly isWanted: boolean },
): Promise<void> {
  const path = paths.ingest(key, epoch);
  if (isWanted && left?.mayWrite === false && (await moved(paths.ingest(key, left.epoch), path))) return;
  let names = await earlierIngests(paths, key, epoch);
  if (isWanted) {
    while (names[0] !== undefined && !(await copied(paths.foundIngest(names[0]), path))) {
      names = await earlierIngests(paths, key, epoch);
    }
  }
  await Promise.all(names.map(name => rm(paths.foundIngest(name), { force: true })));
}

/**
 * The ingests of all holders of `key` before the one with `epoch`, the latest first; without half-made copies. Rare, since
 * it reads the whole folder.
 */
export async function earlierIngests(
  paths: FilePaths,
  key: string,
  epoch: number,
): Promise<readonly string[]> {
  const ingests = (await readdir(paths.ingests)).flatMap(name => {
    const parsed = parseIngestName(name);
    // Programs before epochs named it by its key alone.
    const found = { name, epoch: parsed?.epoch ?? 0 };
    return parsed?.key === key && !parsed.isPartialCopy && found.epoch < epoch ? [found] : [];
  });
  return ingests.toSorted((one, other) => other.epoch - one.epoch).map(({ name }) => name);
}

async function moved(from: string, to: string): Promise<boolean> {
  return (await absentAsUndefined(rename(from, to).then(() => true))) ?? false;
}

/**
 * Under its own name only when it is whole: whoever reads along would take less for all there is. False when it has
 * another name by now: its holder too was paused while he took it over, and went on.
 */
async function copied(from: string, to: string): Promise<boolean> {
  const partial = `${to}.copy`;
  try {
    await copyFile(from, partial, constants.COPYFILE_FICLONE);
    await rename(partial, to);
    return true;
  } catch (error) {
    await rm(partial, { force: true });
    if (errorCode(error) === 'ENOENT') return false;
    throw error;
  }
}
