import { isDeepStrictEqual } from 'node:util';

export interface RestartableOptions<Running> {
  /** Returns the current settings: a copy, if the original may be changed in place. */
  readonly settings: () => object;
  /** Starts it, and ends `previous`, in either order. If it rejects, the next `follow` tries again. */
  readonly begin: (previous: Running | undefined) => Promise<Running>;
}

/** Something that runs with settings, and is restarted when they have changed. One `follow` at a time. */
export class Restartable<Running extends { close(): Promise<void> } | undefined> {
  readonly #options: RestartableOptions<Running>;
  #running: Running | undefined;
  /** `undefined` if it has to be started, whatever the settings are. */
  #begunWith: object | undefined;

  constructor(options: RestartableOptions<Running>) {
    this.#options = options;
  }

  /** Starts it, unless it already runs with the current settings. */
  async follow(): Promise<void> {
    const settings = this.#options.settings();
    if (isDeepStrictEqual(settings, this.#begunWith)) return;
    this.#begunWith = undefined;
    this.#running = await this.#options.begin(this.#running);
    this.#begunWith = settings;
  }

  async close(): Promise<void> {
    await this.#running?.close();
  }
}
