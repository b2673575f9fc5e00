/**
 * The index, or its folder, cannot be used as it is, and somebody has to repair it. The message says where it is and
 * what to do.
 */
export class IndexUnusable extends Error {
  override readonly name = 'IndexUnusable';
  /** Whether its bytes are damaged; otherwise it belongs to another program or a newer version. */
  readonly isDamaged: boolean;

  constructor(
    message: string,
    { isDamaged = false, ...options }: ErrorOptions & { isDamaged?: boolean } = {},
  ) {
    super(message, options);
    this.isDamaged = isDamaged;
  }
}
