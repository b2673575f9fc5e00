import { setImmediate } from 'node:timers/promises';
import { isStorageFull } from './blobs/storage-full.ts';
import { EXIT } from './cli/command.ts';
import { runProgram } from './cli/program.ts';
import { ConfigError } from './config/problems.ts';
import { isDenied, ownUid, userText } from './lib/file-owner.ts';
import { installFault } from './lib/install-fault.ts';
import { LeaseLost } from './lib/lease.ts';
import { IndexLocked } from './metadata/index-locked.ts';
import { IndexUnusable } from './metadata/index-unusable.ts';
import { OciError } from './oci/errors.ts';

const EXPECTED = [ConfigError, IndexLocked, IndexUnusable, LeaseLost];
const startedAs = ownUid();

const io = {
  out: (text: string) => void process.stdout.write(text),
  err: (text: string) => void process.stderr.write(text),
};

// `entrepot hosts … | head` closes the pipe early: not worth a word, but no success either.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.unread);
  io.err(`entrepot: standard output: ${error.message}\n`);
  process.exit(EXIT.failed);
});

// Nothing is left that could still come, and the command waits for something.
process.on('beforeExit', () => {
  io.err('entrepot: internal error: exited without a result\n');
  process.exit(EXIT.failed);
});

try {
  const exitCode = await runProgram(process.argv.slice(2), io);
  // That the last of it could not be written is told a turn later.
  await setImmediate();
  process.exit(exitCode);
} catch (error) {
  io.err(`entrepot: ${describe(error)}${isDenied(error) ? await actingAs() : ''}\n`);
  process.exit(error instanceof ConfigError ? EXIT.usage : EXIT.failed);
}

/**
 * One sentence for what people can put right (a port in use, a folder that may not be written, another process that stands
 * still); a stack for bugs.
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

/** What root reads who became the owner of a store, and finds a file closed. */
async function actingAs(): Promise<string> {
  const uid = ownUid();
  if (uid === undefined || uid === startedAs) return '';
  return ` (running as ${await userText(uid)}, the owner of the store; for files of other users, use a pipe: -)`;
}
