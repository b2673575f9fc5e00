/** Another process has held the write lock of the index for longer than anybody waits: it stands still, or is stuck. */
export class IndexLocked extends Error {
  override readonly name = 'IndexLocked';
}
