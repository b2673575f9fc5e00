/** Why an archive is refused, or cannot be made: one sentence for the person who runs the command. */
export class ArchiveError extends Error {
  override readonly name = 'ArchiveError';
}
