/** Why nothing can be read or written at the moment: the database of the index cannot be reached. It may pass by itself. */
export class IndexAway extends Error {
  override readonly name = 'IndexAway';
  readonly code = 'INDEX_AWAY';
  /** The same for the operator alone: which database, and all that it or the system says, also with addresses. */
  readonly operatorText: string;

  constructor(message: string, { operatorText = message, ...options }: IndexAwayOptions = {}) {
    super(message, options);
    this.operatorText = operatorText;
  }
}

interface IndexAwayOptions extends ErrorOptions {
  /** By default the message, which is told to anybody. */
  readonly operatorText?: string;
}
