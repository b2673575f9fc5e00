import { OciError } from '../oci/errors.ts';

/** Which bytes of the blob a request contains, both ends inclusive (distribution-spec, "Pushing a blob in chunks"). */
export interface ChunkRange {
  readonly start: number;
  readonly end: number;
}

/** The spec's `<start>-<end>`, or `bytes <start>-<end>/<total>` of RFC 9110, which general HTTP clients send. */
const CONTENT_RANGE = /^(?:bytes )?([0-9]{1,15})-([0-9]{1,15})(?:\/(?:[0-9]{1,15}|\*))?$/;

/** Parses a Content-Range header; throws BLOB_UPLOAD_INVALID. */
export function parseContentRange(text: string): ChunkRange {
  const match = CONTENT_RANGE.exec(text);
  const start = Number(match?.[1]);
  const end = Number(match?.[2]);
  if (match === null || end < start) {
    throw new OciError('BLOB_UPLOAD_INVALID', {
      message: 'Content-Range is not <start>-<end>, both inclusive',
      detail: { contentRange: text.slice(0, 100) },
    });
  }
  return { start, end };
}

/** The Range header for an upload with `offset` bytes. It cannot express 0 bytes; registries send `0-0`. */
export function uploadRange(offset: number): string {
  return `0-${Math.max(offset - 1, 0)}`;
}
