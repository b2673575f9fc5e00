import type { Access } from '../access/access.ts';
import type { Explanation } from '../access/explanation.ts';
import type { Config } from '../config/config.ts';
import { mayNameArch, repositoryOptions } from '../config/repository-options.ts';
import { baseOfArchName } from '../http/arch-names.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { digestOfReference } from '../metadata/reference-digest.ts';
import type { Mirror } from '../mirror/mirror.ts';
import { isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { DEFAULT_PLATFORM, formatPlatform, type Platform } from '../oci/platform.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { RepositoryResolver } from '../oci/repository-resolver.ts';
import { type HeldContent, missingOfImage, missingText } from '../prepull/image-check.ts';
import type { Tenants } from '../tenants/tenant.ts';

export interface ExplainingParts {
  readonly config: Config;
  readonly resolver: RepositoryResolver;
  readonly access: Pick<Access, 'explain' | 'rightOf'>;
  readonly mirror: Pick<Mirror, 'explain'>;
  readonly tenants: Pick<Tenants, 'find'>;
  readonly metadata: MetadataStore;
  readonly blobs: HeldContent['blobs'];
}

/** How many missing items are named. */
const SHOWN_MISSING = 3;

/** Why the tenant, or an anonymous client, can or cannot pull an image; `undefined` if there is no such tenant. */
export async function explainImage(
  parts: ExplainingParts,
  reference: string,
  name: string | undefined,
): Promise<Explanation | undefined> {
  const { config, resolver, access, mirror, tenants } = parts;
  const tenant = name === undefined ? undefined : tenants.find(name);
  if (name !== undefined && tenant === undefined) return undefined;
  const { repository, tag = DEFAULT_TAG, digest } = resolver.repositoryOf(reference);
  const wanted = digest ?? tag;
  const explanation = await access.explain(tenant, repository);
  if (repository.upstream === '') {
    const conclusions = [...explanation.conclusions, await hostedLine(parts, repository, wanted)];
    return { ...explanation, conclusions };
  }
  const right = await access.rightOf(tenant, repository).catch((error: unknown) => {
    // The explanation has already said that it may not be pulled.
    if (error instanceof OciError) return undefined;
    throw error;
  });
  if (right === undefined) return explanation;
  const upstream = config.upstreams.get(repository.upstream);
  const platforms = tenant?.options.platforms ??
    (upstream && repositoryOptions(upstream, repository.name).platforms) ?? [DEFAULT_PLATFORM];
  const outlook = await mirror.explain(repository, wanted, right, () =>
    lackText(parts, repository, wanted, platforms),
  );
  const conclusions = [...outlook, ...archNameLines(config, repository), ...explanation.conclusions];
  return { ...explanation, conclusions };
}

/** What is stored of a hosted image, which cannot be fetched from anywhere else. */
async function hostedLine(
  parts: ExplainingParts,
  repository: Repository,
  reference: string,
): Promise<string> {
  const { metadata } = parts;
  const digest = await digestOfReference(metadata, repository, reference);
  const isThere =
    digest !== undefined &&
    ((await metadata.isLinked(repository, digest)) || (await metadata.readDamage(digest)) !== undefined);
  if (!isThere) return `${reference} is not stored: a pull fails`;
  const stored = isDigest(reference) ? `${reference} is stored` : `${reference} is stored as ${digest}`;
  const lack = await lackText(parts, repository, reference, undefined);
  return lack === undefined
    ? stored
    : `${stored}, but ${lack}: a pull that needs it fails until it is pushed again`;
}

/** What is missing or damaged of a stored image; `undefined` if nothing is. `platforms`: which to check; default all. */
async function lackText(
  parts: ExplainingParts,
  repository: Repository,
  reference: string,
  platforms: readonly Platform[] | undefined,
): Promise<string | undefined> {
  const missing = await missingOfImage(parts, repository, reference, platforms);
  return missing.length === 0 ? undefined : missingText(parts, missing, SHOWN_MISSING);
}

/** What the repository's name means if it contains an architecture, for people. */
function archNameLines(config: Config, repository: Repository): readonly string[] {
  const meant = mayNameArch(config, repository) ? baseOfArchName(repository) : undefined;
  if (meant === undefined) return [];
  const { base, platform } = meant;
  return [
    `but if there is no such repository, a pull gets the ${formatPlatform(platform)} image of ${repositoryText(base)} ` +
      'instead (archInName)',
  ];
}
