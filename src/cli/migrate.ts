import type { MigrationProgress } from '../archive/migration.ts';
import { openMigration, type OpenedMigration } from '../compose/migration.ts';
import { loadConfig } from '../config/load.ts';
import { sizeText } from '../lib/units.ts';
import { CommandLog } from '../ops/command-log.ts';
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
import { progressForm, type ProgressItem, ProgressView } from './progress.ts';
import { requireIndex, storeConfig } from './store-config.ts';

/** `entrepot migrate`: moves a store to another folder, bucket or database. */
export const migrateCommand: Command = {
  name: 'migrate',
  summary: 'move the store to another folder, bucket or database',
  description:
    'Copies the store of the configuration to the one that another configuration describes, whatever their kinds: blobs ' +
    'in a folder or a bucket, the index in SQLite or PostgreSQL. Blobs are verified against their digests; one that is ' +
    'damaged or missing is reported and recorded as damaged, and the exit code is 1. The old store is not changed. Only ' +
    'uploads and downloads in progress stay behind. Continues when run again after an interruption; until it is done, no ' +
    'server opens the new store. The variables ENTREPOT_… apply to the old store alone.',
  arguments: [{ name: '<file>', description: 'configuration file of the new store, which must be empty' }],
  options: [
    {
      flags: '--prepare',
      description:
        'copy only blobs, which take longest, while the server keeps running; then stop the server, and run this again without the option',
    },
    {
      flags: '--while-serving',
      description:
        'do not require that the server is stopped: what it stores from now on is not moved (see hosted.readOnly)',
    },
    jsonOption(
      'isPrepared or isComplete, blobs, blobBytes (copied this time), lacking (kind, digest and reason of each)',
    ),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot migrate --prepare new.yaml', 'beside the server, as often as you like'],
    ['entrepot migrate new.yaml', 'when the server is stopped; then start it with new.yaml'],
  ],
  run: async (input, io) => {
    const [file = ''] = input.arguments;
    const from = await storeConfig(input, io);
    await requireIndex(from);
    const to = await loadConfig({ file, isFileAlone: true });
    let opened: OpenedMigration | undefined;
    const view = new ProgressView(io, progressForm({ json: false }));
    const log = new CommandLog(text => view.say(text.trimEnd()));
    const shown = new Shown(view);
    try {
      return await interruptible(
        async signal => {
          opened = await openMigration(from, to, {
            log,
            signal,
            onProgress: progress => shown.show(progress),
          });
          try {
            return await move(opened, input, { io, shown });
          } finally {
            await opened.close();
          }
        },
        () => `${countText(opened?.migration.copied.blobs ?? 0, 'blob')} copied; run it again to continue`,
      );
    } finally {
      view.close();
    }
  },
};

async function move(
  opened: OpenedMigration,
  input: Input,
  { io, shown }: { readonly io: Io; readonly shown: Shown },
): Promise<ExitCode> {
  const { migration, from } = opened;
  const onlyPrepares = input.options['prepare'] === true;
  if (!onlyPrepares && input.options['whileServing'] !== true && (await from.countProcesses()) > 1) {
    throw new CommandError(
      'the store is in use by another process: stop the server first, or copy blobs meanwhile (--prepare)',
    );
  }
  shown.expect((await from.readTotals()).blobBytes);
  if (onlyPrepares) await migration.copyBlobs();
  else {
    await migration.complete();
    await opened.complete();
  }
  const { copied, lacking } = migration;
  shown.end(`${countText(copied.blobs, 'blob')} copied, ${sizeText(copied.bytes)}`);
  for (const { kind, digest, reason } of lacking) io.err(`not moved: ${kind} ${digest}: ${reason}\n`);
  if (wantsJson(input)) {
    const state = onlyPrepares ? { isPrepared: true } : { isComplete: true };
    io.out(`${JSON.stringify({ ...state, blobs: copied.blobs, blobBytes: copied.bytes, lacking })}\n`);
  } else {
    io.out(onlyPrepares ? PREPARED : COMPLETE);
  }
  return lacking.length > 0 ? EXIT.failed : EXIT.done;
}

const PREPARED = 'the new store is prepared: stop the server, and run this without --prepare\n';
const COMPLETE =
  'the new store is complete: start the server with its configuration, and never again with the old one\n';

/** Blobs, and then rows of the index. */
class Shown {
  readonly #view: ProgressView;
  #kind: MigrationProgress['kind'] = 'blobs';
  #item: ProgressItem | undefined;

  constructor(view: ProgressView) {
    this.#view = view;
  }

  expect(bytes: number): void {
    this.#item = this.#view.begin('blobs');
    this.#item.expect(bytes);
  }

  show({ kind, items, bytes }: MigrationProgress): void {
    if (kind !== this.#kind) {
      this.#item?.drop();
      this.#item = this.#view.begin('rows of the index');
      this.#kind = kind;
    }
    this.#item?.advance(bytes, items);
  }

  end(text: string): void {
    this.#item?.drop();
    this.#view.begin('store').end('done', text);
  }
}
