/** How the last attempt to pull an image ahead has ended. */
export interface LastPull {
  /** Epoch ms. */
  readonly atMs: number;
  /** Why it failed, for operators; `undefined` if everything is stored. */
  readonly failure: string | undefined;
}

/** How the images that a server pulls ahead fared last, since it started and as long as it is this server that pulls. */
export class LastPulls {
  readonly #nowMs: () => number;
  #last = new Map<string, LastPull>();
  /** How many images, and files that name some, could not be pulled or read the last time. */
  failing = 0;

  constructor(nowMs: () => number = Date.now) {
    this.#nowMs = nowMs;
  }

  /** By the name in the configuration. */
  of(image: string): LastPull | undefined {
    return this.#last.get(image);
  }

  note(image: string, failure: string | undefined): void {
    this.#last.set(image, { atMs: this.#nowMs(), failure });
  }

  /** Forgets all other images. */
  keep(images: readonly string[]): void {
    const known = this.#last;
    this.#last = new Map();
    for (const image of images) {
      const last = known.get(image);
      if (last !== undefined) this.#last.set(image, last);
    }
  }
}
