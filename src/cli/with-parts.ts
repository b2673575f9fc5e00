import type { Config } from '../config/config.ts';
import { silentMeter } from '../lib/meter.ts';
import { CommandLog } from '../ops/command-log.ts';
import { TransferTotals } from '../ops/transfer-totals.ts';
import type { Parts } from '../compose/parts.ts';
import type { Stored } from '../compose/storage.ts';
import type { Input, Io } from './command.ts';
import { requireIndex, storeConfig } from './store-config.ts';

export interface WithPartsOptions {
  /** The result of `storeConfig`, if the command needed it before. */
  readonly config?: Config | undefined;
  /** For commands that need the Secrets of tenants; for others, the names in the store are enough. */
  readonly followsCluster?: boolean;
  /** For a command that uses credentials: of this tenant, or of the operator. It reports those that cannot be used. */
  readonly credentialsOf?: { readonly tenant: string | undefined };
  /** Log messages of which the command itself tells more. */
  readonly muted?: readonly string[];
  /** See `withWholeIndex`. */
  readonly needsWholeIndex?: boolean;
  /**
   * For a command that repairs a store without an index; all others refuse it, since they would create an empty one.
   */
  readonly makesIndex?: boolean;
  /** Makes the bucket of a store whose index is lost this one's. */
  readonly takesBucketOver?: boolean;
}

/**
 * Opens the configured store for one command, even beside a running server, and closes it in any case. Warnings go to
 * standard error, since standard output is for the result.
 */
export async function withParts<Result>(
  input: Input,
  io: Io,
  act: (parts: Parts) => Promise<Result>,
  options: WithPartsOptions = {},
): Promise<Result> {
  const {
    followsCluster = false,
    makesIndex = false,
    needsWholeIndex = false,
    credentialsOf,
    takesBucketOver = false,
  } = options;
  const config = options.config ?? (await storeConfig(input, io));
  if (!makesIndex) await requireIndex(config);
  const log = new CommandLog(text => io.err(text), {}, options.muted);
  // Loaded here, so that commands without a store do not load the server.
  const { openParts } = await import('../compose/parts.ts');
  const { transferKeeper } = await import('../compose/transfers.ts');
  // Images that are pulled count as fetched.
  const totals = new TransferTotals(silentMeter, upstream => config.upstreams.has(upstream));
  const parts = await openParts(
    config,
    { log, meter: totals },
    {
      followsCluster,
      reportsDoubts: needsWholeIndex,
      takesBucketOver,
      reportsSecretsOf: tenant =>
        credentialsOf !== undefined && (tenant === undefined || tenant === credentialsOf.tenant),
    },
  );
  totals.keep(transferKeeper(parts.metadata, Date.now()), log);
  try {
    return await act(parts);
  } finally {
    await totals.close();
    await parts.close();
  }
}

/** As `withParts`, for a command whose result is incomplete if the index is, which is then reported. */
export function withWholeIndex<Result>(
  input: Input,
  io: Io,
  act: (parts: Parts) => Promise<Result>,
): Promise<Result> {
  return withParts(input, io, act, { needsWholeIndex: true });
}

/** As `withWholeIndex`, for a command that only looks at what is stored; it starts faster. */
export async function withStored<Result>(
  input: Input,
  io: Io,
  act: (stored: Stored) => Promise<Result>,
): Promise<Result> {
  const config = await storeConfig(input, io);
  await requireIndex(config);
  const { openStored } = await import('../compose/storage.ts');
  const stored = await openStored(config, new CommandLog(text => io.err(text)));
  try {
    return await act(stored);
  } finally {
    await stored.close();
  }
}
