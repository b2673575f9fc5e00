import { mayNameArch } from '../config/repository-options.ts';
import { digestOfReference } from '../metadata/reference-digest.ts';
import { baseOfArchName } from '../http/arch-names.ts';
import type { Platform } from '../oci/platform.ts';
import type { Repository } from '../oci/repository.ts';
import type { Parts } from './parts.ts';

/** The repository in which an image is stored and, if its name contains an architecture, the platform. */
export interface HeldName {
  readonly repository: Repository;
  readonly platforms: readonly Platform[] | undefined;
}

/**
 * Where an image is stored: under its name or, if that contains an architecture, under the name of the multi-platform
 * image.
 */
export async function heldName(
  parts: Pick<Parts, 'config' | 'metadata'>,
  repository: Repository,
  reference: string,
): Promise<HeldName> {
  const own = { repository, platforms: undefined };
  const meant = mayNameArch(parts.config, repository) ? baseOfArchName(repository) : undefined;
  if (meant === undefined || (await isHeld(parts, repository, reference))) return own;
  // If so, upstream has such a repository, and lacks only the tag.
  const { entries } = await parts.metadata.listTags(repository, { limit: 1, after: undefined });
  if (entries.length > 0) return own;
  const isBaseHeld = await isHeld(parts, meant.base, reference);
  return isBaseHeld ? { repository: meant.base, platforms: [meant.platform] } : own;
}

async function isHeld(
  { metadata }: Pick<Parts, 'metadata'>,
  repository: Repository,
  reference: string,
): Promise<boolean> {
  const digest = await digestOfReference(metadata, repository, reference);
  return digest !== undefined && (await metadata.isLinked(repository, digest));
}
