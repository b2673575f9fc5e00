import type { Config } from '../config/config.ts';
import { silentMeter } from '../lib/meter.ts';
import { CommandLog } from '../ops/command-log.ts';
import { TransferTotals } from '../ops/transfer-totals.ts';
import type { Parts } from '../compose/parts.ts';
import type { Input, Io } from './command.ts';
import { requireIndex, storeConfig } from './store-config.ts';

export interface WithPartsOptions {
  /** As `storeConfig` gave it to a command that had to know it before. */
  readonly config?: Config | undefined;
  /** For commands that need the Secrets of a tenant; for the others, the names that the store knows are enough. */
  readonly followsCluster?: boolean;
  /** For what mends a store that has lost its index; all others refuse it, as they would make an empty one. */
  readonly makesIndex?: boolean;
}

/**
 * Opens the configured store for one command, beside a running server if there is one, and closes it whatever happens.
 * Warnings go to standard error, since standard output holds what was asked for.
 */
export async function withParts<Result>(
  input: Input,
  io: Io,
  act: (parts: Parts) => Promise<Result>,
  { followsCluster = false, makesIndex = false, config: given }: WithPartsOptions = {},
): Promise<Result> {
  const config = given ?? (await storeConfig(input, io));
  if (!makesIndex) await requireIndex(config.storage.path);
  const log = new CommandLog(text => io.err(text));
  // Only here, so that commands without a store start without loading the server.
  const { openParts } = await import('../compose/parts.ts');
  const { transferKeeper } = await import('../compose/status.ts');
  // What is pulled ahead was fetched, too.
  const totals = new TransferTotals(silentMeter, upstream => config.upstreams.has(upstream));
  const parts = await openParts(config, { log, meter: totals }, { followsCluster });
  totals.keep(transferKeeper(parts.metadata, Date.now()), log);
  try {
    return await act(parts);
  } finally {
    await totals.close();
    await parts.close();
  }
}
