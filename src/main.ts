import { setImmediate } from 'node:timers/promises';
import { isStorageFull } from './blobs/storage-full.ts';
import { EXIT } from './cli/command.ts';
import { runProgram } from './cli/program.ts';
import { ConfigError } from './config/problems.ts';
import { deniedHint } from './lib/file-owner.ts';
import { installFault } from './lib/install-fault.ts';
import { LeaseLost } from './lib/lease.ts';
import { IndexLocked } from './metadata/index-locked.ts';
import { IndexUnusable } from './metadata/index-unusable.ts';
import { OciError } from './oci/errors.ts';

const EXPECTED = [ConfigError, IndexLocked, IndexUnusable, LeaseLost];

const io = {
  out: (text: string) => void process.stdout.write(text),
  err: (text: string) => void process.stderr.write(text),
};

// `entrepot hosts … | head` closes the pipe early: no message is needed, but it is no success either.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.unread);
  io.err(`entrepot: standard output: ${error.message}\n`);
  process.exit(EXIT.failed);
});

// The command still waits for something, but nothing is left that could happen.
process.on('beforeExit', () => {
  io.err('entrepot: internal error: exited without a result\n');
  process.exit(EXIT.failed);
});

try {
  const exitCode = await runProgram(process.argv.slice(2), io);
  // An error of the last write is reported one turn later.
  await setImmediate();
  process.exit(exitCode);
} catch (error) {
  io.err(`entrepot: ${describe(error)}${await deniedHint(error)}\n`);
  process.exit(error instanceof ConfigError ? EXIT.usage : EXIT.failed);
}

/**
 * One sentence for an error that people can correct (a port in use, a folder that is not writable, another process that
 * is suspended); a stack for bugs.
 */
function describe(error: unknown): string {
  if (!(error instanceof Error)) {
    return String(error);
  }
  if (error instanceof OciError) return error.reason;
  const fault = installFault(error);
  if (fault !== undefined) return fault;
  const isExpected =
    EXPECTED.some(kind => error instanceof kind) || isStorageFull(error) || 'syscall' in error;
  return isExpected ? error.message : (error.stack ?? error.message);
}
