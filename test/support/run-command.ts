// Commands of the built program, in the process of the test.
import { fileURLToPath } from 'node:url';
import type { runProgram as RunProgram } from '../../src/cli/program.ts';
import type { RunResult } from './programs.ts';

const PROGRAM = fileURLToPath(new URL('../../dist/program.cjs', import.meta.url));

/**
 * Runs a command line of the program to its end. Its standard streams would be those of the tests: what reads or writes
 * them (`-`) must be spawned, and so must a command that becomes another user, which nothing undoes.
 */
export async function runCommand(...args: readonly string[]): Promise<RunResult> {
  if (args.includes('-')) throw new Error(`to be spawned, since it uses standard streams: ${args.join(' ')}`);
  const { runProgram }: { runProgram: typeof RunProgram } = await import(PROGRAM);
  const user = process.geteuid?.();
  let stdout = '';
  let stderr = '';
  const code = await runProgram(args, {
    out: text => void (stdout += text),
    err: text => void (stderr += text),
  });
  if (process.geteuid?.() !== user)
    throw new Error(`to be spawned, since it became another user: ${args.join(' ')}`);
  return { code, stdout, stderr };
}
