// A kubelet that pulls the same image all the time, while something changes what its node pulls through.
import type { Containerd } from './containerd.ts';

/** For the others, the content is there, and the registry or its mirror is only asked what the tag means. */
const WHOLE_EVERY = 10;

export class ConstantPuller {
  readonly #node: Containerd;
  readonly #reference: string;
  /** Why pulls did not bring the image. */
  readonly failures = new Set<string>();
  #pulls = 0;
  #isStopping = false;
  #pulling: Promise<void> | undefined;

  constructor(node: Containerd, reference: string) {
    this.#node = node;
    this.#reference = reference;
  }

  /** How many pulls have ended. */
  get pulls(): number {
    return this.#pulls;
  }

  start(): void {
    this.#pulling = this.#pullOn();
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#pulling;
  }

  async #pullOn(): Promise<void> {
    const id = await this.#node.cri.pull(this.#reference);
    while (!this.#isStopping) {
      try {
        const pulled = await this.#node.cri.pull(this.#reference);
        if (pulled !== id) this.failures.add(`${pulled} instead of ${id}`);
        if (this.#pulls % WHOLE_EVERY === 0) await this.#node.removeImage(this.#reference);
      } catch (error) {
        this.failures.add(String(error));
      }
      this.#pulls += 1;
    }
  }
}
