/** Why an archive is refused, or cannot be written, in one sentence for the user of the command. */
export class ArchiveError extends Error {
  override readonly name = 'ArchiveError';
}
