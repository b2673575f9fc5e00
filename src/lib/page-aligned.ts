declare global {
  /** ES2024; Node has had it since version 20. */
  interface ArrayBufferConstructor {
    new (byteLength: number, options: { readonly maxByteLength: number }): ArrayBuffer;
  }
}

/**
 * Zeroed memory that begins at a page of the machine, for reading files through a buffer that is kept and reused. A
 * large block of `malloc` begins 16 bytes behind a page, and some processors (AMD Zen 3) copy from the beginning of a
 * page, where the kernel has the bytes of a file, to there three times slower than to anywhere else. JavaScript cannot
 * choose addresses, but an ArrayBuffer that may be resized is mapped instead of allocated. That takes longer, so for a
 * buffer that is used once it does not pay.
 */
export function pageAligned(bytes: number): Buffer {
  return Buffer.from(new ArrayBuffer(bytes, { maxByteLength: bytes }), 0, bytes);
}
