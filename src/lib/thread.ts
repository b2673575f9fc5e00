import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type ResourceLimits, Worker } from 'node:worker_threads';

/**
 * Starts a thread with the module `name` beside the module `caller` (its `import.meta.url`). From `dist/` it runs as it
 * is; from source tsx must be loaded first, which a thread does not inherit. `data` is the thread's `workerData`; a thread
 * that needs more than `resourceLimits` ends with an error, and nobody else.
 */
export function startThread(
  caller: string,
  name: string,
  { data, resourceLimits }: { readonly data?: unknown; readonly resourceLimits?: ResourceLimits } = {},
): Worker {
  const path = join(dirname(fileURLToPath(caller)), name);
  const options = { name, workerData: data, ...(resourceLimits !== undefined && { resourceLimits }) };
  if (!caller.endsWith('.ts')) return new Worker(`${path}.js`, options);
  // tsx's CommonJS loader starts ten times faster in a thread than the one for modules.
  const loader = JSON.stringify(createRequire(import.meta.url).resolve('tsx/cjs'));
  const code = `require(${loader}); require(${JSON.stringify(`${path}.ts`)});`;
  return new Worker(code, { ...options, eval: true, execArgv: [] });
}
