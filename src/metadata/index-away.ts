/** Why nothing can be read or written at the moment: the database of the index cannot be reached. It may pass by itself. */
export class IndexAway extends Error {
  override readonly name = 'IndexAway';
  readonly code = 'INDEX_AWAY';
}
