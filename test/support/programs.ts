// Real programs for the tests: found on the PATH, run to their end, or kept running as a Daemon and stopped by pid.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { accessSync, constants, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Programs write megabytes when they fail in a loop; the end says why. */
const MAX_LOG_CHARACTERS = 4 * 1024 * 1024;

/** Ports from 32768 on are those of connections, which may take one before a server listens on it, or does so again. */
const FIRST_PORT = 10_000;
const END_OF_PORTS = 32_768;

/** How long a daemon may take to end after SIGTERM before SIGKILL. */
const STOP_TIMEOUT_MS = 15_000;

/** Its children may keep the pipes of its output open for long: then no more than that is waited for. */
const OUTPUT_MS = 1_000;

/** Whether `name` is an executable file on the PATH. */
function hasProgram(name: string): boolean {
  return (process.env['PATH'] ?? '').split(delimiter).some(folder => isExecutable(join(folder, name)));
}

/** Whether all of them are there: tests that need real programs are skipped where one is missing, by its name. */
export function hasPrograms(...names: readonly string[]): boolean {
  return names.every(name => hasProgram(name));
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Written to the program's standard input, which is closed behind it. */
  readonly input?: string;
  readonly timeoutMs?: number;
}

export interface RunResult {
  /** The exit code; -1 when a signal ended it, which `stderr` names at its end. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end, whatever its exit code. Throws only if it took too long. */
export async function tryRun(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const child = spawn(...tied('KILL', program, args), {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const stdout = new Tail(child.stdout);
  const stderr = new Tail(child.stderr);
  // A program that does not read its input closes the pipe; its exit code tells the rest.
  child.stdin.on('error', () => {});
  child.stdin.end(options.input ?? '');
  const timeoutMs = options.timeoutMs ?? 300_000;
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.kill('SIGKILL');
  }, timeoutMs);
  const [code, signal] = await new Promise<[number | null, string | null]>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (...end) => resolve(end));
  }).finally(() => clearTimeout(timer));
  if (late) throw new Error(`${program} ${args.join(' ')}: not done after ${timeoutMs} ms\n${stderr.text}`);
  const killed = signal === null ? '' : `killed by ${signal}\n`;
  return { code: code ?? -1, stdout: stdout.text, stderr: stderr.text + killed };
}

/** Runs a program that must succeed; its standard output. The error of one that fails carries what it printed. */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const result = await tryRun(program, args, options);
  if (result.code !== 0) {
    throw new Error(
      `${program} ${args.join(' ')}: exit code ${result.code}\n${result.stdout}${result.stderr}`.trimEnd(),
    );
  }
  return result.stdout;
}

