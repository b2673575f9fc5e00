import { OciError } from '../oci/errors.ts';
import { pullAll } from '../prepull/pull-all.ts';
import type { WantedImage } from '../prepull/wanted-images.ts';
import type { Parts } from '../compose/parts.ts';
import { type BroughtImage, pullMeant } from '../compose/prepull.ts';
import { EXIT, type ExitCode, type Input } from './command.ts';
import type { ProgressView } from './progress.ts';
import { tenantOption } from './tenant-option.ts';
import { meantBy } from './wanted-images.ts';

export interface PullRunOptions {
  readonly parts: Parts;
  readonly input: Input;
  readonly view: ProgressView;
  readonly signal: AbortSignal;
  /** Images at a time. */
  readonly parallel: number;
}

/** The pulls of one `entrepot pull`. */
export class PullRun {
  readonly #options: PullRunOptions;
  #fetchedBytes = 0;

  constructor(options: PullRunOptions) {
    this.#options = options;
  }

  /** Pulls all images, and reports the results. */
  async once(images: readonly WantedImage[]): Promise<ExitCode> {
    const { view } = this.#options;
    const failed = (await this.pullAll(images)).map(({ name }) => name);
    const pulled = images.length - failed.length;
    view.event({ event: 'summary', pulled, failed, fetchedBytes: this.#fetchedBytes });
    view.say(
      `${pulled} of ${images.length} images are stored${failed.length === 0 ? '' : `; ${failed.length} failed:`}`,
    );
    for (const name of failed) view.say(`  ${name}`);
    return failed.length === 0 ? EXIT.done : EXIT.failed;
  }

  /**
   * Pulls all images, continuing after failures, and returns those that failed. Rejects only when its signal aborts.
   */
  async pullAll(images: readonly WantedImage[]): Promise<readonly WantedImage[]> {
    const { signal, parallel } = this.#options;
    return pullAll(images, { parallel, pull: image => this.#pull(image), signal });
  }

  async #pull(image: WantedImage): Promise<boolean> {
    const { parts, input, view, signal } = this.#options;
    const progress = view.begin(image.name);
    try {
      const pulled = await pullMeant(parts, meantBy(parts, input, image), {
        tenant: tenantOption(parts, input),
        referrers: input.options['referrers'] === true,
        progress,
        signal,
      });
      this.#fetchedBytes += pulled.fetchedBytes;
      progress.end('done', pulledText(pulled));
      return true;
    } catch (error) {
      progress.end('failed', failureOf(error, image.name));
      return false;
    }
  }
}

/**
 * For the operator: with what upstream answered, and without the name at the beginning of the message of `notHeld`, which
 * the line already has.
 */
function failureOf(error: unknown, name: string): string {
  if (!(error instanceof OciError)) return error instanceof Error ? error.message : String(error);
  const { story } = error;
  const named = `${name} is `;
  return story.startsWith(named) ? story.slice(named.length) : story;
}

function pulledText({ digest, blobs, heldBlobs, fetchedBytes, isHosted }: BroughtImage): string {
  if (isHosted) return `${digest} is hosted here`;
  return fetchedBytes === 0
    ? `${digest} was already stored`
    : `${digest}, ${blobs - heldBlobs} of ${blobs} blobs fetched`;
}
