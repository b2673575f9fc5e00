import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config/config.ts';
import { absentAsUndefined } from '../lib/error-code.ts';
import { sizeText } from '../lib/units.ts';
import { IndexUnusable } from '../metadata/index-unusable.ts';
import { whileLocked } from '../metadata/life.ts';
import { INDEX_FILE } from '../metadata/store-identity.ts';
import type { Parts } from '../compose/parts.ts';
import { COLLECTING } from '../admin/garbage.ts';
import { countText } from './columns.ts';
import {
  printResult,
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type ExitCode,
  type Input,
  type Io,
  jsonOption,
} from './command.ts';
import { storeConfig } from './store-config.ts';
import { type UpkeepRun, withUpkeep } from './upkeep-run.ts';

/** `entrepot rebuild`: adds the blobs of a store that has lost its index. */
export const rebuild: Command = {
  name: 'rebuild',
  summary: 'add the blobs in the store to the index',
  description:
    'For a store whose index is lost or damaged, if there is no backup: verifies every blob that the index does not ' +
    'know against its digest, and adds it, which saves downloading it again. An index.db that cannot be opened ' +
    'is moved aside first (index.db.damaged-…); of an index in PostgreSQL, the schema has to be repaired or dropped with the ' +
    'tools of the database. Then adds the manifests, tags and pins of hosted repositories, of which there are copies in the ' +
    'store that are at most some seconds old. What was mirrored is proved upstream again when it is pulled; what was ' +
    'imported has to be imported again, and tenants and logins of `entrepot tenant add` created again. A server that has the lost index open has to be restarted. Deletes nothing. If it ' +
    'finds blobs that the index does not know, garbage collection stops until `entrepot gc --force`. Exit code 1 if something ' +
    'is damaged or missing. After an interruption, run it again: it continues, and reports what it finds from then on.',
  options: [
    jsonOption(
      'a line with event (damaged), kind, digest, reason for each damaged or missing blob or manifest; at the end one with event ' +
        '(summary), added, addedBytes, known, manifests, tags, damaged',
    ),
    CONFIG_OPTION,
  ],
  makesStore: 'where-named',
  examples: [
    ['entrepot rebuild', 'with the server stopped, if the index cannot be opened'],
    ['entrepot gc --force', 'afterwards, once everything that is needed has been pulled or pushed again'],
  ],
  run: async (input, io) => {
    const config = await storeConfig(input, io);
    const rebuilding = () => rebuildStore(config, input, io);
    return unlessDamaged(rebuilding, () =>
      alone(config.storage.path, () =>
        // Another rebuild may have moved it already.
        unlessDamaged(rebuilding, async () => {
          const aside = await moveAside(join(config.storage.path, INDEX_FILE));
          io.err(`the index cannot be opened: it was moved to ${aside}\n`);
          return rebuilding();
        }),
      ),
    );
  },
};

/** The result of `act`, or of `otherwise` if the index is damaged. */
async function unlessDamaged<T>(act: () => Promise<T>, otherwise: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (!(error instanceof IndexUnusable) || !error.isDamaged) throw error;
    return otherwise();
  }
}

/** Locked while an index is replaced, also by a suspended process, which would otherwise move the new index aside. */
const LOCK_FILE = '.rebuilding';

function alone<T>(path: string, act: () => Promise<T>): Promise<T> {
  const refusal = () =>
    new CommandError(
      `another entrepot rebuild of ${path} is running or suspended: wait for it, or end it first`,
    );
  return whileLocked(join(path, LOCK_FILE), refusal, act);
}

function rebuildStore(config: Config, input: Input, io: Io): Promise<ExitCode> {
  return withUpkeep(input, io, (parts, run) => rebuildIn(input, parts, run), {
    config,
    makesIndex: true,
    takesBucketOver: true,
  });
}

async function rebuildIn(
  input: Input,
  { upkeep }: Parts,
  { out, signal, onProgress, waitingFor }: UpkeepRun,
): Promise<ExitCode> {
  const rebuilt = await upkeep.rebuild({
    signal: signal ?? new AbortController().signal,
    onProgress,
    onWait: waitingFor(COLLECTING),
    onDamaged: (kind, digest, reason) => {
      const text = `damaged: ${kind} ${digest}: ${reason}\n`;
      printResult(input, { out }, { event: 'damaged', kind, digest, reason }, text);
    },
  });
  if (rebuilt === undefined) throw new CommandError(`another process is already ${COLLECTING}`);
  const { isCollectingStopped, ...report } = rebuilt;
  const { added, addedBytes, known, manifests, tags, damaged } = report;
  printResult(
    input,
    { out },
    { event: 'summary', ...report },
    `${countText(added, 'blob')} added, ${sizeText(addedBytes)}; ${known} already known; ${damaged} damaged\n` +
      `${countText(manifests, 'manifest')} of hosted repositories added, ${countText(tags, 'tag')} set\n` +
      (isCollectingStopped ? 'no garbage is collected until `entrepot gc --force`\n' : '') +
      (added > 0 ? AFTER_LOSS : ''),
  );
  return damaged > 0 ? EXIT.failed : EXIT.done;
}

/** What else is left to do if the index was lost, and was not only incomplete. */
const AFTER_LOSS =
  'if the index was lost: restart any server that still has it open, and create the tenants and logins that were in ' +
  'it again (`entrepot tenant add`, `entrepot tenant secret`)\n';

/**
 * Renames the index and the files beside it; returns the new name. The index itself is last, since another rebuild makes a
 * new one as soon as it is gone.
 */
async function moveAside(indexPath: string): Promise<string> {
  const aside = `${indexPath}.damaged-${new Date().toISOString().replaceAll(':', '')}`;
  for (const suffix of ['-wal', '-shm', ''])
    await absentAsUndefined(rename(indexPath + suffix, aside + suffix));
  return aside;
}
