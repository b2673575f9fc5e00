import { foldName } from '../lib/json.ts';
import type { Descriptor } from './descriptor.ts';
import { isDigest, type Digest } from './digest.ts';
import { OciError } from './errors.ts';
import * as mediaTypes from './media-types.ts';
import type { Platform } from './platform.ts';
import { duplicateMember } from './unique-members.ts';

/** The exact bytes of an image manifest, artifact manifest or index, as received; never re-serialised. */
export interface Manifest {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}

/** What `parseManifest` reads out of a manifest's bytes: everything the store and the rules need. */
export interface ManifestView {
  readonly kind: 'manifest' | 'index';
  readonly mediaType: string;
  /** An index's children. */
  readonly manifests: readonly Descriptor[];
  /** A manifest's config and layers, in that order. Empty for Docker schema 1, which tells no sizes. */
  readonly blobs: readonly Descriptor[];
  readonly subject: Descriptor | undefined;
  /** As the referrers API shows it: `artifactType`, else the config's media type. */
  readonly artifactType: string | undefined;
  readonly annotations: Readonly<Record<string, string>>;
}

/** distribution-spec, "Pushing Manifests": what registries should take at least, and what clients will read at most. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
/** Each child may be asked for and indexed by itself; the largest indexes published have some dozens. */
export const MAX_INDEX_ENTRIES = 1000;
/** Each becomes a row in one transaction; images stop at 127 layers, artifacts of many files at some hundreds. */
export const MAX_DESCRIPTORS = 5000;
/** Of a manifest or an index itself: each is an entry of every list of referrers it is in; tools write some dozens. */
export const MAX_ANNOTATIONS = 1000;
/** A descriptor's platform features are five levels deep; the rest is room for extensions. */
export const MAX_JSON_DEPTH = 32;

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const NOTHING: Readonly<Record<string, string>> = Object.freeze({});

type JsonObject = Readonly<Record<string, unknown>>;

/**
 * Reads a manifest that came with the Content-Type `contentType`. MANIFEST_INVALID for what clients could read in two
 * ways (image-spec, manifest.md "mediaType" and CVE-2021-41190) or what could not be stored; MANIFEST_TOO_LARGE over
 * the limit. What it does not know, it leaves alone.
 */
export function parseManifest(bytes: Uint8Array, contentType: string): ManifestView {
  if (bytes.length > MAX_MANIFEST_BYTES) {
    throw new OciError('MANIFEST_TOO_LARGE', { detail: { limitBytes: MAX_MANIFEST_BYTES } });
  }
  const mediaType = mediaTypes.essence(contentType);
  const document = parseDocument(bytes);
  requireOneReading(document, mediaType);
  if (mediaTypes.isIndexType(mediaType)) return viewIndex(document, mediaType);
  if (mediaTypes.isSchema1Type(mediaType)) return viewSchema1(document, mediaType);
  if (mediaTypes.isManifestType(mediaType)) return viewManifest(document, mediaType);
  throw invalid(`${JSON.stringify(mediaType.slice(0, 200))} is not the media type of a manifest`);
}

/**
 * MANIFEST_INVALID for a manifest with a member that occurs twice, at any depth: for what is brought here, and kept by
 * what we read in it. A mirrored one stays what its upstream made of it.
 */
export function requireUniqueMembers(bytes: Uint8Array): void {
  const name = duplicateMember(UTF8.decode(bytes));
  if (name !== undefined) throw invalid(`${JSON.stringify(name.slice(0, 200))} occurs twice`);
}

/** Whether the content is one a registry may not hand on: it is fetched from `urls` by the client, never by us. */
export function isNonDistributable({ mediaType }: Descriptor): boolean {
  return mediaTypes.isNonDistributableType(mediaType);
}

