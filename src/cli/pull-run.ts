import { mayNameArch } from '../config/repository-options.ts';
import { ArchNames } from '../mirror/arch-names.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { pullImage, type PulledImage } from '../prepull/image-pull.ts';
import type { Parts } from '../wire.ts';
import { CommandError, EXIT, type ExitCode, type Input } from './command.ts';
import type { ProgressView } from './progress.ts';
import { tenantOption } from './tenant-option.ts';
import { meantBy, type WantedImage } from './wanted-images.ts';

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

  /** Pulls all, and says what came of it. */
  async once(images: readonly WantedImage[]): Promise<ExitCode> {
    const { view } = this.#options;
    const failed = (await this.pullAll(images)).map(({ name }) => name);
    const pulled = images.length - failed.length;
    view.event({ event: 'summary', pulled, failed, fetchedBytes: this.#fetchedBytes });
    view.say(
      `${pulled} of ${images.length} images are here${failed.length === 0 ? '' : `; ${failed.length} failed:`}`,
    );
    for (const name of failed) view.say(`  ${name}`);
    return failed.length === 0 ? EXIT.done : EXIT.failed;
  }

  /** Pulls all, past those that fail, and returns these. Rejects by its signal only. */
  async pullAll(images: readonly WantedImage[]): Promise<readonly WantedImage[]> {
    const { signal, parallel } = this.#options;
    const queue = [...images];
    const failed: WantedImage[] = [];
    const work = async (): Promise<void> => {
      for (let image = queue.shift(); image !== undefined && !signal.aborted; image = queue.shift()) {
        if (!(await this.#pull(image))) failed.push(image);
      }
    };
    await Promise.all(Array.from({ length: parallel }, work));
    signal.throwIfAborted();
    return failed;
  }

  async #pull(image: WantedImage): Promise<boolean> {
    const { parts, input, view, signal } = this.#options;
    const progress = view.begin(image.name);
    try {
      const { repository, reference, platforms } = meantBy(parts, input, image);
      if (repository.upstream === '') throw new CommandError('it lives here and has no upstream');
      const tenant = tenantOption(parts, input);
      const authorize = async (place: Repository): Promise<Right> => {
        const { access } = parts;
        const right = tenant === undefined ? access.operatorRight(place) : access.rightOf(tenant, place);
        // All that is wanted is fetched here: of an index nothing goes ahead of it.
        return { ...(await right), platforms: [] };
      };
      const right = await authorize(repository);
      const referrers = input.options['referrers'] === true;
      const { mirror, metadata } = parts;
      const source = mayNameArch(parts.config, repository)
        ? new ArchNames({ source: mirror, authorize })
        : mirror;
      const pulled = await pullImage(
        { repository, reference, right },
        { source, metadata, platforms, referrers, progress, signal },
      );
      this.#fetchedBytes += pulled.fetchedBytes;
      progress.end('done', pulledText(pulled));
      return true;
    } catch (error) {
      progress.end('failed', error instanceof Error ? error.message : String(error));
      return false;
    }
  }
}

function pulledText({ digest, blobs, heldBlobs, fetchedBytes }: PulledImage): string {
  return fetchedBytes === 0
    ? `${digest} was here`
    : `${digest}, ${blobs - heldBlobs} of ${blobs} blobs fetched`;
}
