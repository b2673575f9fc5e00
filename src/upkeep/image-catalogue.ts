import { setImmediate } from 'node:timers/promises';
import { type Clock, systemClock, type Timer } from '../lib/clock.ts';
import { everything, type Survey, type SurveyedImage } from '../metadata/survey.ts';
import { repositoryText } from '../oci/repository.ts';
import { heldBytes, isEvicted, usedAtMsOf } from './images.ts';
import type { ImageOrder, OrderedImages } from './stores.ts';

interface Ranked extends Readonly<Record<ImageOrder, number>> {
  readonly image: SurveyedImage;
  readonly name: string;
}

/** For how long an order is believed at least: pages of it are asked for one after the other. */
const BELIEVED_MS = 60_000;
/** So that looking at all images takes a quarter of the time at most, however long it takes. */
const BELIEVED_TIMES = 3;
/** Somebody is looking. A look at an image takes a millisecond or less. */
const WAIT_MS = 2_000;
/** After the last question, images are forgotten. */
const KEPT_MS = 120_000;
const PAGE = 500;
/** Some 50 MB; those that come later in the survey's order are left out. */
const MAX_IMAGES = 200_000;

/**
 * All images ordered by what only a look at each can tell. It is made when somebody asks, in the survey's thread; made
 * again when it is old, while the old order is still shown; and forgotten when nobody has asked for a while.
 */
export class ImageCatalogue {
  readonly #survey: Survey;
  readonly #clock: Clock;
  #shown: Making | undefined;
  #next: Making | undefined;
  #forgetting: Timer | undefined;

  constructor(survey: Survey, clock: Clock = systemClock) {
    this.#survey = survey;
    this.#clock = clock;
  }

  /** The page that begins after the cursor. */
  async page(order: ImageOrder, after?: string): Promise<OrderedImages> {
    this.#forgetting?.cancel();
    this.#forgetting = this.#clock.after(KEPT_MS, () => this.#forget()).unref();
    const making = this.#current();
    if (!making.isDone) await Promise.race([making.done, this.#clock.sleep(WAIT_MS, { ref: false })]);
    const ordered = making.ordered(order);
    const begin = after === undefined ? 0 : placeAfter(ordered, order, after);
    const page = ordered.slice(begin, begin + PAGE);
    const last = page.at(-1);
    const next = ordered.length > begin + PAGE && last !== undefined ? keyOf(last, order) : undefined;
    return { entries: page.map(({ image }) => image), next, isPartial: !making.isDone };
  }

  /** The latest order that is complete; the one that is being made if there is none. */
  #current(): Making {
    if (this.#shown === undefined || (this.#shown.isOld && this.#next === undefined)) {
      const making = new Making(this.#survey, this.#clock);
      this.#shown ??= making;
      this.#next = making;
      const end = (isWhole: boolean): void => {
        if (this.#next !== making) return;
        this.#next = undefined;
        if (isWhole) this.#shown = making;
        // Who asks next begins again.
        else if (this.#shown === making) this.#shown = undefined;
      };
      making.done.then(
        () => end(true),
        () => end(false),
      );
    }
    return this.#shown;
  }

  #forget(): void {
    this.#next?.stop();
    this.#next = undefined;
    this.#shown = undefined;
  }
}

/** One look at all images. */
class Making {
  /** Rejects if the index cannot be read. */
  readonly done: Promise<void>;
  readonly #ranked: Ranked[] = [];
  readonly #orders = new Map<ImageOrder, readonly Ranked[]>();
  readonly #survey: Survey;
  readonly #clock: Clock;
  readonly #begunMs: number;
  #doneMs: number | undefined;
  #isStopped = false;

  constructor(survey: Survey, clock: Clock) {
    this.#survey = survey;
    this.#clock = clock;
    this.#begunMs = clock.monotonicMs();
    this.done = this.#make();
    // Whoever waits gets the error.
    this.done.catch(() => {});
  }

  get isDone(): boolean {
    return this.#doneMs !== undefined;
  }

  get isOld(): boolean {
    if (this.#doneMs === undefined) return false;
    const believedMs = Math.max(BELIEVED_MS, BELIEVED_TIMES * (this.#doneMs - this.#begunMs));
    return this.#clock.monotonicMs() - this.#doneMs > believedMs;
  }

  /** What was looked at so far. */
  ordered(order: ImageOrder): readonly Ranked[] {
    const known = this.#orders.get(order);
    if (known !== undefined) return known;
    const ordered = this.#ranked.toSorted((one, other) => compare(order, one, other));
    if (this.isDone) this.#orders.set(order, ordered);
    return ordered;
  }

  stop(): void {
    this.#isStopped = true;
  }

  async #make(): Promise<void> {
    await this.#lookAtAll();
    this.#doneMs = this.#clock.monotonicMs();
  }

  async #lookAtAll(): Promise<void> {
    for (const find of ['tags', 'untagged'] as const) {
      for await (const images of everything(after => this.#survey[find](after))) {
        for (const image of images) {
          if (this.#isStopped || this.#ranked.length === MAX_IMAGES) return;
          // Other questions get their turn.
          await setImmediate();
          const { repository, digest, tag, isPinned } = image;
          const manifests = await this.#survey.image(repository, digest, tag);
          if (isEvicted(repository, manifests) && !isPinned) continue;
          this.#ranked.push({
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

/** The largest first, equal ones by name. */
function compare(
  order: ImageOrder,
  one: Pick<Ranked, ImageOrder | 'name'>,
  other: Pick<Ranked, ImageOrder | 'name'>,
): number {
  return other[order] - one[order] || (one.name < other.name ? -1 : one.name > other.name ? 1 : 0);
}

/** Says where an image is in an order, whether it is still there or not. */
function keyOf(ranked: Ranked, order: ImageOrder): string {
  return `${ranked[order]} ${ranked.name}`;
}

/** How many come before what follows that place. */
function placeAfter(ordered: readonly Ranked[], order: ImageOrder, key: string): number {
  const separator = key.indexOf(' ');
  const value = Number(key.slice(0, separator));
  const place = { used: value, own: value, shared: value, name: key.slice(separator + 1) };
  let begin = 0;
  let end = ordered.length;
  while (begin < end) {
    const middle = (begin + end) >>> 1;
    const found = ordered[middle];
    if (found !== undefined && compare(order, found, place) <= 0) begin = middle + 1;
    else end = middle;
  }
  return begin;
}
