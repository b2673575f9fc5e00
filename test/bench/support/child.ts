import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** Runs a script of this folder in its own process: the job as JSON in argv, the result as JSON on standard output. */
export async function runInChild<Result>(
  script: string,
  job: unknown,
  nodeOptions: readonly string[] = [],
): Promise<Result> {
  const path = fileURLToPath(new URL(script, import.meta.url));
  const args = [...nodeOptions, '--import', 'tsx', path, JSON.stringify(job)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let out = '';
  child.stdout.on('data', chunk => {
    out += chunk;
  });
  const code = await new Promise<number | null>(resolve => child.once('close', resolve));
  if (code !== 0) {
    throw new Error(`${script} ended with code ${code}`);
  }
  return JSON.parse(out) as Result;
}
