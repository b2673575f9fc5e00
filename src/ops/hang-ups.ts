/** Where signals come from: the process, except in tests. */
export interface HangUpSource {
  on(signal: 'SIGHUP', listener: () => void): unknown;
}

/**
 * SIGHUP, which would otherwise end the process, asks for some work. It runs once at a time, and once more for all signals
 * that came meanwhile; a signal before `begin` waits for it.
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
