import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

/**
 * Starts a thread with the module `name` beside the module `caller` (its `import.meta.url`). From `dist/` it runs as it
 * is; from source tsx must be loaded first, which a thread does not inherit.
 */
export function startThread(caller: string, name: string, data?: unknown): Worker {
  const path = join(dirname(fileURLToPath(caller)), name);
  if (!caller.endsWith('.ts')) {
    return new Worker(`${path}.js`, { name, workerData: data });
  }
  // tsx's CommonJS loader starts ten times faster in a thread than the one for modules.
  const loader = JSON.stringify(createRequire(import.meta.url).resolve('tsx/cjs'));
  const code = `require(${loader}); require(${JSON.stringify(`${path}.ts`)});`;
  return new Worker(code, { name, eval: true, execArgv: [], workerData: data });
}
