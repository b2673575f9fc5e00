import type { Digest } from './digest.ts';
import type { Platform } from './platform.ts';

/** OCI image-spec, descriptor.md: what a piece of content is, how big, and its digest. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  readonly platform?: Platform;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly artifactType?: string;
  /** Where else the content may be had; never followed, and never a Link. */
  readonly urls?: readonly string[];
}
