import type { Config } from '../config/config.ts';
import { silentMeter } from '../lib/meter.ts';
import { CommandLog } from '../ops/command-log.ts';
import { TransferTotals } from '../ops/transfer-totals.ts';
import type { Parts } from '../compose/parts.ts';
import type { Input, Io } from './command.ts';
import { requireIndex, storeConfig } from './store-config.ts';

export interface WithPartsOptions {
  /** The result of `storeConfig`, if the command needed it before. */
  readonly config?: Config | undefined;
  /** For commands that need the Secrets of tenants; for others, the names in the store are enough. */
  readonly followsCluster?: boolean;
  /**
   * For a command that repairs a store without an index; all others refuse it, since they would create an empty one.
   */
  readonly makesIndex?: boolean;
}

/**
 * Opens the configured store for one command, even beside a running server, and closes it in any case. Warnings go to
 * standard error, since standard output is for the result.
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
  // Loaded here, so that commands without a store do not load the server.
  const { openParts } = await import('../compose/parts.ts');
  const { transferKeeper } = await import('../compose/status.ts');
  // Images that are pulled count as fetched.
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
