import { foldName } from '../lib/json.ts';
import type { Descriptor } from './descriptor.ts';
import { isDigest, type Digest } from './digest.ts';
import { OciError } from './errors.ts';
import * as mediaTypes from './media-types.ts';
import type { Platform } from './platform.ts';
import { duplicateMember } from './unique-members.ts';

/** The exact bytes of an image manifest, artifact manifest or index, as received. Never serialized again. */
export interface Manifest {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}

/** The parts of a manifest that the store and the rules need, as read by `parseManifest`. */
export interface ManifestView {
  readonly kind: 'manifest' | 'index';
  readonly mediaType: string;
  /** The children of an index. */
  readonly manifests: readonly Descriptor[];
  /** Config and layers of a manifest, in that order. Empty for Docker schema 1, which does not declare sizes. */
  readonly blobs: readonly Descriptor[];
  readonly subject: Descriptor | undefined;
  /** As in the referrers API: `artifactType`, or else the media type of the config. */
  readonly artifactType: string | undefined;
  readonly annotations: Readonly<Record<string, string>>;
}

/** What registries should accept at least (distribution-spec, "Pushing Manifests"), and what clients read at most. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
/** Each child may be requested and indexed on its own; the largest published indexes have some dozens. */
export const MAX_INDEX_ENTRIES = 1000;
/** Each becomes a row, all in one transaction. Images have at most 127 layers, artifacts some hundreds of files. */
export const MAX_DESCRIPTORS = 5000;
/** Of a manifest or index itself: they are repeated in every list of referrers. Tools write some dozens. */
export const MAX_ANNOTATIONS = 1000;
/** The features of a descriptor's platform are five levels deep; the rest is reserve for extensions. */
export const MAX_JSON_DEPTH = 32;

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const NOTHING: Readonly<Record<string, string>> = Object.freeze({});

type JsonObject = Readonly<Record<string, unknown>>;

/**
 * Parses a manifest that was sent with the Content-Type `contentType`. MANIFEST_INVALID if clients could read it in two
 * ways (image-spec, manifest.md "mediaType", and CVE-2021-41190) or if it cannot be stored; MANIFEST_TOO_LARGE if it
 * exceeds the limit. Unknown members are ignored.
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
 * Throws MANIFEST_INVALID for a manifest with a duplicate member at any depth. For manifests that are pushed or
 * imported; mirrored ones are stored as upstream made them.
 */
export function requireUniqueMembers(bytes: Uint8Array): void {
  const name = duplicateMember(UTF8.decode(bytes));
  if (name !== undefined) throw invalid(`${JSON.stringify(name.slice(0, 200))} occurs twice`);
}

/** Whether a registry may not serve this content: clients fetch it from `urls`. */
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

/** An absent version counts as 2: some tools leave it out, and no client looks at it. */
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
 * MANIFEST_INVALID unless the document is either an image manifest or an index, with the media type that it was sent
 * with. Go's clients match member names case-insensitively, so `Layers` counts as `layers`.
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

/** The members, in lower case, that would make a reader take a manifest of `mediaType` for another kind. */
function foreignMembers(mediaType: string): readonly string[] {
  if (mediaTypes.isIndexType(mediaType)) return ['config', 'layers', 'fslayers'];
  return mediaTypes.isSchema1Type(mediaType) ? ['config', 'layers', 'manifests'] : ['manifests', 'fslayers'];
}

/** MANIFEST_INVALID for JSON nested too deep. Counts brackets outside strings, before anything is parsed. */
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

/** The platform given by the members of `value`; absent members are ''. MANIFEST_INVALID for members of other types. */
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

/** An empty `artifactType` counts as absent (distribution-spec, "Listing Referrers"). */
function artifactType(value: JsonObject): string | undefined {
  return optional(value['artifactType'], 'artifactType', text) || undefined;
}

/** `null` counts as absent: Go's encoders write both. */
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
