import { createHash, type Hash } from 'node:crypto';
import { type BlobReader, HOLD_BACK_BYTES } from '../../lib/blob-reader.ts';
import { type Digest, digestAlgorithm, digestHex } from '../../oci/digest.ts';

/** How much is read at a time of what somebody else has read before, and held back at most. */
const STEP_BYTES = 256 * 1024;

export interface VerifyingReaderOptions {
  /** Closed with this one. */
  readonly reader: BlobReader;
  readonly digest: Digest;
  /** What the caller may have had of the blob before it reads here, from its start on. */
  readonly before?: (Pick<BlobReader, 'read'> & { readonly length: number }) | undefined;
  /** The error for bytes of another digest. */
  readonly wrong: (actual: string) => Error;
}

/**
 * Reads a blob from its start to its end, and hashes it on the way. The end is held back until the digest is right. What is
 * read in another order is not verified. Reads come one after the other.
 */
export class VerifyingReader implements BlobReader {
  readonly size: number;
  readonly origin: string | undefined;
  readonly #options: VerifyingReaderOptions;
  readonly #heldFrom: number;
  readonly #hash: Hash;
  /** How much is hashed, from the start on. */
  #hashed = 0;
  #end: Uint8Array | undefined;
  #failure: Error | undefined;

  constructor(options: VerifyingReaderOptions) {
    const { reader, digest } = options;
    this.#options = options;
    this.size = reader.size;
    this.origin = reader.origin;
    this.#heldFrom = Math.max(0, reader.size - HOLD_BACK_BYTES);
    this.#hash = createHash(digestAlgorithm(digest));
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    const { reader } = this.#options;
    if (this.#failure !== undefined) throw this.#failure;
    await this.#catchUp(position);
    if (position < this.#heldFrom) {
      const count = await reader.read(buffer.subarray(0, this.#heldFrom - position), position);
      if (position === this.#hashed) this.#add(buffer.subarray(0, count));
      return count;
    }
    if (this.#hashed === this.#heldFrom) await this.#verifyEnd();
    if (this.#end === undefined) return reader.read(buffer, position);
    const at = position - this.#heldFrom;
    const bytes = this.#end.subarray(at, at + buffer.byteLength);
    buffer.set(bytes);
    return bytes.byteLength;
  }

  close(): Promise<void> {
    this.#failure ??= new Error('the reader is closed');
    return this.#options.reader.close();
  }

  /** Hashes what the caller had before. */
  async #catchUp(position: number): Promise<void> {
    const { before } = this.#options;
    const end = Math.min(position, before?.length ?? 0, this.#heldFrom);
    if (before === undefined || end <= this.#hashed) return;
    const step = new Uint8Array(Math.min(STEP_BYTES, end - this.#hashed));
    while (this.#hashed < end) {
      const count = await before.read(step.subarray(0, end - this.#hashed), this.#hashed);
      if (count === 0)
        throw new Error(`what was read of the blob is no longer stored from byte ${this.#hashed} on`);
      this.#add(step.subarray(0, count));
    }
  }

  async #verifyEnd(): Promise<void> {
    const { reader, digest, wrong } = this.#options;
    const end = new Uint8Array(this.size - this.#heldFrom);
    for (let at = 0; at < end.byteLength; ) at += await reader.read(end.subarray(at), this.#heldFrom + at);
    this.#add(end);
    const hex = this.#hash.digest('hex');
    if (hex === digestHex(digest)) this.#end = end;
    else throw (this.#failure = wrong(`${digestAlgorithm(digest)}:${hex}`));
  }

  #add(bytes: Uint8Array): void {
    this.#hash.update(bytes);
    this.#hashed += bytes.byteLength;
  }
}
