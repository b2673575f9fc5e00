import type { Fill } from './fill.ts';
import type { FillSharing } from './fill-sharing.ts';

/**
 * A Fill that this process downloads, as other replicas read it: from any byte, as it grows, to its very end. Nothing is
 * held back from them, since each verifies the blob for itself.
 */
export class LedFill {
  readonly #fill: Fill;
  readonly #sharing: FillSharing;
  readonly #done: Promise<void>;
  readonly #close: () => void;

  /** `done`: when its run has ended, and everybody can see in the index what became of the blob. */
  constructor(fill: Fill, sharing: FillSharing, done: Promise<void>) {
    this.#fill = fill;
    this.#sharing = sharing;
    this.#done = done;
    this.#close = fill.keepOpen();
  }

  /** As `Fill.size`. */
  get size(): number | undefined {
    return this.#fill.size;
  }

  /** As `Fill.length`. */
  get length(): number {
    return this.#fill.length;
  }

  /** The repositories for which upstream sends the blob, as `repositoryText`. */
  get repositories(): readonly string[] {
    return this.#sharing.provedRepositories;
  }

  /** Resolves when upstream has begun to send; rejects when nothing will come. */
  begun(signal: AbortSignal): Promise<unknown> {
    const { state, length } = this.#fill;
    if (state === 'verified' || length > 0) return Promise.resolve();
    return this.#untilBytes(0, signal);
  }

  /**
   * Fills `buffer` from `position` with what is there, as soon as there is something; returns how many bytes. 0 at the end
   * of a verified blob, once its run has ended. Rejects if the Fill fails, which is then in the index, too.
   */
  async read(buffer: Uint8Array, position: number, signal: AbortSignal): Promise<number> {
    const end = await this.#untilBytes(position, signal);
    if (end > position)
      return this.#copy(buffer, position) ?? this.#fill.read(buffer.subarray(0, end - position), position);
    await this.#done;
    return 0;
  }

  /** As `read`, for bytes that have just come and are still in memory. */
  #copy(buffer: Uint8Array, position: number): number | undefined {
    const lent = this.#fill.lend(position);
    if (lent === undefined) return undefined;
    const bytes = lent.bytes.subarray(0, buffer.byteLength);
    buffer.set(bytes);
    lent.giveBack();
    return bytes.byteLength;
  }

  /** Call it when it is not read any more; may be called twice. */
  close(): void {
    this.#close();
  }

  /** The length, once it is beyond `position` or final. */
  async #untilBytes(position: number, signal: AbortSignal): Promise<number> {
    const fill = this.#fill;
    try {
      return await fill.until(
        () => (fill.length > position || fill.state === 'verified' ? fill.length : undefined),
        signal,
      );
    } catch (error) {
      if (fill.state === 'failed') await this.#done;
      throw error;
    }
  }
}
