import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { Backup } from '../archive/backup.ts';
import { openFileStores } from '../blobs/file-stores.ts';
import { partialName, removeAbandoned, writeFileAtomic } from '../lib/atomic-file.ts';
import { absentAsUndefined } from '../lib/error-code.ts';
import { silentLog } from '../lib/log.ts';
import { IndexSnapshot } from '../metadata/sqlite-snapshot.ts';
import { requireNoRestore } from '../metadata/restore-lock.ts';
import { INDEX_FILE } from '../metadata/store-identity.ts';
import { countText } from './columns.ts';
import {
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type Input,
  type Io,
  jsonOption,
  requireFileForJson,
  wantsJson,
} from './command.ts';
import { interruptible } from './interruptible.ts';
import { requireOutsideStore } from './output-file.ts';
import { progressForm, ProgressView } from './progress.ts';
import { INDEX_IN_DATABASE, storeConfig } from './store-config.ts';

/** `entrepot backup`: writes the whole store to one file. */
export const backup: Command = {
  name: 'backup',
  summary: 'write the whole store to one file, even while the server runs',
  description:
    'Writes the index as it is at this moment, and every blob that it names, to one file for `entrepot restore`. ' +
    'Works beside a running server. Each blob is verified against its digest; one that is damaged or missing ' +
    'is reported and left out, and the exit code is 1, also if the damage was found earlier, until a hosted or pinned ' +
    'blob is replaced. The index is first copied within the store, which needs as much ' +
    'free space as the index takes. Uploads in progress are left out. If the blobs are in a bucket, the file has only the ' +
    'index, which names their objects: protect the bucket separately. Refused if the index is in PostgreSQL ' +
    '(index.postgres): back up the database with pg_dump, and then the folder or bucket.',
  arguments: [{ name: '<file>', description: 'file to write; - is standard output' }],
  options: [
    jsonOption('file, blobs, lacking (kind, digest and reason of all content that is damaged or missing)'),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot backup /backup/entrepot.tar', 'replaces an earlier file only when the new one is complete'],
    ['entrepot backup - | zstd | ssh vault "cat > entrepot.tar.zst"', 'through a pipe'],
  ],
  run: async (input, io) => {
    const [file = ''] = input.arguments;
    if (file === '-' && process.stdout.isTTY) {
      throw new CommandError(
        'a backup cannot be written to a terminal: name a file, or use a pipe',
        EXIT.usage,
      );
    }
    requireFileForJson(input, file);
    const { storage, index } = await storeConfig(input, io);
    const { path } = storage;
    if (index.postgres !== undefined) throw new CommandError(INDEX_IN_DATABASE);
    await requireOutsideStore(file, path);
    return interruptible(
      signal => writeBackup(path, { file, input, io, signal }),
      () => 'no backup was made',
    );
  },
};

interface BackupRun {
  readonly file: string;
  readonly input: Input;
  readonly io: Io;
  readonly signal: AbortSignal;
}

async function writeBackup(path: string, { file, input, io, signal }: BackupRun) {
  const indexPath = join(path, INDEX_FILE);
  if (((await absentAsUndefined(stat(indexPath)))?.size ?? 0) === 0) {
    requireNoRestore(path);
    throw new CommandError(`there is no store in ${path}`);
  }
  await removeAbandoned(`${indexPath}.snapshot`);
  const copyPath = partialName(`${indexPath}.snapshot`);
  const files = await openFileStores(path, { log: silentLog });
  const view = new ProgressView(io, progressForm({ json: false }));
  try {
    const snapshot = await IndexSnapshot.take(indexPath, copyPath);
    try {
      const made = new Backup(snapshot, files.blobs);
      const item = view.begin(file === '-' ? 'standard output' : file);
      if (!snapshot.isOfBucket) item.expect(snapshot.totals().blobBytes);
      const tar = made.tar(bytes => item.advance(bytes));
      await (file === '-'
        ? pipeline(tar, process.stdout, { signal })
        : writeFileAtomic(file, tar, { signal }));
      for (const { kind, digest, reason } of made.lacking)
        view.say(`not in the backup: ${kind} ${digest}: ${reason}`);
      if (made.removed > 0) {
        const blobs = made.removed === 1 ? 'blob was' : 'blobs were';
        view.say(
          `not in the backup: ${made.removed} ${blobs} collected as garbage or evicted while it was made`,
        );
      }
      const isWhole = made.lacking.length === 0;
      const lacking = isWhole ? '' : `; ${made.lacking.length} damaged or missing`;
      const blobs = snapshot.isOfBucket
        ? `, which names ${countText(snapshot.totals().blobs, 'blob')} in the bucket`
        : ` and ${countText(made.blobs, 'blob')}`;
      item.end(isWhole ? 'done' : 'failed', `the index${blobs}${lacking}`);
      if (wantsJson(input)) {
        io.out(`${JSON.stringify({ file, blobs: made.blobs, lacking: made.lacking })}\n`);
      }
      return isWhole ? EXIT.done : EXIT.failed;
    } finally {
      snapshot.close();
    }
  } finally {
    view.close();
    await files.close();
    for (const suffix of ['', '-wal', '-shm', '-journal']) await rm(copyPath + suffix, { force: true });
  }
}
