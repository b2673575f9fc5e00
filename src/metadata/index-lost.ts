/** The index file that this process has open was removed or replaced. Writes to it would be lost, so none are made. */
export class IndexLost extends Error {
  override readonly name = 'IndexLost';
  /** As for any file that is gone. */
  readonly code = 'ESTALE';
}
