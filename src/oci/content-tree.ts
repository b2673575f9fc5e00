import type { Descriptor } from './descriptor.ts';
import type { Digest } from './digest.ts';
import { OciError } from './errors.ts';
import {
  isNonDistributable,
  type Manifest,
  type ManifestView,
  MAX_INDEX_ENTRIES,
  parseManifest,
} from './manifest.ts';
import { isSchema1Type } from './media-types.ts';
import { formatPlatform, type Platform } from './platform.ts';
import { chooseChild, type ContentLookup, MAX_INDEX_DEPTH } from './platform-choice.ts';

/** How many manifests one root may lead to: an index full of full indexes would name a million. */
const MAX_MANIFESTS = 4 * MAX_INDEX_ENTRIES;

/** An image or an index with everything that belongs to it, or with what some platforms need of it. */
export interface ContentTree {
  /** The root first, then in the order in which they are named; each once. */
  readonly manifests: readonly { readonly manifest: Manifest; readonly view: ManifestView }[];
  /** Configs and layers, each once. Layers that may not be redistributed are left out. */
  readonly blobs: readonly Descriptor[];
  /** Manifests that belong to it and could not be looked up. */
  readonly missing: readonly Descriptor[];
  /** Requested platforms for which an index has no child. */
  readonly unmatched: readonly Platform[];
}

export interface ContentTreeOptions {
  /** Where manifests and configs are read. May download them. */
  readonly lookup: ContentLookup;
  /** Of an index, follow only the child that containerd would choose for each of these; all children if absent. */
  readonly platforms?: readonly Platform[] | undefined;
}

/**
 * Follows a manifest down to its blobs. MANIFEST_INVALID for a tree that contradicts itself (one digest with two sizes,
 * or one manifest with two media types) or is nested too deep or too large, and for Docker schema 1, which does not
 * declare the sizes of its layers.
 */
export async function readContentTree(root: Descriptor, options: ContentTreeOptions): Promise<ContentTree> {
  const reader = new TreeReader(options);
  await reader.follow(root, options.platforms, 1);
  return {
    manifests: [...reader.manifests.values()],
    blobs: [...reader.blobs.values()],
    missing: [...reader.missing.values()],
    unmatched: [...reader.unmatched.values()],
  };
}

class TreeReader {
  readonly manifests = new Map<Digest, { readonly manifest: Manifest; readonly view: ManifestView }>();
  readonly blobs = new Map<Digest, Descriptor>();
  readonly missing = new Map<Digest, Descriptor>();
  readonly unmatched = new Map<string, Platform>();
  readonly #lookup: ContentLookup;
  /** The media type under which each manifest was named. */
  readonly #named = new Map<Digest, string>();

  constructor({ lookup }: ContentTreeOptions) {
    this.#lookup = lookup;
  }

  async follow(
    descriptor: Descriptor,
    platforms: readonly Platform[] | undefined,
    depth: number,
  ): Promise<void> {
    const view = await this.#read(descriptor);
    if (view === undefined) return;
    for (const blob of view.blobs) this.#addBlob(blob);
    if (view.manifests.length === 0) return;
    if (depth === MAX_INDEX_DEPTH) throw invalid(`indexes are nested more than ${MAX_INDEX_DEPTH} deep`);
    for (const { child, wanted } of await this.#chosen(view.manifests, platforms)) {
      await this.follow(child, wanted, depth + 1);
    }
  }

  async #read(descriptor: Descriptor): Promise<ManifestView | undefined> {
    const { digest, size, mediaType } = descriptor;
    const named = this.#named.get(digest) ?? mediaType;
    if (named !== mediaType) throw invalid(`${digest} is listed as ${named} and as ${mediaType}`);
    this.#named.set(digest, named);
    const known = this.manifests.get(digest);
    const manifest = known?.manifest ?? (await this.#lookup.manifest(descriptor));
    if (manifest === undefined) {
      this.missing.set(digest, descriptor);
      return undefined;
    }
    if (manifest.bytes.byteLength !== size) {
      throw invalid(`${digest} is listed with ${size} bytes but has ${manifest.bytes.byteLength}`);
    }
    if (isSchema1Type(manifest.mediaType)) {
      throw invalid(`${digest} is a Docker schema 1 manifest, which does not list its content`);
    }
    if (known !== undefined) return known.view;
    if (this.manifests.size === MAX_MANIFESTS) throw invalid(`more than ${MAX_MANIFESTS} manifests`);
    const view = parseManifest(manifest.bytes, manifest.mediaType);
    this.manifests.set(digest, { manifest, view });
    return view;
  }

  #addBlob(blob: Descriptor): void {
    if (isNonDistributable(blob)) return;
    const known = this.blobs.get(blob.digest);
    if (known !== undefined && known.size !== blob.size) {
      throw invalid(`${blob.digest} is listed with ${known.size} bytes and with ${blob.size}`);
    }
    if (known === undefined) this.blobs.set(blob.digest, blob);
  }

  /**
   * The children to follow for `platforms`. A child that is an index itself is followed for the platforms that led to
   * it.
   */
  async #chosen(
    children: readonly Descriptor[],
    platforms: readonly Platform[] | undefined,
  ): Promise<readonly { child: Descriptor; wanted: Platform[] | undefined }[]> {
    if (platforms === undefined) return children.map(child => ({ child, wanted: undefined }));
    const chosen = new Map<Descriptor, Platform[]>();
    for (const platform of platforms) {
      const child = await chooseChild(children, platform, this.#lookup);
      if (child === undefined) this.unmatched.set(formatPlatform(platform), platform);
      else chosen.set(child, [...(chosen.get(child) ?? []), platform]);
    }
    return [...chosen].map(([child, wanted]) => ({ child, wanted }));
  }
}

function invalid(message: string): OciError {
  return new OciError('MANIFEST_INVALID', { message });
}
