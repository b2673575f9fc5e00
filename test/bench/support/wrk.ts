import { run } from '../../support/programs.ts';
import type { RateJob } from './client.ts';

/** What a load of `wrk` measured. */
export interface WrkResult {
  readonly requests: number;
  readonly seconds: number;
  /** What the load itself took. */
  readonly cpuSeconds: number;
}

const UNITS = ['B', 'KB', 'MB', 'GB', 'TB'];

/**
 * The same requests as a rate job's, sent by wrk, which takes a core less of what it measures than a client in Node. Rejects
 * if a response has failed or the bodies are shorter than expected; wrk does not look at each.
 */
export async function wrk({
  port,
  path,
  headers,
  connections,
  seconds,
  expectBytes,
}: Omit<RateJob, 'kind'>): Promise<WrkResult> {
  const lines = headers.split('\r\n').filter(line => line !== '');
  const args = ['-t1', `-c${connections}`, `-d${seconds}s`, ...lines.flatMap(line => ['-H', line])];
  const stdout = await run('bash', [
    '-c',
    '"$@"; times',
    'wrk',
    'wrk',
    ...args,
    `http://127.0.0.1:${port}${path}`,
  ]);
  const [, count = '', took = '', read = '', unit = ''] =
    /(\d+) requests in ([\d.]+)s, ([\d.]+)(\w+) read/.exec(stdout) ?? [];
  const bytes = Number(read) * 1024 ** UNITS.indexOf(unit);
  const requests = Number(count);
  if (/Non-2xx|Socket errors/.test(stdout) || !(bytes >= requests * expectBytes)) throw new Error(stdout);
  return { requests, seconds: Number(took), cpuSeconds: childSeconds(stdout) };
}

/** Of the last line of bash's `times`: what its children took, `0m1.250s 0m0.125s`. */
function childSeconds(times: string): number {
  const [last = ''] = times.trim().split('\n').slice(-1);
  return [...last.matchAll(/(\d+)m([\d.]+)s/g)].reduce(
    (sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds),
    0,
  );
}
