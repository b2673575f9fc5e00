import { link, readdir, rename, rm, rmdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { addAbortSignal } from 'node:stream';
import { ArchiveError } from '../archive/archive-error.ts';
import type { BackupSummary, LackingContent } from '../archive/backup.ts';
import { restoreBackup, type RestoreOptions } from '../archive/restore.ts';
import { openFileStores } from '../blobs/file-stores.ts';
import { openStored, STORE_CONTENTS } from '../compose/storage.ts';
import type { Config } from '../config/config.ts';
import { syncFolder } from '../lib/atomic-file.ts';
import { absentAsUndefined, errorCode } from '../lib/error-code.ts';
import { namedTrouble } from '../lib/file-trouble.ts';
import { silentLog } from '../lib/log.ts';
import { readFileOrPipe } from '../lib/named-pipe.ts';
import { makeFolder } from '../lib/make-folder.ts';
import { PRIVATE_FILE_MODE, PRIVATE_FOLDER_MODE } from '../lib/private-folder.ts';
import { sizeText } from '../lib/units.ts';
import { whileLocked } from '../metadata/life.ts';
import { RESTORE_LOCK } from '../metadata/restore-lock.ts';
import { openSqliteMetadataStore } from '../metadata/sqlite-metadata-store.ts';
import { INDEX_FILE } from '../metadata/store-identity.ts';
import { everything } from '../metadata/survey.ts';
import { RECORDS } from '../upkeep/record-keeping.ts';
import { countText } from './columns.ts';
import {
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type ExitCode,
  type Input,
  type Io,
  jsonOption,
  wantsJson,
} from './command.ts';
import { interruptible } from './interruptible.ts';
import { progressForm, ProgressView } from './progress.ts';
import { INDEX_IN_DATABASE, storeConfig } from './store-config.ts';

/** The name of the index until everything is restored: a killed restore leaves it, and the next one replaces it. */
const RESTORING_FILE = `${INDEX_FILE}.restoring`;

/**
 * Files that may be in a folder that counts as empty: our own description, and what file systems and tools put there.
 */
const NOTHING = /^(?:README\.md|lost\+found|\..*)$/;

/** `entrepot restore`: creates a store from a file of `entrepot backup`. */
export const restore: Command = {
  name: 'restore',
  summary: 'create the store from a backup',
  description:
    'Restores the store from a file of `entrepot backup` to storage.path, which must be empty or absent, while no ' +
    'server runs on it. Every blob is verified against its digest, and a truncated or damaged backup is refused. A ' +
    'restore that is refused or interrupted leaves nothing behind. A backup of a store whose blobs are in a bucket has only the index: with ' +
    'the same bucket configured, blobs whose objects are missing are reported and recorded as damaged. Refused if the index ' +
    'is in PostgreSQL (index.postgres): restore the database from its own backup.',
  arguments: [{ name: '<file>', description: 'a file of `entrepot backup`; - is standard input' }],
  options: [jsonOption('file, blobs, blobBytes, lacking (kind, digest and reason of each)'), CONFIG_OPTION],
  makesStore: 'anywhere',
  examples: [
    ['entrepot restore /backup/entrepot.tar', 'into the storage.path of the configuration'],
    [
      'zstd -dc entrepot.tar.zst | ENTREPOT_STORAGE__PATH=/new entrepot restore -',
      'through a pipe, to another folder',
    ],
  ],
  run: async (input, io) => {
    const [file = ''] = input.arguments;
    const config = await storeConfig(input, io);
    if (config.index.postgres !== undefined) throw new CommandError(INDEX_IN_DATABASE);
    return interruptible(
      signal => readBackup(config, { file, input, io, signal }),
      () => 'nothing was restored',
    );
  },
};

interface RestoreRun {
  readonly file: string;
  readonly input: Input;
  readonly io: Io;
  readonly signal: AbortSignal;
}

async function readBackup(config: Config, run: RestoreRun): Promise<ExitCode> {
  const { path } = config.storage;
  const isNew = (await absentAsUndefined(stat(path))) === undefined;
  await makeFolder(path, PRIVATE_FOLDER_MODE);
  await requireEmpty(path);
  const refusal = () =>
    new CommandError(
      `another entrepot restore to ${path} is running or suspended: wait for it, or end it first`,
    );
  try {
    return await whileLocked(join(path, RESTORE_LOCK), refusal, async () => {
      await requireEmpty(path);
      await removeAll(path);
      return readBackupAlone(config, run);
    });
  } finally {
    // Fails if it is not empty.
    if (isNew) await rmdir(path).catch(() => {});
  }
}

async function openFile(file: string, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
  try {
    return await readFileOrPipe(file, signal);
  } catch (error) {
    throw namedTrouble(`${file} cannot be read`, error);
  }
}

/** The caller holds the lock. */
async function readBackupAlone(config: Config, { file, input, io, signal }: RestoreRun): Promise<ExitCode> {
  const { path, s3 } = config.storage;
  let isRestored = false;
  const view = new ProgressView(io, progressForm({ json: false }));
  const item = view.begin(file === '-' ? 'standard input' : file);
  try {
    const source = file === '-' ? addAbortSignal(signal, process.stdin) : await openFile(file, signal);
    const isOfBucket = s3 !== undefined;
    const summary = await fill(path, source, {
      isOfBucket,
      signal,
      advanced: bytes => item.advance(bytes),
      onPlaced: () => (isRestored = true),
    });
    const { blobs, blobBytes } = summary;
    const lacking = [...summary.lacking, ...(isOfBucket ? await missingObjects(config, signal) : [])];
    for (const { kind = 'blob', digest, reason } of lacking)
      view.say(`not in the backup: ${kind} ${digest}: ${reason}`);
    item.end('done', `the index and ${countText(blobs, 'blob')}, ${sizeText(blobBytes)}`);
    if (wantsJson(input)) io.out(`${JSON.stringify({ file, blobs, blobBytes, lacking })}\n`);
    return EXIT.done;
  } catch (error) {
    // If another store was created here meanwhile, nothing of it is ours.
    const isOthers = !isRestored && (await absentAsUndefined(stat(join(path, INDEX_FILE)))) !== undefined;
    if (!isOthers) await removeAll(path);
    if (!(error instanceof ArchiveError) || signal.aborted) throw error;
    item.end('failed', error.message);
    return EXIT.failed;
  } finally {
    view.close();
  }
}

async function fill(
  path: string,
  source: AsyncIterable<Uint8Array>,
  {
    onPlaced,
    ...options
  }: Required<Pick<RestoreOptions, 'isOfBucket' | 'signal' | 'advanced'>> & { readonly onPlaced: () => void },
): Promise<BackupSummary> {
  const { signal } = options;
  const indexPath = join(path, RESTORING_FILE);
  const files = await openFileStores(path, { log: silentLog });
  try {
    // Created before the first blob, so that what a killed restore leaves can be recognized.
    await writeFile(indexPath, '', { mode: PRIVATE_FILE_MODE });
    const summary = await restoreBackup(source, { ...files, ...options, indexPath });
    const lacking = await noteLacking(indexPath, summary);
    signal.throwIfAborted();
    await place(indexPath, join(path, INDEX_FILE));
    onPlaced();
    await syncFolder(path);
    return { ...summary, lacking };
  } finally {
    await files.close();
  }
}

/** Renames a file. Rejects with CommandError if `to` exists. */
async function place(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
    await rm(from);
  } catch (error) {
    if (errorCode(error) === 'EEXIST') {
      throw new CommandError(
        `another store was created meanwhile (${to}): stop its server, and move the store away first`,
      );
    }
    // The file system has no hard links.
    await rename(from, to);
  }
}

