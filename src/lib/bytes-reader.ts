import type { BlobReader } from './blob-reader.ts';

/** A `BlobReader` of bytes in memory. */
export function readerOfBytes(bytes: Uint8Array): BlobReader {
  return {
    bytes,
    size: bytes.length,
    async read(buffer, position) {
      const part = bytes.subarray(position, position + buffer.length);
      buffer.set(part);
      return part.length;
    },
    async close() {},
  };
}

/** All bytes of a reader, which is closed; `undefined`, without reading, if there are more than `maxBytes`. */
export async function readWhole(reader: BlobReader, maxBytes: number): Promise<Uint8Array | undefined> {
  try {
    if (reader.size > maxBytes) return undefined;
    const bytes = new Uint8Array(reader.size);
    for (let position = 0; position < bytes.length; ) {
      const count = await reader.read(bytes.subarray(position), position);
      if (count === 0) throw new Error(`the blob ended at byte ${position} of ${bytes.length}`);
      position += count;
    }
    return bytes;
  } finally {
    await reader.close();
  }
}

/** Whether `reader` has exactly these bytes from `position` on; false if it ends before. */
export async function hasBytes(
  reader: Pick<BlobReader, 'read'>,
  bytes: Uint8Array,
  position: number,
): Promise<boolean> {
  const found = new Uint8Array(bytes.byteLength);
  for (let count = 0; count < found.byteLength; ) {
    const read = await reader.read(found.subarray(count), position + count);
    if (read === 0) return false;
    count += read;
  }
  return Buffer.compare(found, bytes) === 0;
}
