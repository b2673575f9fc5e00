import { DELETING_DISABLED } from '../access/hosted-rights.ts';
import { CollectingStopped } from '../upkeep/collecting-stopped.ts';
import { type RemovedImage, RemovalRefused } from '../upkeep/image-removal.ts';

/** Why nothing of `typed` was removed; `undefined` for another error. */
export function removalRefusal(typed: string, error: unknown): string | undefined {
  if (error instanceof CollectingStopped) return `nothing can be purged: ${error.message}`;
  if (!(error instanceof RemovalRefused)) return undefined;
  const names = error.names.join(', ');
  const why = {
    disabled: DELETING_DISABLED,
    pinned: `pinned as ${names}; --force removes it anyway`,
    tagged: `its tags ${names} would also be removed; use --force to do so`,
    repository: 'a hosted repository: name a tag or a digest, or use --force to remove all of it',
  } as const;
  return `${typed}: ${why[error.reason]}`;
}

/** What `entrepot rm --json` prints; `undefined` if nothing was stored. */
export function removedDocument(typed: string, removed: RemovedImage | undefined) {
  return {
    image: typed,
    digest: removed?.digest ?? null,
    removedTags: removed?.removedTags ?? [],
    otherTags: removed?.otherTags ?? [],
    manifestHeld: removed?.isManifestHeld ?? false,
    freedBytes: removed?.freedBytes ?? 0,
    neededBytes: removed?.neededBytes ?? 0,
    neededBy: removed?.neededBy ?? [],
    remainingBytes: removed?.remainingBytes ?? 0,
  };
}
