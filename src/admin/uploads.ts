import { ingestKey } from '../hosted/sessions.ts';
import type { MetadataStore, Upload } from '../metadata/metadata-store.ts';
import { repositoryText } from '../oci/repository.ts';
import type { StoreSurvey } from '../upkeep/stores.ts';
import type { UploadsDocument } from './documents/uploads.ts';
import { keyOfNumber, type PageAsk, pageOfSorted, sortedBy } from './paging.ts';
import { timeOf } from './status.ts';

/** Two requesters' worth by default; of more, those that were touched last are not listed. */
const MAX_LISTED = 10_000;
/** Who knows the whole id may continue the upload, if he may push there: it is not in a cursor either. */
const SHOWN_ID = 8;

interface UploadParts {
  readonly metadata: Pick<MetadataStore, 'listUploads'>;
  readonly survey: Pick<StoreSurvey, 'unfinished'>;
}

/** A page of unfinished pushes, those that were touched longest ago first. */
export async function uploadsDocument(
  { metadata, survey }: UploadParts,
  ask: PageAsk,
): Promise<UploadsDocument> {
  const all = await metadata.listUploads(Number.MAX_SAFE_INTEGER, MAX_LISTED);
  const { entries, next } = pageOfSorted(sortedBy(all, keyOf), keyOf, ask);
  const files = entries.length === 0 ? [] : await survey.unfinished();
  const sizes = new Map(files.map(({ key, size }) => [key, size]));
  return {
    entries: entries.map(({ id, repository, requester, startedAtMs, touchedAtMs }) => ({
      id: shownId(id),
      repository: repositoryText(repository),
      requester,
      bytes: sizes.get(ingestKey(id)) ?? 0,
      started: timeOf(startedAtMs),
      touched: timeOf(touchedAtMs),
    })),
    next,
  };
}

function keyOf({ touchedAtMs, id }: Upload): string {
  return `${keyOfNumber(touchedAtMs)} ${shownId(id)}`;
}

function shownId(id: string): string {
  return id.slice(0, SHOWN_ID);
}
