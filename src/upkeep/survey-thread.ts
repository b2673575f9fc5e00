import type { Worker } from 'node:worker_threads';
import { IndexLocked } from '../metadata/index-locked.ts';
import type { RowRemoval, StoreSurvey } from './stores.ts';
import type { SurveyQuestion, SurveyReply, SurveyRequest, ThreadWork } from './survey-messages.ts';

interface Waiter {
  readonly resolve: (answer: unknown) => void;
  readonly reject: (error: Error) => void;
}

/**
 * The main thread's side of the survey. The thread starts with the first question, and keeps the process alive only
 * while somebody waits. If it dies, pending questions reject, and the next one starts another thread.
 */
export class SurveyThread implements StoreSurvey, RowRemoval {
  readonly #startWorker: () => Worker;
  readonly #waiters = new Map<number, Waiter>();
  #worker: Worker | undefined;
  #nextId = 1;
  #isClosed = false;

  /** `startWorker`: starts a thread that runs `serveSurvey`. */
  constructor(startWorker: () => Worker) {
    this.#startWorker = startWorker;
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
    const worker = this.#worker;
    if (worker !== undefined) await this.#ask('close', []).catch(() => {});
    this.#isClosed = true;
    await worker?.terminate();
  }

  #ask<Q extends SurveyQuestion>(
    question: Q,
    parameters: Parameters<ThreadWork[Q]>,
  ): ReturnType<ThreadWork[Q]>;
  #ask(question: SurveyQuestion, parameters: readonly unknown[]): Promise<unknown> {
    if (this.#isClosed) {
      return Promise.reject(new Error('the survey is closed'));
    }
    this.#worker ??= this.#start();
    const request: SurveyRequest = { id: this.#nextId++, question, parameters };
    return new Promise((resolve, reject) => {
      this.#waiters.set(request.id, { resolve, reject });
      this.#worker?.ref();
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
      this.#worker?.postMessage(request);
    });
  }

  #start(): Worker {
    const worker = this.#startWorker();
    worker.on('message', (reply: SurveyReply) => this.#receive(reply));
    worker.on('error', error => this.#end(error));
    worker.on('exit', () => this.#end(new Error('the thread of the survey has exited')));
    return worker;
  }

  #receive(reply: SurveyReply): void {
    const waiter = this.#waiters.get(reply.id);
    this.#waiters.delete(reply.id);
    if (this.#waiters.size === 0) {
      this.#worker?.unref();
    }
    if ('failure' in reply) {
      const { failure, isLocked } = reply;
      waiter?.reject(isLocked ? new IndexLocked(failure) : new Error(`the survey failed: ${failure}`));
    } else {
      waiter?.resolve(reply.answer);
    }
  }

  #end(error: Error): void {
    this.#worker = undefined;
    for (const { reject } of this.#waiters.values()) {
      reject(error);
    }
    this.#waiters.clear();
  }
}
