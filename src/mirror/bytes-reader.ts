import type { BlobReader } from '../lib/blob-reader.ts';

/** Bytes in memory as a reader: a manifest, asked for as a blob. */
export class BytesReader implements BlobReader {
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get size(): number {
    return this.#bytes.byteLength;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    const part = this.#bytes.subarray(position, position + buffer.byteLength);
    buffer.set(part);
    return part.byteLength;
  }

  async close(): Promise<void> {}
}
