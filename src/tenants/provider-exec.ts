import { spawn } from 'node:child_process';
import type { Clock } from '../lib/clock.ts';

/** The kubelet's limit. */
const TIME_LIMIT_MS = 60_000;

/** Far more than any response, which has a few tokens. */
const MAX_OUTPUT_BYTES = 1024 * 1024;

/** As much as a log line needs of a plugin's error output. */
const MAX_COMPLAINT_BYTES = 2_000;

/** A plugin could not be run successfully. */
export class PluginFailed extends Error {
  override readonly name = 'PluginFailed';
}

/** A plugin to run, and its input. */
export interface PluginRun {
  readonly program: string;
  readonly args: readonly string[];
  /** The complete environment. */
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly input: string;
  readonly clock: Clock;
  /** Ends the plugin when it aborts. */
  readonly signal?: AbortSignal | undefined;
}

/** Runs a plugin once, and returns its standard output if it ended with 0 in time; throws PluginFailed otherwise. */
export async function runPlugin(run: PluginRun): Promise<string> {
  const { program, args, env, input, clock, signal } = run;
  if (signal?.aborted === true) throw new PluginFailed('is no longer run');
  // In a process group of its own, so that what a script started ends with it.
  const child = spawn(program, [...args], { env, detached: true });
  const kill = () => {
    killGroup(child.pid);
    // Processes that have left the group might keep them open for ever.
    for (const pipe of [child.stdin, child.stdout, child.stderr]) pipe.destroy();
  };
  const output = new Output(MAX_OUTPUT_BYTES, kill);
  const complaint = new Output(MAX_COMPLAINT_BYTES, () => {});
  let isLate = false;
  const timer = clock.after(TIME_LIMIT_MS, () => {
    isLate = true;
    kill();
  });
  signal?.addEventListener('abort', kill);
  child.stdout.on('data', (chunk: Buffer) => output.add(chunk));
  child.stderr.on('data', (chunk: Buffer) => complaint.add(chunk));
  // A plugin may end without reading its input.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  try {
    const status = await new Promise<string>((resolve, reject) => {
      child.on('error', error => reject(new PluginFailed(`cannot be run: ${error.message}`)));
      child.on('close', (code, by) => resolve(code === null ? `signal ${by}` : `status ${code}`));
    });
    if (isLate) throw new PluginFailed(`took longer than ${TIME_LIMIT_MS / 1000} s`);
    if (output.isFull) throw new PluginFailed(`wrote more than ${MAX_OUTPUT_BYTES} bytes`);
    if (status !== 'status 0') throw new PluginFailed(`ended with ${status}: ${complaint.text()}`);
    return output.text();
  } finally {
    timer.cancel();
    signal?.removeEventListener('abort', kill);
  }
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has just ended by itself.
  }
}

/** Collects the first bytes of a stream; the rest is discarded. */
class Output {
  readonly #maxBytes: number;
  readonly #onFull: () => void;
  readonly #chunks: Buffer[] = [];
  #bytes = 0;

  constructor(maxBytes: number, onFull: () => void) {
    this.#maxBytes = maxBytes;
    this.#onFull = onFull;
  }

  get isFull(): boolean {
    return this.#bytes > this.#maxBytes;
  }

  add(chunk: Buffer): void {
    if (this.isFull) return;
    this.#bytes += chunk.length;
    this.#chunks.push(chunk);
    if (this.isFull) this.#onFull();
  }

  text(): string {
    return Buffer.concat(this.#chunks).subarray(0, this.#maxBytes).toString('utf8').trim();
  }
}
