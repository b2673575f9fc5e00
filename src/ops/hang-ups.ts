/** The source of signals: the process, except in tests. */
export interface HangUpSource {
  on(signal: 'SIGHUP', listener: () => void): unknown;
}

/**
 * Runs some work on SIGHUP, which would otherwise end the process. One run at a time, and one more for all signals that
 * come meanwhile; a signal before `begin` waits for it.
 */
export class HangUps {
  #work: (() => Promise<void>) | undefined;
  #isAsked = false;
  #isBusy = false;

  constructor(source: HangUpSource = process) {
    source.on('SIGHUP', () => {
      this.#isAsked = true;
      void this.#run();
    });
  }

  /** `work` must not reject. */
  begin(work: () => Promise<void>): void {
    this.#work = work;
    void this.#run();
  }

  async #run(): Promise<void> {
    if (this.#isBusy || this.#work === undefined) return;
    this.#isBusy = true;
    while (this.#isAsked) {
      this.#isAsked = false;
      await this.#work();
    }
    this.#isBusy = false;
  }
}
