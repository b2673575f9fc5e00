import type { During, MetadataStore } from '../metadata/metadata-store.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import type { AdminParts } from './admin-parts.ts';
import { NotStored } from './inspect.ts';

export interface PinChange extends During {
  readonly isPinned: boolean;
  /** Whether only to say what would change. */
  readonly dryRun?: boolean;
}

/**
 * Pins an image, or ends its pin; returns whether it was different before. Throws NotStored for an image that cannot be
 * pinned, and InvalidReference.
 */
export async function changePin(
  {
    metadata,
    resolver,
  }: Pick<AdminParts, 'resolver'> & {
    readonly metadata: Pick<MetadataStore, 'readForPull' | 'listPins' | 'putPin' | 'removePin'>;
  },
  typed: string,
  { isPinned, dryRun = false, ...asked }: PinChange,
): Promise<boolean> {
  const { repository, tag = DEFAULT_TAG, digest } = resolver.repositoryOf(typed);
  const reference = digest ?? tag;
  // A Link or a tag remains when a manifest is evicted.
  if (isPinned && (await metadata.readForPull(repository, reference)).manifest === undefined) {
    throw new NotStored(`${typed}: not stored: pull it first`);
  }
  const wasPinned = (await metadata.listPins(repository)).includes(reference);
  if (dryRun) return wasPinned !== isPinned;
  if (isPinned) {
    await metadata.putPin(repository, reference, asked);
    return !wasPinned;
  }
  return metadata.removePin(repository, reference, asked);
}