/** User and system time that a process used so far. Linux only. */
export function cpuSecondsOf(pid: number): number {
  // Fields 14 and 15 of proc(5) stat, counted behind the program's name, which may hold spaces; 100 ticks a second.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

export interface DaemonOptions {
  readonly program: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
  /** Answers true once the daemon can be used; asked again and again until then. */
  readonly isReady: () => Promise<boolean>;
  readonly readyTimeoutMs?: number;
  /** What it gets when the tests die without stopping it; `TERM` for one that has processes of its own to stop. */
  readonly deathSignal?: DeathSignal;
}

/** A program that runs until it is stopped. Its output is kept (the last 4 MiB characters of it). */
export class Daemon {
  readonly pid: number;
  /** Resolves when it has ended and all that it printed is in its logs. */
  readonly closed: Promise<void>;
  readonly #child: ChildProcess;
  readonly #log: Tail;
  readonly #exited: Promise<void>;

  private constructor(child: ChildProcess, pid: number, exited: Promise<void>) {
    this.pid = pid;
    this.#child = child;
    this.#log = new Tail(child.stdout, child.stderr);
    this.#exited = exited;
    this.closed = new Promise(resolve => child.once('close', () => resolve()));
    running.add(child);
    void exited.then(() => running.delete(child));
  }

  /** Starts the program and waits until it is ready; if it ends or is late, throws with its log. */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const child = spawn(...tied(options.deathSignal ?? 'KILL', options.program, options.args), {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const exited = endOf(child);
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', reject);
    });
    const daemon = new Daemon(child, child.pid ?? -1, exited);
    try {
      await until(`${options.program} to be ready`, options.readyTimeoutMs ?? 30_000, async () => {
        if (!daemon.isRunning) throw new Error(`${options.program} ended before it was ready`);
        return options.isReady();
      });
    } catch (error) {
      await daemon.kill();
      throw new Error(`${String(error)}\n${daemon.logs()}`, { cause: error });
    }
    return daemon;
  }

  get isRunning(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** The exit code, once it ended by itself. */
  get exitCode(): number | undefined {
    return this.#child.exitCode ?? undefined;
  }

  /** Everything that it printed so far. */
  logs(): string {
    return this.#log.text;
  }

  /** SIGTERM, and SIGKILL for one that does not end; returns when the process is gone. */
  async stop(timeoutMs = STOP_TIMEOUT_MS): Promise<void> {
    if (this.isRunning) this.#child.kill('SIGTERM');
    const late = setTimeout(() => this.#child.kill('SIGKILL'), timeoutMs);
    await this.#exited;
    clearTimeout(late);
  }

  /** SIGKILL: what a crash is. Returns when the process is gone. */
  async kill(): Promise<void> {
    if (this.isRunning) this.#child.kill('SIGKILL');
    await this.#exited;
  }

  /** Resident memory now. Linux only, like the programs. */
  rssBytes(): number {
    return this.#statusBytes('VmRSS');
  }

  /** The most resident memory it had so far. */
  peakRssBytes(): number {
    return this.#statusBytes('VmHWM');
  }

  /** User and system time that it used so far. */
  cpuSeconds(): number {
    return cpuSecondsOf(this.pid);
  }

  #statusBytes(field: string): number {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    const kibibytes = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1];
    if (kibibytes === undefined) throw new Error(`no ${field} of process ${this.pid}`);
    return Number(kibibytes) * 1024;
  }
}

/** Resolves when the process is gone and its output is read, but for what its own children still hold open. */
async function endOf(child: ChildProcess): Promise<void> {
  const closed = new Promise(resolve => child.once('close', resolve));
  await new Promise(resolve => child.once('exit', resolve));
  await Promise.race([closed, sleep(OUTPUT_MS, undefined, { ref: false })]);
}

/**
 * A TCP port of the loopback that is free now, is given to no connection, and to nobody else who asks here, in whichever
 * process, until this process ends: what listens on it may be stopped and started again.
 */
export async function freePort(): Promise<number> {
  return freePorts(1);
}

/** The first of `count` such ports in a row. */
export async function freePorts(count: number): Promise<number> {
  for (;;) {
    const first = randomInt(FIRST_PORT, END_OF_PORTS - count);
    const stretch = Array.from({ length: count }, (_, at) => first + at);
    const taken = await Promise.all(stretch.map(async port => (await reserve(port)) && (await isFree(port))));
    if (taken.every(Boolean)) return first;
  }
}

/** Takes the UDP port of the same number, which nothing else uses: one process can have it, and loses it when it ends. */
function reserve(port: number): Promise<boolean> {
  const socket = createSocket('udp4').unref();
  return new Promise(resolve => {
    socket.once('error', () => socket.close(() => resolve(false)));
    socket.bind({ port, address: '127.0.0.1', exclusive: true }, () => resolve(true));
  });
}

function isFree(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise(resolve => {
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

/** Asks `isTrue` until it answers true; throws naming `what` after `timeoutMs`. An error of `isTrue` ends it at once. */
export async function until(what: string, timeoutMs: number, isTrue: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (!(await isTrue())) {
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await sleep(25);
  }
}

/** Whether a GET answers with `status` (any below 500 if left out); false while nobody listens. */
export async function answers(url: string, status?: number): Promise<boolean> {
  try {
    const response = await fetch(url, { redirect: 'manual', signal: AbortSignal.timeout(2_000) });
    await response.arrayBuffer();
    return status === undefined ? response.status < 500 : response.status === status;
  } catch {
    return false;
  }
}

type DeathSignal = 'KILL' | 'TERM';

const CAN_TIE = hasProgram('setpriv');

/**
 * A command line whose process the kernel signals when ours dies, be it by SIGKILL: setpriv(1) of util-linux asks for
 * that and becomes the program. Where there is none, the program runs as it is.
 */
function tied(
  signal: DeathSignal,
  program: string,
  args: readonly string[],
): [program: string, args: readonly string[]] {
  return CAN_TIE ? ['setpriv', ['--pdeathsig', signal, program, ...args]] : [program, args];
}

// Tests stop what they start; this is for a run that is interrupted where there is no setpriv.
const running = new Set<ChildProcess>();
if (!CAN_TIE) {
  process.once('exit', () => {
    for (const child of running) child.kill('SIGKILL');
  });
}

/** The end of what some streams carry, as text. */
class Tail {
  #chunks: string[] = [];
  #length = 0;

  constructor(...streams: (NodeJS.ReadableStream | null)[]) {
    for (const stream of streams) {
      stream?.setEncoding('utf8');
      stream?.on('data', (chunk: string) => this.#append(chunk));
    }
  }

  get text(): string {
    return this.#chunks.join('');
  }

  #append(chunk: string): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    while (this.#length > MAX_LOG_CHARACTERS && this.#chunks.length > 1) {
      this.#length -= this.#chunks.shift()?.length ?? 0;
    }
  }
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}
