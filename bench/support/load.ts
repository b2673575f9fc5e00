import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { NodesJob, NodesResult, RateJob, RateResult } from './client.ts';

/** Runs one job of `client.ts` in its own process. */
export async function load(job: RateJob): Promise<RateResult>;
export async function load(job: NodesJob): Promise<NodesResult>;
export async function load(job: RateJob | NodesJob): Promise<RateResult | NodesResult> {
  const script = fileURLToPath(new URL('client.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, JSON.stringify(job)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let out = '';
  child.stdout.on('data', chunk => {
    out += chunk;
  });
  const code = await new Promise<number | null>(resolve => child.once('close', resolve));
  if (code !== 0) {
    throw new Error(`the load ended with code ${code}`);
  }
  return JSON.parse(out) as RateResult | NodesResult;
}
