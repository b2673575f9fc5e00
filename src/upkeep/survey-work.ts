import { constants, setPriority } from 'node:os';
import type { MessagePort } from 'node:worker_threads';
import type { BlobStore } from '../blobs/blob-store.ts';
import type { FoundIngest, Spool } from '../blobs/spool.ts';
import { removeStrays } from '../blobs/stray-removal.ts';
import { errorCode } from '../lib/error-code.ts';
import { IndexLocked } from '../metadata/index-locked.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Survey } from '../metadata/survey.ts';
import { OciError } from '../oci/errors.ts';
import { ImageCatalogue } from './image-catalogue.ts';
import type { StoreSurvey, StrayFile } from './stores.ts';
import type { SurveyFailure, SurveyReply, SurveyRequest, ThreadWork } from './survey-messages.ts';

/** How many files are looked up in the index at a time. */
const FILES_PER_PAGE = 500;

/** A store as the survey's thread opens it. */
export interface SurveyedStores {
  readonly survey: Survey;
  readonly spool: Spool;
  readonly blobs: Pick<BlobStore, 'list' | 'removal'>;
  /** Called when the first row is to be removed: most threads only read. */
  readonly openRows: () => Promise<MetadataStore>;
}

/**
 * The thread's side of a SurveyThread: reads the index on a connection of its own, and the folders of blobs, without
 * delaying requests. Rows are removed here, too, as by another process on the same store.
 */
export function serveSurvey(port: MessagePort, opening: Promise<SurveyedStores>): void {
  // For this thread only (setpriority(2): id 0 is the calling thread), so that serving comes first.
  setPriority(constants.priority.PRIORITY_LOW);
  const working = opening.then(threadWork);
  // Whoever asks a question gets the error.
  working.catch(() => {});
  port.on('message', (request: SurveyRequest) => {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
    void answer(working, request).then(reply => port.postMessage(reply));
  });
}

async function answer(
  working: Promise<ThreadWork>,
  { id, question, parameters }: SurveyRequest,
): Promise<SurveyReply> {
  try {
    const work = await working;
    const ask: unknown = Reflect.get(work, question);
    if (typeof ask !== 'function') {
      throw new TypeError(`unknown survey question: ${question}`);
    }
    return { id, answer: await Reflect.apply(ask, work, parameters) };
  } catch (error) {
    return { id, ...toFailure(error) };
  }
}

function toFailure(error: unknown): SurveyFailure {
  const failure = error instanceof Error ? error.message : String(error);
  const isLocked = error instanceof IndexLocked;
  if (error instanceof Error && 'syscall' in error)
    return { failure, isLocked, system: { code: errorCode(error), syscall: error.syscall } };
  if (!(error instanceof OciError)) return { failure, isLocked };
  const cause = error.cause instanceof Error ? error.cause.message : undefined;
  return { failure, isLocked, code: error.code, cause };
}

/** What the thread does, for whoever calls it. */
export function threadWork({ survey, spool, blobs, openRows }: SurveyedStores): ThreadWork {
  const catalogue = new ImageCatalogue(survey);
  let opened: Promise<MetadataStore> | undefined;
  const rows = (): Promise<MetadataStore> => (opened ??= openRows());
  let walk: AsyncIterator<readonly StrayFile[]> | undefined;

  async function* oldFiles(madeBeforeMs: number): AsyncGenerator<readonly StrayFile[]> {
    let files: StrayFile[] = [];
    for await (const { modifiedAtMs, ...file } of blobs.list()) {
      if (modifiedAtMs < madeBeforeMs) {
        files.push(file);
      }
      if (files.length === FILES_PER_PAGE) {
        yield files;
        files = [];
      }
    }
    yield files;
  }

  const endStrayFiles = async () => {
    await walk?.return?.();
    walk = undefined;
  };

  const strayFiles: StoreSurvey['strayFiles'] = async (madeBeforeMs, after) => {
    if (after === undefined || walk === undefined) {
      await endStrayFiles();
      walk = oldFiles(madeBeforeMs);
    }
    const { value, done } = await walk.next();
    const files: readonly StrayFile[] = done === true ? [] : value;
    const next = done === true ? undefined : 'more';
    const objects = files.flatMap(({ digest, key }) => (key === undefined ? [] : { digest, key }));
    const strayKeys = new Set((await survey.strayObjects(objects)).map(({ key }) => key));
    const digests = files.flatMap(({ digest, key }) => (key === undefined ? digest : []));
    const lacking = new Set(await survey.withoutRow(digests));
    const strays = files.filter(({ digest, key }) =>
      key === undefined ? lacking.has(digest) : strayKeys.has(key),
    );
    return { entries: [{ files: strays, seen: files.length }], next };
  };

  return {
    laterLinks: (thanMs, after) => survey.laterLinks(thanMs, after),
    idleLinks: (sinceMs, after) => survey.idleLinks(sinceMs, after),
    unneeded: (kind, sinceMs, after) => survey.unneeded(kind, sinceMs, after),
    unnamedBlobs: (sinceMs, after) => survey.unnamedBlobs(sinceMs, after),
    unlinked: (kind, sinceMs, after) => survey.unlinked(kind, sinceMs, after),
    evictable: (sinceMs, after) => survey.evictable(sinceMs, after),
    repositoriesOf: digest => survey.repositoriesOf(digest),
    blobs: after => survey.blobs(after),
    damagedManifests: after => survey.damagedManifests(after),
    lost: after => survey.lost(after),
    staleDamage: after => survey.staleDamage(after),
    withoutRow: digests => survey.withoutRow(digests),
    strayObjects: objects => survey.strayObjects(objects),
    tags: after => survey.tags(after),
    untagged: after => survey.untagged(after),
    linked: (repository, after) => survey.linked(repository, after),
    image: (repository, digest, tag) => survey.image(repository, digest, tag),
    orderedImages: (order, after) => catalogue.page(order, after),
    strayFiles,
    endStrayFiles,
    unfinished: async () => {
      const files: FoundIngest[] = [];
      for await (const file of spool.list()) files.push(file);
      return files;
    },
    lowerLinks: async (links, toMs) => (await rows()).lowerLinks(links, toMs),
    expireLinks: async (links, sinceMs) => (await rows()).expireLinks(links, sinceMs),
    removeUnneeded: async (contents, sinceMs) => (await rows()).removeUnneeded(contents, sinceMs),
    removeUnlinked: async (contents, sinceMs) => (await rows()).removeUnlinked(contents, sinceMs),
    evict: async (contents, sinceMs) => (await rows()).evict(contents, sinceMs),
    giveUpStrayObjects: async objects => (await rows()).giveUpStrayObjects(objects),
    removeStrays: async digests => removeStrays(blobs, await rows(), digests),
    close: async () => (await opened)?.close(),
  };
}
