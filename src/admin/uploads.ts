import type { Upload } from '../metadata/metadata-store.ts';
import { repositoryText } from '../oci/repository.ts';
import type { AdminParts } from './admin-parts.ts';
import type { UploadsDocument } from './documents/uploads.ts';
import { keyOfNumber, type PageAsk, pageOfSorted } from './paging.ts';
import { timeOf } from './status.ts';

/** Two requesters' worth by default; of more, those that were touched last are not listed. */
const MAX_LISTED = 10_000;
/** Who knows the whole id may continue the upload, if he may push there. */
const SHOWN_ID = 8;

/** A page of unfinished pushes, those that were touched longest ago first. */
export async function uploadsDocument(
  { metadata, survey }: Pick<AdminParts, 'metadata' | 'survey'>,
  ask: PageAsk,
): Promise<UploadsDocument> {
  const all = await metadata.listUploads(Number.MAX_SAFE_INTEGER, MAX_LISTED);
  const { entries, next } = pageOfSorted(all, keyOf, ask);
  const files = entries.length === 0 ? [] : await survey.unfinished();
  const sizes = new Map(files.map(({ key, size }) => [key, size]));
  return {
    entries: entries.map(({ id, repository, requester, startedAtMs, touchedAtMs }) => ({
      id: id.slice(0, SHOWN_ID),
      repository: repositoryText(repository),
      requester,
      bytes: sizes.get(`upload-${id}`) ?? 0,
      started: timeOf(startedAtMs),
      touched: timeOf(touchedAtMs),
    })),
    next,
  };
}

function keyOf({ touchedAtMs, id }: Upload): string {
  return `${keyOfNumber(touchedAtMs)} ${id}`;
}
