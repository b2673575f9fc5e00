import { OciError } from '../oci/errors.ts';

/** Which bytes of the blob a request carries, both ends inclusive (distribution-spec, "Pushing a blob in chunks"). */
export interface ChunkRange {
  readonly start: number;
  readonly end: number;
}

/** The spec's `<start>-<end>`, and the `bytes <start>-<end>/<total>` of RFC 9110 that general HTTP clients send. */
const CONTENT_RANGE = /^(?:bytes )?([0-9]{1,15})-([0-9]{1,15})(?:\/(?:[0-9]{1,15}|\*))?$/;

/** The range that a Content-Range header spells; BLOB_UPLOAD_INVALID otherwise. */
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

/** The Range header of an upload that has `offset` bytes. There is no way to spell nothing; `0-0` is what registries say. */
export function uploadRange(offset: number): string {
  return `0-${Math.max(offset - 1, 0)}`;
}