function viewIndex(document: JsonObject, mediaType: string): ManifestView {
  requireSchemaVersion(document['schemaVersion'] ?? 2, 2);
  const manifests = descriptors(document['manifests'], 'manifests', MAX_INDEX_ENTRIES);
  const blob = manifests.find(child => mediaTypes.isLayerType(child.mediaType));
  if (blob !== undefined)
    throw invalid(`the index lists ${blob.digest}, which is a layer and not a manifest`);
  return {
    kind: 'index',
    mediaType,
    manifests,
    blobs: [],
    subject: optional(document['subject'], 'subject', descriptor),
    artifactType: artifactType(document),
    annotations: optional(document['annotations'], 'annotations', ownAnnotations) ?? NOTHING,
  };
}

function viewManifest(document: JsonObject, mediaType: string): ManifestView {
  requireSchemaVersion(document['schemaVersion'] ?? 2, 2);
  const isArtifact = mediaType === mediaTypes.OCI_ARTIFACT_MANIFEST;
  const config = isArtifact ? undefined : descriptor(document['config'], 'config');
  const layers = isArtifact
    ? descriptors(document['blobs'], 'blobs', MAX_DESCRIPTORS)
    : descriptors(document['layers'], 'layers', MAX_DESCRIPTORS);
  return {
    kind: 'manifest',
    mediaType,
    manifests: [],
    blobs: config === undefined ? layers : [config, ...layers],
    subject: optional(document['subject'], 'subject', descriptor),
    artifactType: artifactType(document) ?? config?.mediaType,
    annotations: optional(document['annotations'], 'annotations', ownAnnotations) ?? NOTHING,
  };
}

function viewSchema1(document: JsonObject, mediaType: string): ManifestView {
  requireSchemaVersion(document['schemaVersion'], 1);
  return {
    kind: 'manifest',
    mediaType,
    manifests: [],
    blobs: [],
    subject: undefined,
    artifactType: undefined,
    annotations: NOTHING,
  };
}

/** Absent is taken for 2: some tools leave it out, and no client asks for it. */
function requireSchemaVersion(found: unknown, expected: 1 | 2): void {
  if (found !== expected) throw invalid(`schemaVersion is not ${expected}`);
}

function parseDocument(bytes: Uint8Array): JsonObject {
  requireShallow(bytes);
  let document: unknown;
  try {
    document = JSON.parse(UTF8.decode(bytes));
  } catch (cause) {
    throw new OciError('MANIFEST_INVALID', { message: 'the manifest is not JSON in UTF-8', cause });
  }
  if (!isObject(document)) throw invalid('the manifest is not a JSON object');
  return document;
}

/**
 * Image or index, never both, and what it calls itself is what it came as. Go's clients read member names in any
 * case, so `Layers` counts as `layers`.
 */
function requireOneReading(document: JsonObject, mediaType: string): void {
  const members = new Map<string, unknown>();
  for (const [name, value] of Object.entries(document)) {
    const folded = foldName(name);
    if (members.has(folded)) throw invalid(`${JSON.stringify(folded.slice(0, 200))} occurs twice`);
    members.set(folded, value);
  }
  const claimed = members.get('mediatype') ?? '';
  if (claimed !== '' && claimed !== mediaType) {
    throw invalid(`mediaType differs from the Content-Type, ${JSON.stringify(mediaType.slice(0, 200))}`);
  }
  const foreign = foreignMembers(mediaType).find(name => members.has(name));
  if (foreign !== undefined)
    throw invalid(`${JSON.stringify(mediaType.slice(0, 200))} may not have ${foreign}`);
}

/** The members, in lower case, by which a reader would take a manifest of `mediaType` for one of another kind. */
function foreignMembers(mediaType: string): readonly string[] {
  if (mediaTypes.isIndexType(mediaType)) return ['config', 'layers', 'fslayers'];
  return mediaTypes.isSchema1Type(mediaType) ? ['config', 'layers', 'manifests'] : ['manifests', 'fslayers'];
}

