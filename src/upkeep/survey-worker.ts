/**
 * The survey's thread: walks through the index, on a connection of its own, and through the files, so that whoever is
 * served notices nothing. Rows are removed here too, as by another process on the same store.
 */
import { constants, setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { openFileStores } from '../blobs/file-stores.ts';
import type { FoundIngest } from '../blobs/spool.ts';
import { removeStrays } from '../blobs/stray-removal.ts';
import { silentLog } from '../lib/log.ts';
import { IndexLocked } from '../metadata/index-locked.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { Reserve } from '../metadata/reserve.ts';
import { openSqliteMetadataStore } from '../metadata/sqlite-metadata-store.ts';
import { openSqliteSurvey } from '../metadata/sqlite-survey.ts';
import type { StoreSurvey, StrayFile } from './stores.ts';
import type { SurveyPlace, SurveyReply, SurveyRequest, ThreadWork } from './survey-messages.ts';

/** Files that are looked up in the index at a time. */
const FILES_PER_PAGE = 500;

async function openThreadWork({ indexPath, storePath }: SurveyPlace): Promise<ThreadWork> {
  const survey = await openSqliteSurvey(indexPath);
  const { spool, blobs } = await openFileStores(storePath, { log: silentLog });
  let opened: Promise<MetadataStore> | undefined;
  // Most threads only look.
  const rows = (): Promise<MetadataStore> =>
    (opened ??= openSqliteMetadataStore(indexPath, {
      log: silentLog,
      reserve: new Reserve(indexPath, silentLog),
    }));
  let walk: AsyncIterator<readonly StrayFile[]> | undefined;

  async function* oldFiles(madeBeforeMs: number): AsyncGenerator<readonly StrayFile[]> {
    let files: StrayFile[] = [];
    for await (const { digest, size, modifiedAtMs } of blobs.list()) {
      if (modifiedAtMs < madeBeforeMs) {
        files.push({ digest, size });
      }
      if (files.length === FILES_PER_PAGE) {
        yield files;
        files = [];
      }
    }
    yield files;
  }

  const strayFiles: StoreSurvey['strayFiles'] = async (madeBeforeMs, after) => {
    if (after === undefined || walk === undefined) {
      await walk?.return?.();
      walk = oldFiles(madeBeforeMs);
    }
    const { value, done } = await walk.next();
    const files: readonly StrayFile[] = done === true ? [] : value;
    const lacking = new Set(await survey.withoutRow(files.map(({ digest }) => digest)));
    const next = done === true ? undefined : 'more';
    const strays = files.filter(({ digest }) => lacking.has(digest));
    return { entries: [{ files: strays, seen: files.length }], next };
  };

  return {
    laterLinks: (thanMs, after) => survey.laterLinks(thanMs, after),
    idleLinks: (sinceMs, after) => survey.idleLinks(sinceMs, after),
    unneeded: (kind, sinceMs, after) => survey.unneeded(kind, sinceMs, after),
    unnamedBlobs: (sinceMs, after) => survey.unnamedBlobs(sinceMs, after),
    evictable: (sinceMs, after) => survey.evictable(sinceMs, after),
    repositoriesOf: digest => survey.repositoriesOf(digest),
    blobs: after => survey.blobs(after),
    damagedManifests: after => survey.damagedManifests(after),
    staleDamage: after => survey.staleDamage(after),
    withoutRow: digests => survey.withoutRow(digests),
    tags: after => survey.tags(after),
    untagged: after => survey.untagged(after),
    linked: (repository, after) => survey.linked(repository, after),
    image: (repository, digest, tag) => survey.image(repository, digest, tag),
    strayFiles,
    unfinished: async () => {
      const files: FoundIngest[] = [];
      for await (const file of spool.list()) files.push(file);
      return files;
    },
    lowerLinks: async (links, toMs) => (await rows()).lowerLinks(links, toMs),
    expireLinks: async (links, sinceMs) => (await rows()).expireLinks(links, sinceMs),
    removeUnneeded: async (contents, sinceMs) => (await rows()).removeUnneeded(contents, sinceMs),
    evict: async (contents, sinceMs) => (await rows()).evict(contents, sinceMs),
    removeStrays: async digests => removeStrays(blobs, await rows(), digests),
    close: async () => (await opened)?.close(),
  };
}

// Of this thread alone (setpriority(2): the id 0 is the calling thread): whoever is served goes first.
setPriority(constants.priority.PRIORITY_LOW);

const opening = openThreadWork(workerData);
// Whoever asks hears of it.
opening.catch(() => {});

async function answer({ id, question, parameters }: SurveyRequest): Promise<SurveyReply> {
  try {
    const survey = await opening;
    const ask: unknown = Reflect.get(survey, question);
    if (typeof ask !== 'function') {
      throw new TypeError(`there is no question ${question}`);
    }
    return { id, answer: await Reflect.apply(ask, survey, parameters) };
  } catch (error) {
    const failure = error instanceof Error ? error.message : String(error);
    return { id, failure, isLocked: error instanceof IndexLocked };
  }
}

parentPort?.on('message', (request: SurveyRequest) => {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  void answer(request).then(reply => parentPort?.postMessage(reply));
});
