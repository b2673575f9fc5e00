/**
 * The least that a blob, manifest or unfinished upload counts against a quota. A file takes a block of this size on
 * ext4 and XFS, and an inode; a small manifest takes 1 to 2 KiB in rows. Counted by its size, a tenant's 1 MiB of
 * 3-byte blobs would take 1.4 GB. Triggers of the index keep the sums: another number needs a migration.
 */
export const MIN_COUNTED_BYTES = 4096;

/** What content of this size counts against a quota. */
export function countedBytes(sizeBytes: number): number {
  return Math.max(sizeBytes, MIN_COUNTED_BYTES);
}
