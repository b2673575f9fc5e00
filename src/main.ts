import { EXIT } from './cli/command.ts';
import { runProgram } from './cli/program.ts';
import { ConfigError } from './config/problems.ts';
import { IndexUnusable } from './metadata/index-unusable.ts';
import { OciError } from './oci/errors.ts';

const io = {
  out: (text: string) => void process.stdout.write(text),
  err: (text: string) => void process.stderr.write(text),
};

// `entrepot hosts … | head` closes the pipe early; that is no failure worth a stack.
process.stdout.on('error', (error: NodeJS.ErrnoException) =>
  process.exit(error.code === 'EPIPE' ? EXIT.done : EXIT.failed),
);

try {
  process.exit(await runProgram(process.argv.slice(2), io));
} catch (error) {
  io.err(`entrepot: ${describe(error)}\n`);
  process.exit(error instanceof ConfigError ? EXIT.usage : EXIT.failed);
}

/** One sentence for what people can put right (a port in use, a folder that may not be written); a stack for bugs. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) {
    return String(error);
  }
  if (error instanceof OciError) return error.reason;
  const isExpected = error instanceof ConfigError || error instanceof IndexUnusable || 'syscall' in error;
  return isExpected ? error.message : (error.stack ?? error.message);
}
