/**
 * The index, or the folder that it is to be in, cannot be worked with as it is, and a person has to put it right: the
 * message says where it is and how.
 */
export class IndexUnusable extends Error {
  override readonly name = 'IndexUnusable';
  /** Its bytes are wrong, and no program could work with it; otherwise it is another's, or a newer version's. */
  readonly isDamaged: boolean;

  constructor(
    message: string,
    { isDamaged = false, ...options }: ErrorOptions & { isDamaged?: boolean } = {},
  ) {
    super(message, options);
    this.isDamaged = isDamaged;
  }
}
