import { parseJsonObject } from '../lib/json.ts';
import type { Descriptor } from './descriptor.ts';
import { type ManifestView, parseManifest, parsePlatformMembers, requireUniqueMembers } from './manifest.ts';
import { choosePlatform, type Platform, REFERENCE_TYPE } from './platform.ts';
import { OciError } from './errors.ts';
import { isTag } from './reference.ts';

/**
 * A page of descriptors stops here, however few they are: what is handed to the serving loop as objects, and written as
 * JSON there, takes it some milliseconds a megabyte.
 */
const PAGE_BYTES = 512 * 1024;

/** Which of the descriptors in a list are wanted. */
export interface DescriptorPage {
  readonly artifactType: string | undefined;
  readonly limit: number;
  /** Those with a greater digest. */
  readonly after: string | undefined;
}

/** What can be asked of a document: small answers, whatever its size. Each is a function of its parameters alone. */
export const DOCUMENT_WORK = {
  /** As `parseManifest`, without what descriptors say beside their platform. */
  view: (bytes: Uint8Array, mediaType: string): ManifestView => slim(parseManifest(bytes, mediaType)),

  /** The same of one that is pushed here, which must be unambiguous to all readers. */
  pushedView: (bytes: Uint8Array, mediaType: string): ManifestView => {
    const view = slim(parseManifest(bytes, mediaType));
    requireUniqueMembers(bytes);
    return view;
  },

  /** The child of an index that suits best by what the index says. */
  bestChild: (bytes: Uint8Array, mediaType: string, platform: Platform): Descriptor | undefined => {
    const [best] = choosePlatform(parseManifest(bytes, mediaType).manifests, platform);
    return best && slimDescriptor(best);
  },

  /** The platform that a config names; empty for what is no config. */
  configPlatform: (bytes: Uint8Array): Platform => {
    const config = parseJsonObject(bytes);
    try {
      return config === undefined ? NO_PLATFORM : parsePlatformMembers(config, 'config');
    } catch (error) {
      if (error instanceof OciError) return NO_PLATFORM;
      throw error;
    }
  },

  /** What a manifest calls itself. */
  ownMediaType: (bytes: Uint8Array): string | undefined => {
    const mediaType = parseJsonObject(bytes)?.['mediaType'];
    return typeof mediaType === 'string' && mediaType !== '' ? mediaType : undefined;
  },

  /** Of an index, in the order of their digests, so that `after` means the same to every page. */
  descriptors: (
    bytes: Uint8Array,
    mediaType: string,
    { artifactType, limit, after }: DescriptorPage,
  ): { readonly entries: readonly Descriptor[]; readonly more: boolean } => {
    const wanted = parseManifest(bytes, mediaType)
      .manifests.filter(entry => artifactType === undefined || entry.artifactType === artifactType)
      .filter(({ digest }) => after === undefined || digest > after)
      .toSorted((one, other) => (one.digest < other.digest ? -1 : 1));
    const entries: Descriptor[] = [];
    let pageBytes = 0;
    for (const entry of wanted.slice(0, limit)) {
      pageBytes += JSON.stringify(entry).length;
      if (pageBytes > PAGE_BYTES && entries.length > 0) break;
      entries.push(entry);
    }
    return { entries, more: entries.length < wanted.length };
  },

  /** The tags of a list that follow `after`, or all where it is not among them; `undefined` for what is no list of tags. */
  tags: (
    bytes: Uint8Array,
    { limit, after }: { readonly limit: number; readonly after: string | undefined },
  ): { readonly entries: readonly string[]; readonly more: boolean } | undefined => {
    const list = parseJsonObject(bytes);
    // Go's empty list is null.
    const named: unknown = list?.['tags'] ?? [];
    if (list === undefined || !Array.isArray(named)) return undefined;
    const tags = named.filter((tag): tag is string => typeof tag === 'string' && isTag(tag));
    const rest = after === undefined ? tags : tags.slice(tags.indexOf(after) + 1);
    return { entries: rest.slice(0, limit), more: rest.length > limit };
  },

  /** The entries of an index as JSON, without the brackets, and how many they are. */
  entries: (bytes: Uint8Array, mediaType: string): { readonly text: string; readonly count: number } => {
    const { manifests } = parseManifest(bytes, mediaType);
    return { text: JSON.stringify(manifests).slice(1, -1), count: manifests.length };
  },
} as const satisfies Record<string, (bytes: Uint8Array, ...rest: never[]) => unknown>;

/** What a config says that cannot be read: it suits no host. */
export const NO_PLATFORM: Platform = { os: '', architecture: '' };

function slim(view: ManifestView): ManifestView {
  const { manifests, blobs, subject } = view;
  return {
    ...view,
    manifests: manifests.map(slimDescriptor),
    blobs: blobs.map(slimDescriptor),
    subject: subject && slimDescriptor(subject),
  };
}

/** What decides what a descriptor is, and for whom. */
function slimDescriptor({
  mediaType,
  digest,
  size,
  platform,
  artifactType,
  annotations,
}: Descriptor): Descriptor {
  const referenceType = annotations?.[REFERENCE_TYPE];
  return {
    mediaType,
    digest,
    size,
    ...(platform && { platform }),
    ...(artifactType !== undefined && { artifactType }),
    ...(referenceType !== undefined && { annotations: { [REFERENCE_TYPE]: referenceType } }),
  };
}
