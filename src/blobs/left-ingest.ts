import { constants } from 'node:fs';
import { copyFile, readdir, rename, rm } from 'node:fs/promises';
import { absentAsUndefined, errorCode } from '../lib/error-code.ts';
import type { Lease } from '../lib/lease.ts';
import { type FilePaths, type IngestName, parseIngestName } from './file-paths.ts';

/**
 * Turns what the previous holder of `lease` left into the ingest of `lease`: the same file if that holder is known not
 * to write any more, otherwise a copy of the latest. Removes everything older; if it is not wanted, removes only. If
 * nothing was left, there is no ingest afterwards.
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
 * The ingests of all holders of `key` before `epoch`, latest first, without incomplete copies. Reads the whole folder, so
 * it is for rare cases.
 */
export async function earlierIngests(
  paths: FilePaths,
  key: string,
  epoch = Number.POSITIVE_INFINITY,
): Promise<readonly string[]> {
  return latestFirst(
    paths,
    found => found.key === key && !found.isPartialCopy && !found.isParts && (found.epoch ?? 0) < epoch,
  );
}

/** The files of parts of all holders of `key`, latest first. Reads the whole folder. */
export async function earlierParts(paths: FilePaths, key: string): Promise<readonly string[]> {
  return latestFirst(paths, found => found.key === key && found.isParts);
}

async function latestFirst(
  paths: FilePaths,
  isMeant: (found: IngestName) => boolean,
): Promise<readonly string[]> {
  const ingests = (await readdir(paths.ingests)).flatMap(name => {
    const found = parseIngestName(name);
    // Old versions named it by its key alone.
    return found !== undefined && isMeant(found) ? [{ name, epoch: found.epoch ?? 0 }] : [];
  });
  return ingests.toSorted((one, other) => other.epoch - one.epoch).map(({ name }) => name);
}

async function moved(from: string, to: string): Promise<boolean> {
  return (await absentAsUndefined(rename(from, to).then(() => true))) ?? false;
}

/**
 * Copies under another name first: a follower must not see an incomplete copy. False if `from` is gone, because its
 * holder was suspended during a takeover of its own, and has continued.
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
