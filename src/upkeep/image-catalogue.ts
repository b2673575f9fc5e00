import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { everything, type Survey, type SurveyedImage } from '../metadata/survey.ts';
import { repositoryText } from '../oci/repository.ts';
import { heldBytes, isEvicted, usedAtMsOf } from './images.ts';
import type { ImageOrder, OrderedImages } from './stores.ts';

interface Ranked extends Readonly<Record<ImageOrder, number>> {
  readonly image: SurveyedImage;
  readonly name: string;
}

/** For how long an order is believed: pages of it are asked for one after the other. */
const BELIEVED_MS = 60_000;
/** Somebody is looking. A look at an image takes a millisecond or less. */
const WAIT_MS = 2_000;
const PAGE = 500;
/** Some 50 MB; those that come later in the survey's order are left out. */
const MAX_IMAGES = 200_000;

/**
 * All images ordered by what only a look at each can tell. It is made when somebody asks, in the survey's thread, and
 * forgotten when nobody has asked for a while.
 */
export class ImageCatalogue {
  readonly #survey: Survey;
  readonly #waitMs: number;
  #current: Making | undefined;

  /** `waitMs`: how long an answer waits for all images to be looked at. */
  constructor(survey: Survey, waitMs = WAIT_MS) {
    this.#survey = survey;
    this.#waitMs = waitMs;
  }

  /** The page that begins after the cursor. */
  async page(order: ImageOrder, after?: string): Promise<OrderedImages> {
    if (this.#current === undefined || this.#current.ageMs > BELIEVED_MS) {
      const making = new Making(this.#survey);
      this.#current = making;
      making.forgotten(BELIEVED_MS * 2, () => {
        if (this.#current === making) this.#current = undefined;
      });
    }
    const making = this.#current;
    await Promise.race([making.done, sleep(this.#waitMs, undefined, { ref: false })]);
    const keyOf = (ranked: Ranked) => `${descending(ranked[order])} ${ranked.name}`;
    const keyed = making.ranked.map(ranked => ({ key: keyOf(ranked), image: ranked.image }));
    const rest = keyed.filter(({ key }) => after === undefined || key > after);
    rest.sort((one, other) => (one.key < other.key ? -1 : 1));
    const page = rest.slice(0, PAGE);
    const last = page.at(-1);
    const next = rest.length > PAGE ? last?.key : undefined;
    return { entries: page.map(({ image }) => image), next, isPartial: !making.isDone };
  }
}

/** One look at all images. */
class Making {
  readonly done: Promise<void>;
  readonly ranked: Ranked[] = [];
  readonly #survey: Survey;
  readonly #begunMs = performance.now();
  isDone = false;

  constructor(survey: Survey) {
    this.#survey = survey;
    this.done = this.#make();
    // Whoever waits gets the error.
    this.done.catch(() => {});
  }

  get ageMs(): number {
    return this.isDone ? performance.now() - this.#begunMs : 0;
  }

  forgotten(afterMs: number, forget: () => void): void {
    void this.done.then(() => sleep(afterMs, undefined, { ref: false })).then(forget, forget);
  }

  async #make(): Promise<void> {
    await this.#lookAtAll();
    this.isDone = true;
  }

  async #lookAtAll(): Promise<void> {
    for (const find of ['tags', 'untagged'] as const) {
      for await (const images of everything(after => this.#survey[find](after))) {
        for (const image of images) {
          if (this.ranked.length === MAX_IMAGES) return;
          // Other questions get their turn.
          await setImmediate();
          const { repository, digest, tag, isPinned } = image;
          const manifests = await this.#survey.image(repository, digest, tag);
          if (isEvicted(repository, manifests) && !isPinned) continue;
          this.ranked.push({
            image,
            name: repositoryText(repository) + (tag === undefined ? `@${digest}` : `:${tag}`),
            used: usedAtMsOf(manifests),
            own: heldBytes(manifests, false),
            shared: heldBytes(manifests, true),
          });
        }
      }
    }
  }
}

/** A text of fixed width that sorts the other way round. */
function descending(value: number): string {
  return String(Number.MAX_SAFE_INTEGER - Math.trunc(value)).padStart(16, '0');
}
