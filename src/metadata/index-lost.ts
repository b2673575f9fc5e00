/**
 * The file that this process has open as the index is no longer the one under the index's name: it was removed, or
 * another one was put in its place. What is written to it would be lost with this process, so nothing is.
 */
export class IndexLost extends Error {
  override readonly name = 'IndexLost';
  /** As of any file that is not there any more. */
  readonly code = 'ESTALE';
}