/** Counts brackets outside strings, before anything is built from them. */
function requireShallow(bytes: Uint8Array): void {
  let depth = 0;
  let inString = false;
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at];
    if (inString) {
      if (byte === 0x5c) at += 1;
      else if (byte === 0x22) inString = false;
    } else if (byte === 0x22) {
      inString = true;
    } else if (byte === 0x7b || byte === 0x5b) {
      depth += 1;
      if (depth > MAX_JSON_DEPTH) throw invalid(`more than ${MAX_JSON_DEPTH} levels of JSON`);
    } else if (byte === 0x7d || byte === 0x5d) {
      depth -= 1;
    }
  }
}

function descriptors(value: unknown, where: string, limit: number): readonly Descriptor[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw invalid(`${where} is not a list`);
  if (value.length > limit) throw invalid(`${where} has more than ${limit} entries`);
  return value.map((entry, index) => descriptor(entry, `${where}[${index}]`));
}

function descriptor(value: unknown, where: string): Descriptor {
  if (!isObject(value)) throw invalid(`${where} is not a descriptor`);
  const { mediaType, digest, size } = value;
  if (typeof mediaType !== 'string' || mediaType === '') throw invalid(`${where} has no mediaType`);
  if (typeof digest !== 'string' || !isDigest(digest)) throw invalid(`${where} has no valid digest`);
  if (!isSize(size)) throw invalid(`${where} has no valid size`);
  const platform = optional(value['platform'], `${where}.platform`, parsePlatformMembers);
  const annotations = optional(value['annotations'], `${where}.annotations`, textMap);
  const type = artifactType(value);
  const urls = optional(value['urls'], `${where}.urls`, textList);
  return {
    mediaType,
    digest,
    size,
    ...(platform && { platform }),
    ...(annotations && { annotations }),
    ...(type && { artifactType: type }),
    ...(urls && { urls }),
  };
}

/** The platform that the members of `value` name; what is absent is empty. MANIFEST_INVALID for members of other types. */
export function parsePlatformMembers(value: unknown, where: string): Platform {
  if (!isObject(value)) throw invalid(`${where} is not a platform`);
  const variant = optional(value['variant'], `${where}.variant`, text);
  const version = optional(value['os.version'], `${where}.os.version`, text);
  const features = optional(value['os.features'], `${where}.os.features`, textList);
  return {
    os: optional(value['os'], `${where}.os`, text) ?? '',
    architecture: optional(value['architecture'], `${where}.architecture`, text) ?? '',
    ...(variant && { variant }),
    ...(version && { 'os.version': version }),
    ...(features && { 'os.features': features }),
  };
}

/** An empty `artifactType` counts as none (distribution-spec, "Listing Referrers"). */
function artifactType(value: JsonObject): string | undefined {
  return optional(value['artifactType'], 'artifactType', text) || undefined;
}

/** Go's encoders write absent members as `null` as often as they leave them out. */
function optional<T>(
  value: unknown,
  where: string,
  read: (value: unknown, where: string) => T,
): T | undefined {
  return value === undefined || value === null ? undefined : read(value, where);
}

function text(value: unknown, where: string): string {
  if (typeof value !== 'string') throw invalid(`${where} is not a string`);
  return value;
}

function textList(value: unknown, where: string): readonly string[] {
  if (!Array.isArray(value)) throw invalid(`${where} is not a list`);
  return value.map(entry => text(entry, where));
}

function textMap(value: unknown, where: string): Readonly<Record<string, string>> {
  if (!isTextMap(value)) throw invalid(`${where} is not an object of strings`);
  return value;
}

function ownAnnotations(value: unknown, where: string): Readonly<Record<string, string>> {
  const annotations = textMap(value, where);
  if (Object.keys(annotations).length > MAX_ANNOTATIONS) {
    throw invalid(`${where} has more than ${MAX_ANNOTATIONS} entries`);
  }
  return annotations;
}

function isTextMap(value: unknown): value is Readonly<Record<string, string>> {
  return isObject(value) && Object.values(value).every(entry => typeof entry === 'string');
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function invalid(message: string): OciError {
  return new OciError('MANIFEST_INVALID', { message });
}
