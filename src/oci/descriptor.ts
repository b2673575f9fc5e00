import type { Digest } from './digest.ts';
import type { Platform } from './platform.ts';

/** A piece of content: media type, size and digest (OCI image-spec, descriptor.md). */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  readonly platform?: Platform;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly artifactType?: string;
  /** Other places of the content. Never followed, and never create a Link. */
  readonly urls?: readonly string[];
}
