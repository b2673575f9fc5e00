/** The index cannot be worked with as it is, and a person has to put it right: the message says where it is and how. */
export class IndexUnusable extends Error {
  override readonly name = 'IndexUnusable';
}
