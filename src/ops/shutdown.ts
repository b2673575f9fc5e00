import type { Log } from '../lib/log.ts';

/**
 * Ends the process. The first SIGTERM or SIGINT lets work finish within a time limit; the second ends the process at
 * once, unless it is an echo of the first. Exit codes: 0 if everything was closed in time, 1 if not, 128 + the signal's
 * number if ended at once.
 */
export interface ShutdownOptions {
  readonly log: Log;
  /** For all closers together. */
  readonly timeoutMs: number;
  /** How much of that transfers may take, for the log. */
  readonly transfersTimeoutMs: number;
  /** Writes out the log before the process ends. */
  readonly flush: () => void;
  /** The source of signals and the way to exit: the process, except in tests. */
  readonly process?: SignalSource;
}

export interface SignalSource {
  on(signal: 'SIGTERM' | 'SIGINT', listener: (signal: 'SIGTERM' | 'SIGINT') => void): unknown;
  exit(code: number): void;
}

/** Something to close within the rest of the time limit. */
export interface Closer {
  /** For the log. */
  readonly name: string;
  readonly close: (remainingMs: number) => Promise<void>;
}

/**
 * Ctrl-C goes to the terminal's whole process group, and npm also passes it on to its child, which then gets it twice.
 * Longer than a busy npm takes for that, shorter than it takes to press again on purpose.
 */
const ECHO_MS = 500;

const SIGNAL_NUMBER = { SIGINT: 2, SIGTERM: 15 } as const;

/** Closes `closers` one after the other, on the first signal (`listen`) or when `begin` is called. */
export class Shutdown {
  readonly #options: ShutdownOptions;
  readonly #process: SignalSource;
  readonly #closers: readonly Closer[];
  #begun: Promise<void> | undefined;
  #first: { readonly signal: string; readonly atMs: number } | undefined;

  constructor(closers: readonly Closer[], options: ShutdownOptions) {
    this.#closers = closers;
    this.#options = options;
    this.#process = options.process ?? process;
  }

  /** Handles signals from now on. */
  listen(): void {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      this.#process.on(signal, () => this.#signalled(signal));
    }
  }

  /** Starts closing, or joins it; resolves when the process was told to exit. */
  begin(reason: string): Promise<void> {
    this.#begun ??= this.#run(reason);
    return this.#begun;
  }

  #signalled(signal: keyof typeof SIGNAL_NUMBER): void {
    if (this.#begun === undefined) {
      this.#first = { signal, atMs: performance.now() };
      void this.begin(signal);
    } else if (!this.#isEcho(signal)) {
      this.#exit(128 + SIGNAL_NUMBER[signal]);
    }
  }

  #isEcho(signal: string): boolean {
    return this.#first?.signal === signal && performance.now() - this.#first.atMs < ECHO_MS;
  }

  async #run(reason: string): Promise<void> {
    const { log, timeoutMs, transfersTimeoutMs } = this.#options;
    log.info(
      { reason, transfersTimeoutMs, timeoutMs },
      'stopping: finishing transfers; a second signal exits at once',
    );
    const endsAtMs = performance.now() + timeoutMs;
    let isClean = true;
    for (const closer of this.#closers) {
      isClean = (await this.#close(closer, Math.max(0, endsAtMs - performance.now()))) && isClean;
    }
    log.info({ isClean }, 'stopped');
    this.#exit(isClean ? 0 : 1);
  }

  /** Whether `closer` closed in time. If it hangs or fails, the next one still gets its turn. */
  async #close({ name, close }: Closer, remainingMs: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<'late'>(resolve => {
      timer = setTimeout(resolve, remainingMs, 'late');
    });
    try {
      const ended = await Promise.race([close(remainingMs), timeout]);
      if (ended === 'late') {
        this.#options.log.warn({ closer: name }, 'was not closed in time');
      }
      return ended !== 'late';
    } catch (error) {
      this.#options.log.error({ closer: name, err: error }, 'could not be closed');
      return false;
    } finally {
      clearTimeout(timer);
    }
  }

  #exit(code: number): void {
    this.#options.flush();
    this.#process.exit(code);
  }
}
