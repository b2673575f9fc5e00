import { runInChild } from './child.ts';
import type { NodesJob, NodesResult, RateJob, RateResult } from './client.ts';

/** Runs one job of `client.ts` in its own process. */
export async function load(job: RateJob): Promise<RateResult>;
export async function load(job: NodesJob): Promise<NodesResult>;
export async function load(job: RateJob | NodesJob): Promise<RateResult | NodesResult> {
  return runInChild('client.ts', job);
}
