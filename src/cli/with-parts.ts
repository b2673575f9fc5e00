import { loadConfig } from '../config/load.ts';
import { silentMeter } from '../lib/meter.ts';
import { createLogger } from '../ops/logger.ts';
import type { Parts } from '../wire.ts';
import { type Input, type Io, textOption } from './command.ts';

export interface WithPartsOptions {
  /** For commands that need the Secrets of a tenant; for the others, the names that the store knows are enough. */
  readonly followsCluster?: boolean;
}

/**
 * Opens the configured store for one command, beside a running server if there is one, and closes it whatever happens.
 * Warnings go to standard error, since standard output holds what was asked for.
 */
export async function withParts<Result>(
  input: Input,
  io: Io,
  act: (parts: Parts) => Promise<Result>,
  { followsCluster = false }: WithPartsOptions = {},
): Promise<Result> {
  const config = await loadConfig({ file: textOption(input, 'config') });
  const output = { write: (text: string) => io.err(text) };
  const { log } = createLogger({ ...config.log, level: 'warn', output, isTerminal: process.stderr.isTTY });
  // Only here, so that commands without a store start without loading the server.
  const { openParts } = await import('../wire.ts');
  const parts = await openParts(config, { log, meter: silentMeter }, { followsCluster });
  try {
    return await act(parts);
  } finally {
    await parts.close();
  }
}
