import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';

/** The columns of a manifest that has a subject. */
export interface ReferrerRow {
  readonly digest: Digest;
  readonly media_type: string;
  readonly artifact_type: string | null;
  /** A JSON object. */
  readonly annotations: string;
  readonly size: number;
}

/** An entry of the referrers list, as in the distribution spec ("Listing Referrers"). */
export function toReferrer(row: ReferrerRow): Descriptor {
  const annotations: Record<string, string> = JSON.parse(row.annotations);
  return {
    mediaType: row.media_type,
    digest: row.digest,
    size: row.size,
    ...(row.artifact_type === null ? {} : { artifactType: row.artifact_type }),
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
  };
}
