import type { Descriptor } from './descriptor.ts';
import type { Digest } from './digest.ts';

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
  /** A manifest's config and layers, in that order. */
  readonly blobs: readonly Descriptor[];
  readonly subject: Descriptor | undefined;
  /** As the referrers API shows it: `artifactType`, else the config's media type. */
  readonly artifactType: string | undefined;
  readonly annotations: Readonly<Record<string, string>>;
}
