import { setImmediate } from 'node:timers/promises';
import { parseJsonObject } from '../lib/json.ts';
import type { SurveyedImage } from '../metadata/survey.ts';
import { repositoryText } from '../oci/repository.ts';
import { type HeldImage, heldImage, isEvicted } from '../upkeep/images.ts';
import type { AdminParts } from './admin-parts.ts';
import { AdminProblem } from './admin-problem.ts';
import type { ImageDocument, ImagesDocument, ImagesQuery } from './documents/images.ts';
import { cursorOf, openCursor } from './paging.ts';
import { searchFor } from './search.ts';

/** How many names one page may examine: a search that finds nothing is answered within a second or two. */
const MAX_EXAMINED = 10_000;
/** How many of these may have their content looked at, which takes about a millisecond each. */
const MAX_LOOKED_AT = 1_000;

/** Where a page of the list ended. */
interface Place {
  readonly list: 'tags' | 'untagged' | 'ordered';
  /** Where the survey's page begins in which the last examined entry is. */
  readonly page: string | undefined;
  /** The name of the last examined entry; '' for none of that page. */
  readonly name: string;
}

/** What `entrepot images --json` prints of an image. */
export function imageDocument(image: SurveyedImage & HeldImage): ImageDocument {
  const { digest, platforms, ownBytes, sharedBytes, missingBytes } = image;
  return {
    image: imageName(image),
    digest,
    platforms: platforms.map(({ platform = null, isComplete }) => ({ platform, complete: isComplete })),
    ownBytes,
    sharedBytes,
    missingBytes,
    lastUsed: image.usedAtMs === 0 ? null : new Date(image.usedAtMs).toISOString(),
    source: imageSourceOf(image),
    pinned: image.isPinned,
    damaged: image.isDamaged,
  };
}

/** In the form that `inspect` and `pin` accept. */
export function imageName({ repository, tag, digest }: SurveyedImage): string {
  return repositoryText(repository) + (tag === undefined ? `@${digest}` : `:${tag}`);
}

/** Where an image came from. */
export function imageSourceOf({ repository, isImported }: SurveyedImage): ImageDocument['source'] {
  if (repository.upstream === '') return 'hosted';
  return isImported ? 'imported' : 'mirror';
}

/**
 * A page of the stored images: tags first, each list in the survey's order; or all in the order that is asked for. What the index alone can tell is decided
 * before the content of an image is looked at. Ends early, with a `next`, after so many names that somebody would have to
 * wait.
 */
export async function imagesDocument(
  { survey, blobs }: Pick<AdminParts, 'survey' | 'blobs'>,
  query: ImagesQuery,
): Promise<ImagesDocument> {
  const entries: ImageDocument[] = [];
  const { sort } = query;
  const search = searchFor(query.q);
  const first = sort === 'name' ? 'tags' : 'ordered';
  let place: Place =
    query.after === undefined ? { list: first, page: undefined, name: '' } : placeIn(query.after);
  if ((place.list === 'ordered') !== (sort !== 'name')) throw notACursor();
  let examined = 0;
  let isPartial = false;
  let lookedAt = 0;
  for (;;) {
    const found =
      sort === 'name' || place.list !== 'ordered'
        ? await survey[place.list === 'untagged' ? 'untagged' : 'tags'](place.page)
        : await survey.orderedImages(sort, place.page);
    if ('isPartial' in found && found.isPartial) isPartial = true;
    for (const image of rest(found.entries, place.name)) {
      const isFull =
        entries.length === query.limit || examined === MAX_EXAMINED || lookedAt === MAX_LOOKED_AT;
      if (isFull) return { entries, next: cursorOf(JSON.stringify(place)), examined, partial: isPartial };
      place = { ...place, name: imageName(image) };
      examined += 1;
      if (!isWanted(image, query) || !search(place.name, image.digest)) continue;
      lookedAt += 1;
      // Others get their turn.
      await setImmediate();
      const document = await documentOf({ survey, blobs }, image);
      if (document !== undefined && hasWantedContent(document, query)) entries.push(document);
    }
    const { next } = found;
    if (next !== undefined) place = { ...place, page: next, name: '' };
    else if (place.list === 'tags') place = { list: 'untagged', page: undefined, name: '' };
    else return { entries, next: null, examined, partial: isPartial };
  }
}

/** `undefined` if nothing of it is stored any more. */
async function documentOf(
  { survey, blobs }: Pick<AdminParts, 'survey' | 'blobs'>,
  image: SurveyedImage,
): Promise<ImageDocument | undefined> {
  const { repository, digest, tag, isPinned } = image;
  const manifests = await survey.image(repository, digest, tag);
  if (isEvicted(repository, manifests) && !isPinned) return undefined;
  return imageDocument({ ...image, ...(await heldImage(manifests, blobs)) });
}

/** What follows the entry of this name; if it is gone, what follows its place. */
function rest(entries: readonly SurveyedImage[], name: string): readonly SurveyedImage[] {
  if (name === '') return entries;
  const at = entries.findIndex(entry => imageName(entry) === name);
  if (at >= 0) return entries.slice(at + 1);
  const before = entries.findLastIndex(entry => isBefore(entry, name));
  return entries.slice(before + 1);
}

/** Both are in the same repository, and the entry's tag or digest comes first. */
function isBefore(entry: SurveyedImage, name: string): boolean {
  const own = imageName(entry);
  const prefix = own.slice(0, own.length - (entry.tag ?? entry.digest).length);
  return name.startsWith(prefix) && own < name;
}

function isWanted(image: SurveyedImage, { source, pinned }: ImagesQuery): boolean {
  if (source !== undefined && imageSourceOf(image) !== source) return false;
  return pinned === undefined || image.isPinned === pinned;
}

function hasWantedContent(image: ImageDocument, { platform, damaged, incomplete }: ImagesQuery): boolean {
  if (damaged !== undefined && image.damaged !== damaged) return false;
  if (incomplete !== undefined && isIncomplete(image) !== incomplete) return false;
  return platform === undefined || image.platforms.some(each => each.platform === platform);
}

function isIncomplete({ platforms, missingBytes }: ImageDocument): boolean {
  return missingBytes > 0 || platforms.some(({ complete }) => !complete);
}

function placeIn(cursor: string): Place {
  const { list, page, name } = parseJsonObject(Buffer.from(openCursor(cursor))) ?? {};
  const isList = list === 'tags' || list === 'untagged' || list === 'ordered';
  if (isList && typeof name === 'string' && (page === undefined || isPage(page))) {
    return { list, page, name };
  }
  throw notACursor();
}

/** A database has an error for an answer to texts with other characters. */
function isPage(page: unknown): page is string {
  return typeof page === 'string' && !/\p{Cc}/u.test(page);
}

function notACursor(): AdminProblem {
  return new AdminProblem('invalid', 'after is not a cursor of this list');
}
