/**
 * All bytes of a small body. Throws what `tooLarge` returns as soon as there are more than `maxBytes`, without reading
 * on; a stream is then destroyed, unless its iterator was made to leave it open.
 */
export async function collectBytes(
  body: AsyncIterable<Uint8Array>,
  maxBytes: number,
  tooLarge: () => Error,
): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.byteLength;
    if (bytes > maxBytes) throw tooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
