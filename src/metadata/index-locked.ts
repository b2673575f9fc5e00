/** Another process has held a lock of the index for too long: it is suspended or stuck, or the machine is overloaded. */
export class IndexLocked extends Error {
  override readonly name = 'IndexLocked';
}
