import type { BlobReader } from '../lib/blob-reader.ts';
import { OciError } from '../oci/errors.ts';
import type { Fill } from './fill.ts';

/** Reads along with a Fill. Many may; each at its own pace, and none of them brakes the Fill. */
export class FillReader implements BlobReader {
  readonly size: number;
  readonly #fill: Fill;
  readonly #admission: Promise<void>;
  readonly #leave: () => void;
  readonly #closing = new AbortController();

  /** For `Fill.open`. */
  constructor(fill: Fill, size: number, admission: Promise<void>, leave: () => void) {
    this.#fill = fill;
    this.size = size;
    this.#admission = admission;
    this.#leave = leave;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    if (position >= this.size) return 0;
    await this.#admission;
    const fill = this.#fill;
    const readable = await fill.until(() => this.#readableBehind(position), this.#closing.signal);
    const count = await fill.read(buffer.subarray(0, readable - position), position);
    if (count === 0) throw new Error(`the bytes of ${fill.digest} went away while they were read`);
    return count;
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new Error('the reader was closed'));
    this.#leave();
  }

  /** Up to where may be read; `undefined` while that is not beyond `position`. */
  #readableBehind(position: number): number | undefined {
    const { digest, size, readable } = this.#fill;
    if (size !== undefined && size !== this.size) {
      throw new OciError('UPSTREAM_INVALID', {
        message: 'upstream gives the blob another size than the manifest that names it',
        detail: { digest, named: this.size, given: size },
      });
    }
    return readable > position ? readable : undefined;
  }
}
