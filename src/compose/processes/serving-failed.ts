/** A serving process could not be started. */
export class ServingFailed extends Error {
  override readonly name = 'ServingFailed';
}
