import { isDeepStrictEqual } from 'node:util';

export interface RestartableOptions<Running> {
  /** What it runs by: a copy each time, where the original may be changed in place. */
  readonly settings: () => object;
  /** Begins it and ends `previous`, in either order. When it rejects, the next `follow` tries again. */
  readonly begin: (previous: Running | undefined) => Promise<Running>;
}

/** Something that runs by settings and is begun anew when they have changed. One `follow` at a time. */
export class Restartable<Running extends { close(): Promise<void> } | undefined> {
  readonly #options: RestartableOptions<Running>;
  #running: Running | undefined;
  /** `undefined`: it has to be begun, whatever the settings say. */
  #begunWith: object | undefined;

  constructor(options: RestartableOptions<Running>) {
    this.#options = options;
  }

  /** Begins it, unless it runs by the settings of now. */
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
