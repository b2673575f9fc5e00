import { setImmediate } from 'node:timers/promises';
import { parseCron } from '../lib/cron.ts';
import { fileTrouble } from '../lib/file-trouble.ts';
import type { WantedImage, WantedImages } from '../prepull/wanted-images.ts';
import type { AdminParts, AdminServer } from './admin-parts.ts';
import type { PrepullDocument, PrepullImageDocument } from './documents/prepull.ts';
import type { AdminQuery } from './operations.ts';
import { cursorOf, openCursor } from './paging.ts';
import { timeOf } from './status.ts';

/** How many images one page may check, each of which takes some reads of the index. */
const MAX_CHECKED = 500;
/** For how long the lists count as read: a page is followed by the next. */
const READ_FOR_MS = 10_000;

export interface PrepullNeeds {
  /** The images that the configuration names, and what could not be read of its files. */
  readonly wanted: () => Promise<WantedImages>;
  /** Whether everything that nodes need of an image is stored. */
  readonly check: (image: WantedImage) => Promise<Omit<PrepullImageDocument, 'last'>>;
}

/** What is pulled ahead, and what is missing of it. */
export class PrepullList {
  readonly #config: AdminParts['config'];
  readonly #lastPulls: AdminServer['lastPulls'];
  readonly #needs: PrepullNeeds;
  #read: { readonly atMs: number; readonly wanted: Promise<WantedImages> } | undefined;

  constructor(config: AdminParts['config'], lastPulls: AdminServer['lastPulls'], needs: PrepullNeeds) {
    this.#config = config;
    this.#lastPulls = lastPulls;
    this.#needs = needs;
  }

  /** A page in the order of the lists; a search for what is missing may end early, with a `next`. */
  async page({ after, limit, missing }: AdminQuery<'prepull'>): Promise<PrepullDocument> {
    const { prepull, offline } = this.#config;
    const { images, unread } = await this.#wanted();
    const begin = after === undefined ? 0 : placeAfter(images, openCursor(after));
    const entries: PrepullImageDocument[] = [];
    let at = begin;
    for (; at < images.length && entries.length < limit && at - begin < MAX_CHECKED; at += 1) {
      const image = images[at];
      if (image === undefined) break;
      // Others get their turn.
      await setImmediate();
      const document = { ...(await this.#needs.check(image)), last: this.#lastOf(image.name) };
      if (missing === undefined || document.complete !== missing) entries.push(document);
    }
    const last = images[at - 1];
    const schedule = prepull.schedule === false || offline ? null : prepull.schedule;
    return {
      entries,
      next: at < images.length && last !== undefined ? cursorOf(last.name) : null,
      total: images.length,
      schedule,
      nextRun:
        schedule === null || images.length === 0 ? null : timeOf(parseCron(schedule).nextMs(Date.now())),
      from: prepull.from.map(file => ({ file, problem: problemText(file, unread.get(file)) })),
      offline,
    };
  }

  #lastOf(image: string): PrepullImageDocument['last'] {
    const last = this.#lastPulls.of(image);
    if (last === undefined) return null;
    const { atMs, failure = null } = last;
    return { at: timeOf(atMs), outcome: failure === null ? 'pulled' : 'failed', reason: failure };
  }

  #wanted(): Promise<WantedImages> {
    const nowMs = performance.now();
    if (this.#read === undefined || nowMs - this.#read.atMs > READ_FOR_MS) {
      this.#read = { atMs: nowMs, wanted: this.#needs.wanted() };
      this.#read.wanted.catch(() => void (this.#read = undefined));
    }
    return this.#read.wanted;
  }
}

/** If the image is gone, the list begins again. */
function placeAfter(images: readonly WantedImage[], name: string): number {
  return images.findIndex(image => image.name === name) + 1;
}

/** The file is named beside it. */
function problemText(file: string, error: unknown): string | null {
  if (error === undefined) return null;
  const text = fileTrouble(error);
  return text.startsWith(`${file}:`) ? `line ${text.slice(file.length + 1)}` : text;
}
