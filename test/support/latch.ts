/** Something that is waited for until a test opens it. */
export class Latch {
  /** Resolves when it is open. */
  readonly opened: Promise<void>;
  #open = () => {};

  constructor() {
    this.opened = new Promise(resolve => {
      this.#open = resolve;
    });
  }

  open(): void {
    this.#open();
  }
}
