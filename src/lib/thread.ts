import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type ResourceLimits, Worker } from 'node:worker_threads';

/**
 * Starts a worker thread with the module `name` beside the module `caller` (its `import.meta.url`). In `dist/` it is a
 * chunk; from source tsx must be loaded first, since threads do not inherit that. `data` is the thread's
 * `workerData`. If the thread exceeds `resourceLimits`, only the thread ends with an error.
 */
export function startThread(
  caller: string,
  name: string,
  { data, resourceLimits }: { readonly data?: unknown; readonly resourceLimits?: ResourceLimits } = {},
): Worker {
  const options = { name, workerData: data, ...(resourceLimits !== undefined && { resourceLimits }) };
  const folder = dirname(fileURLToPath(caller));
  if (!caller.endsWith('.ts')) return new Worker(join(folder, 'thread.cjs'), { ...options, argv: [name] });
  // tsx's CommonJS loader starts ten times faster in a thread than its ESM loader.
  const loader = JSON.stringify(createRequire(import.meta.url).resolve('tsx/cjs'));
  const code = `require(${loader}); require(${JSON.stringify(join(folder, `${name}.ts`))});`;
  return new Worker(code, { ...options, eval: true, execArgv: [] });
}
