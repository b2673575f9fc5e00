import { type ChildProcess, type ForkOptions, fork } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const OPTIONS: ForkOptions = {
  // Keeps maps, buffers and `undefined`, unlike JSON.
  serialization: 'advanced',
  stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
};

/**
 * Starts a process with the module `name` beside the module `caller` (its `import.meta.url`), as `startThread` does a
 * thread: with the options of this one's Node and its environment, a `Channel` to it, and the same standard output.
 */
export function startChildProcess(caller: string, name: string): ChildProcess {
  const folder = dirname(fileURLToPath(caller));
  return caller.endsWith('.ts')
    ? fork(join(folder, `${name}.ts`), [], OPTIONS)
    : fork(join(folder, 'thread.cjs'), [name], OPTIONS);
}