/**
 * Checks the whole index, migrates it to the newest version, and records as damaged what the backup lacks, which is returned;
 * but what was removed while it was made is just absent, unless a hosted repository still has it.
 */
async function noteLacking(
  indexPath: string,
  { lacking }: BackupSummary,
): Promise<readonly LackingContent[]> {
  const metadata = await openSqliteMetadataStore(indexPath, { log: silentLog, isCopied: true });
  const lost: LackingContent[] = [];
  try {
    for (const content of lacking) {
      const { digest, reason, isRemoved = false } = content;
      const loss = await metadata.quarantine({ kind: 'blob', digest }, reason);
      if (isRemoved && loss !== 'hosted') await metadata.endDamage(digest);
      else lost.push(content);
    }
    // Those in the bucket are of a later index, and lack what was removed since.
    await metadata.putSetting(RECORDS, '');
  } finally {
    await metadata.close();
  }
  return lost;
}

/**
 * Blobs whose objects are not in the bucket any more, which are recorded as damaged. Rejects if the bucket cannot be read, or
 * is not the store's.
 */
async function missingObjects(config: Config, signal: AbortSignal): Promise<readonly LackingContent[]> {
  const stored = await openStored(config, silentLog, { restores: true });
  const missing: LackingContent[] = [];
  try {
    // Both in the order of digests, and an object's key begins with that.
    const objects = stored.blobs.list()[Symbol.asyncIterator]();
    let object = await objects.next();
    for await (const rows of everything(after => stored.survey.blobs(after))) {
      for (const { digest } of rows) {
        signal.throwIfAborted();
        const { key = '' } = (await stored.metadata.statBlob(digest)) ?? {};
        while (object.done !== true && (object.value.key ?? '') < key) object = await objects.next();
        if (object.done !== true && object.value.key === key) continue;
        const reason = 'its object is missing';
        await stored.metadata.quarantine({ kind: 'blob', digest }, reason, {
          key,
          isSame: () => true,
          takeAway: () => {},
        });
        missing.push({ kind: 'blob', digest, reason });
      }
    }
  } finally {
    await stored.close();
  }
  return missing;
}

/** Everything that a restore creates in an empty folder. */
async function removeAll(path: string): Promise<void> {
  const suffixes = ['', '-wal', '-shm', '-journal'];
  const indexes = [RESTORING_FILE, INDEX_FILE].flatMap(name => suffixes.map(suffix => name + suffix));
  for (const name of [...indexes, ...STORE_CONTENTS]) {
    await rm(join(path, name), { recursive: true, force: true });
  }
}

/** Ignores what a killed restore left. */
async function requireEmpty(path: string): Promise<void> {
  const names = (await readdir(path)).filter(name => !NOTHING.test(name));
  if (names.length === 0 || (names.includes(RESTORING_FILE) && !names.includes(INDEX_FILE))) return;
  throw new CommandError(
    `${path} is not empty (${names.slice(0, 3).join(', ')}): move its contents away first`,
  );
}
