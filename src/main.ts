import { setImmediate } from 'node:timers/promises';
import { EXIT } from './cli/command.ts';
import { runProgram } from './cli/program.ts';

const io = {
  out: (text: string) => void process.stdout.write(text),
  err: (text: string) => void process.stderr.write(text),
  // Moves up, and clears to the end of the screen (ECMA-48).
  clear: (lines: number) => void process.stderr.write(`\u001B[${lines}A\u001B[J`),
};

// `entrepot hosts … | head` closes the pipe early: no message is needed, but it is no success either.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.unread);
  // A stopped command closes it, and still has to clean up and report that.
  if (error.name === 'AbortError') return;
  io.err(`entrepot: standard output: ${error.message}\n`);
  process.exit(EXIT.failed);
});

// A command whose messages nobody reads goes on: its result and its exit code count.
process.stderr.on('error', () => {});

// The command still waits for something, but nothing is left that could happen.
process.on('beforeExit', () => {
  io.err('entrepot: internal error: exited without a result\n');
  process.exit(EXIT.failed);
});

// Bundled as CommonJS, so nothing is awaited at the top.
void run();

async function run(): Promise<void> {
  const exitCode = await runProgram(process.argv.slice(2), io);
  // An error of the last write is reported one turn later.
  await setImmediate();
  process.exit(exitCode);
}
