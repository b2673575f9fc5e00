/** Another process has held the write lock of the index for too long: it is suspended or stuck. */
export class IndexLocked extends Error {
  override readonly name = 'IndexLocked';
}
