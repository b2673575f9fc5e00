import type { Worker } from 'node:worker_threads';
import { AskedThread } from '../lib/asked-thread.ts';
import { IndexLocked } from '../metadata/index-locked.ts';
import { OciError } from '../oci/errors.ts';
import type { RowRemoval, StoreSurvey } from './stores.ts';
import type { SurveyQuestion, SurveyReply, ThreadWork } from './survey-messages.ts';

/** The main thread's side of the survey. The thread starts with the first question. */
export class SurveyThread implements StoreSurvey, RowRemoval {
  readonly #thread: AskedThread<SurveyReply>;
  #isClosed = false;

  /** `start`: starts a thread that runs `serveSurvey`. */
  constructor(start: () => Worker) {
    this.#thread = new AskedThread({ name: 'the thread of the survey', start, read });
  }

  laterLinks(...parameters: Parameters<StoreSurvey['laterLinks']>) {
    return this.#ask('laterLinks', parameters);
  }

  idleLinks(...parameters: Parameters<StoreSurvey['idleLinks']>) {
    return this.#ask('idleLinks', parameters);
  }

  unneeded(...parameters: Parameters<StoreSurvey['unneeded']>) {
    return this.#ask('unneeded', parameters);
  }

  repositoriesOf(...parameters: Parameters<StoreSurvey['repositoriesOf']>) {
    return this.#ask('repositoriesOf', parameters);
  }

  unnamedBlobs(...parameters: Parameters<StoreSurvey['unnamedBlobs']>) {
    return this.#ask('unnamedBlobs', parameters);
  }

  unlinked(...parameters: Parameters<StoreSurvey['unlinked']>) {
    return this.#ask('unlinked', parameters);
  }

  evictable(...parameters: Parameters<StoreSurvey['evictable']>) {
    return this.#ask('evictable', parameters);
  }

  blobs(...parameters: Parameters<StoreSurvey['blobs']>) {
    return this.#ask('blobs', parameters);
  }

  damagedManifests(...parameters: Parameters<StoreSurvey['damagedManifests']>) {
    return this.#ask('damagedManifests', parameters);
  }

  lost(...parameters: Parameters<StoreSurvey['lost']>) {
    return this.#ask('lost', parameters);
  }

  staleDamage(...parameters: Parameters<StoreSurvey['staleDamage']>) {
    return this.#ask('staleDamage', parameters);
  }

  withoutRow(...parameters: Parameters<StoreSurvey['withoutRow']>) {
    return this.#ask('withoutRow', parameters);
  }

  strayObjects(...parameters: Parameters<StoreSurvey['strayObjects']>) {
    return this.#ask('strayObjects', parameters);
  }

  tags(...parameters: Parameters<StoreSurvey['tags']>) {
    return this.#ask('tags', parameters);
  }

  untagged(...parameters: Parameters<StoreSurvey['untagged']>) {
    return this.#ask('untagged', parameters);
  }

  linked(...parameters: Parameters<StoreSurvey['linked']>) {
    return this.#ask('linked', parameters);
  }

  image(...parameters: Parameters<StoreSurvey['image']>) {
    return this.#ask('image', parameters);
  }

  orderedImages(...parameters: Parameters<StoreSurvey['orderedImages']>) {
    return this.#ask('orderedImages', parameters);
  }

  strayFiles(...parameters: Parameters<StoreSurvey['strayFiles']>) {
    return this.#ask('strayFiles', parameters);
  }

  async endStrayFiles(): Promise<void> {
    if (this.#thread.isRunning) await this.#ask('endStrayFiles', []).catch(() => {});
  }

  unfinished(...parameters: Parameters<StoreSurvey['unfinished']>) {
    return this.#ask('unfinished', parameters);
  }

  lowerLinks(...parameters: Parameters<RowRemoval['lowerLinks']>) {
    return this.#ask('lowerLinks', parameters);
  }

  expireLinks(...parameters: Parameters<RowRemoval['expireLinks']>) {
    return this.#ask('expireLinks', parameters);
  }

  removeUnneeded(...parameters: Parameters<RowRemoval['removeUnneeded']>) {
    return this.#ask('removeUnneeded', parameters);
  }

  removeUnlinked(...parameters: Parameters<RowRemoval['removeUnlinked']>) {
    return this.#ask('removeUnlinked', parameters);
  }

  evict(...parameters: Parameters<RowRemoval['evict']>) {
    return this.#ask('evict', parameters);
  }

  giveUpStrayObjects(...parameters: Parameters<RowRemoval['giveUpStrayObjects']>) {
    return this.#ask('giveUpStrayObjects', parameters);
  }

  async removeStrays(...parameters: Parameters<RowRemoval['removeStrays']>) {
    const [digests] = parameters;
    return digests.length === 0 ? [] : this.#ask('removeStrays', parameters);
  }

  async close(): Promise<void> {
    if (this.#thread.isRunning) await this.#ask('close', []).catch(() => {});
    this.#isClosed = true;
    await this.#thread.terminate();
  }

  #ask<Q extends SurveyQuestion>(
    question: Q,
    parameters: Parameters<ThreadWork[Q]>,
  ): ReturnType<ThreadWork[Q]>;
  #ask(question: SurveyQuestion, parameters: readonly unknown[]): Promise<unknown> {
    if (this.#isClosed) return Promise.reject(new Error('the survey is closed'));
    return this.#thread.ask(question, parameters);
  }
}

function read(reply: SurveyReply): unknown {
  if ('answer' in reply) return reply.answer;
  const { failure, isLocked, code, cause, system } = reply;
  if (code !== undefined)
    throw new OciError(code, { message: failure, ...(cause && { cause: new Error(cause) }) });
  if (isLocked) throw new IndexLocked(failure);
  throw Object.assign(new Error(`the survey failed: ${failure}`), system);
}
