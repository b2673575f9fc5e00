import { parseJsonObject } from '../lib/json.ts';
import type { Descriptor } from './descriptor.ts';
import { type ManifestView, parseManifest, parsePlatformMembers, requireUniqueMembers } from './manifest.ts';
import { choosePlatform, type Platform, REFERENCE_TYPE } from './platform.ts';
import { OciError } from './errors.ts';
import { isTag } from './reference.ts';

/**
 * The maximum size of a page of descriptors: deserializing them and writing them as JSON takes the event loop some
 * milliseconds per megabyte.
 */
const PAGE_BYTES = 512 * 1024;

/** Which descriptors of an index are requested. */
export interface DescriptorPage {
  readonly artifactType: string | undefined;
  readonly limit: number;
  /** Only descriptors whose digest sorts after this. */
  readonly after: string | undefined;
}

/**
 * The questions that can be asked about a document. The answers are small, however large the document is, and depend on
 * the parameters alone.
 */
export const DOCUMENT_WORK = {
  /** As `parseManifest`, but of each descriptor only what is needed to identify it and its platform. */
  view: (bytes: Uint8Array, mediaType: string): ManifestView => slim(parseManifest(bytes, mediaType)),

  /** As `view`, for a pushed manifest, which must be unambiguous to all readers. */
  pushedView: (bytes: Uint8Array, mediaType: string): ManifestView => {
    const view = slim(parseManifest(bytes, mediaType));
    requireUniqueMembers(bytes);
    return view;
  },

  /** The child of an index that suits a platform best, by what the index says. */
  bestChild: (bytes: Uint8Array, mediaType: string, platform: Platform): Descriptor | undefined => {
    const [best] = choosePlatform(parseManifest(bytes, mediaType).manifests, platform);
    return best && slimDescriptor(best);
  },

  /** The platform that an image config declares; NO_PLATFORM if it is not a config. */
  configPlatform: (bytes: Uint8Array): Platform => {
    const config = parseJsonObject(bytes);
    try {
      return config === undefined ? NO_PLATFORM : parsePlatformMembers(config, 'config');
    } catch (error) {
      if (error instanceof OciError) return NO_PLATFORM;
      throw error;
    }
  },

  /** The `mediaType` that a manifest declares; `undefined` if none. */
  ownMediaType: (bytes: Uint8Array): string | undefined => {
    const mediaType = parseJsonObject(bytes)?.['mediaType'];
    return typeof mediaType === 'string' && mediaType !== '' ? mediaType : undefined;
  },

  /** A page of the descriptors of an index, ordered by digest, so that `after` means the same for every page. */
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

  /**
   * The tags of a tag list that come after `after`, or all if `after` is not among them; `undefined` if it is not a tag
   * list.
   */
  tags: (
    bytes: Uint8Array,
    { limit, after }: { readonly limit: number; readonly after: string | undefined },
  ): { readonly entries: readonly string[]; readonly more: boolean } | undefined => {
    const list = parseJsonObject(bytes);
    // Go encodes an empty list as null.
    const named: unknown = list?.['tags'] ?? [];
    if (list === undefined || !Array.isArray(named)) return undefined;
    const tags = named.filter((tag): tag is string => typeof tag === 'string' && isTag(tag));
    const rest = after === undefined ? tags : tags.slice(tags.indexOf(after) + 1);
    return { entries: rest.slice(0, limit), more: rest.length > limit };
  },

  /** The entries of an index as JSON, without the brackets, and their number. */
  entries: (bytes: Uint8Array, mediaType: string): { readonly text: string; readonly count: number } => {
    const { manifests } = parseManifest(bytes, mediaType);
    return { text: JSON.stringify(manifests).slice(1, -1), count: manifests.length };
  },
} as const satisfies Record<string, (bytes: Uint8Array, ...rest: never[]) => unknown>;

/** The platform of a config that cannot be read: no host can run it. */
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

/** Only the members of a descriptor that identify the content and its platform. */
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
