import { copyFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { writeFileAtomic } from '../lib/atomic-file.ts';
import { absentAsUndefined } from '../lib/error-code.ts';
import { makeFolder } from '../lib/make-folder.ts';
import { readTextFile, UnreadableFile } from '../lib/text-file.ts';
import { CommandError, EXIT } from './command.ts';
import { isReplaceable, type NodeFile } from './node-files.ts';

/** A file after `writeNodeFiles`. */
export interface WrittenFile {
  readonly path: string;
  /** False if the file was up to date. */
  readonly isChanged: boolean;
  /** The copy of the previous file, if there was one that Entrepot did not write alone. */
  readonly backup: string | undefined;
}

/** Runtimes of other users, such as podman, read them; they contain no secrets. */
export const NODE_FILE_MODE = 0o644;

/** People and installers write these files, mostly of a few KB; a registries.conf with a thousand mirrors has 100 KB. */
const MAX_NODE_FILE_BYTES = 4 * 1024 * 1024;

interface PlannedFile {
  readonly path: string;
  readonly text: string;
  readonly existing: string | undefined;
  readonly needsBackup: boolean;
}

/**
 * Writes a node's files to `folder`, each in one step. Other settings in a shared file are kept. Throws CommandError,
 * without writing anything, if a file cannot be merged, or if Entrepot did not write it and `force` is not set.
 */
export async function writeNodeFiles(
  files: readonly NodeFile[],
  folder: string,
  { force, nowMs = Date.now() }: { readonly force: boolean; readonly nowMs?: number },
): Promise<readonly WrittenFile[]> {
  const plan: PlannedFile[] = [];
  for (const file of files) plan.push(await planned(file, folder, force));
  const written: WrittenFile[] = [];
  for (const file of plan) written.push(await write(file, nowMs));
  return written;
}

async function planned(file: NodeFile, folder: string, force: boolean): Promise<PlannedFile> {
  const path = join(folder, file.path);
  const existing = await existingText(path);
  if (existing === undefined) return { path, text: file.text, existing, needsBackup: false };
  if (file.mergeInto !== undefined) {
    return { path, text: merged(path, existing, file.mergeInto), existing, needsBackup: true };
  }
  const isOurs = isReplaceable(existing, file);
  if (!isOurs && !force) {
    throw new CommandError(
      `${path} was not written by Entrepot: nothing was changed; --force replaces it and keeps a copy`,
      EXIT.usage,
    );
  }
  return { path, text: file.text, existing, needsBackup: !isOurs };
}

/** `undefined` if there is no such file. Throws CommandError for a pipe, a device, or a file that is too large. */
async function existingText(path: string): Promise<string | undefined> {
  try {
    return await readTextFile(path, MAX_NODE_FILE_BYTES);
  } catch (error) {
    if (!(error instanceof UnreadableFile)) throw error;
    throw new CommandError(`${error.message}: nothing was changed`, EXIT.usage, { cause: error });
  }
}

function merged(path: string, existing: string, mergeInto: (existing: string) => string): string {
  try {
    return mergeInto(existing);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CommandError(`${path}: ${reason}: nothing was changed`, EXIT.usage, { cause });
  }
}

async function write(
  { path, text, existing, needsBackup }: PlannedFile,
  nowMs: number,
): Promise<WrittenFile> {
  if (existing === text) return { path, isChanged: false, backup: undefined };
  await makeFolder(dirname(path));
  const mode = (await absentAsUndefined(stat(path)))?.mode ?? NODE_FILE_MODE;
  const backup = needsBackup ? `${path}.${timeText(nowMs)}.bak` : undefined;
  if (backup !== undefined) await copyFile(path, backup);
  await writeFileAtomic(path, [Buffer.from(text)], { mode: mode & 0o7777 });
  return { path, isChanged: true, backup };
}

/** 20261128T150000Z: can be sorted, and is a valid file name everywhere. */
function timeText(nowMs: number): string {
  return new Date(nowMs).toISOString().replace(/[-:]|\.\d+/g, '');
}
