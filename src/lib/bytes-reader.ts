import type { BlobReader } from './blob-reader.ts';

/** Bytes in memory as a `BlobReader`. */
export function readerOfBytes(bytes: Uint8Array): BlobReader {
  return {
    size: bytes.length,
    async read(buffer, position) {
      const part = bytes.subarray(position, position + buffer.length);
      buffer.set(part);
      return part.length;
    },
    async close() {},
  };
}
