import type { ListedImage } from '../prepull/image-list.ts';
import { pullImage, type PulledImage } from '../prepull/image-pull.ts';
import type { Parts } from '../wire.ts';
import { type Command, CommandError, CONFIG_OPTION, EXIT, type Input, textOption } from './command.ts';
import { interruptible } from './interruptible.ts';
import { progressForm, ProgressView } from './progress.ts';
import { meantBy, WANTED_ARGUMENTS, WANTED_OPTIONS, wantedImages } from './wanted-images.ts';
import { withParts } from './with-parts.ts';

/** Images at a time, unless somebody says otherwise: enough to keep a link busy while manifests are asked for. */
const DEFAULT_PARALLEL = 4;

/** `entrepot pull`: bring images before they are asked for. */
export const pull: Command = {
  name: 'pull',
  summary: 'bring images here before a node asks for them',
  description:
    'Brings images with all that belongs to them, beside a running server on the same store or without one: nothing ' +
    'is fetched that is held, and nothing twice. Goes on past images that fail, and says at the end which did. ' +
    'Interrupted, it keeps what it has; run again, it fetches what is missing.',
  arguments: WANTED_ARGUMENTS,
  options: [
    ...WANTED_OPTIONS,
    { flags: '--referrers', description: 'signatures, SBOMs and the like too' },
    { flags: '--serialize', description: 'one image at a time' },
    { flags: '--max-parallel <count>', description: `images at a time (default: ${DEFAULT_PARALLEL})` },
    { flags: '--json', description: 'one line of JSON for each event, on standard output' },
    CONFIG_OPTION,
  ],
  examples: [
    [
      'entrepot pull docker.io/library/nginx:1.27 --platform linux/amd64,linux/arm64',
      'one image for two platforms',
    ],
    ['helm template my-chart | entrepot pull --from -', 'all images of a chart'],
    ['entrepot pull --from images.txt,deploy.yaml --max-parallel 8', 'of a list and of Kubernetes manifests'],
  ],
  run: async (input, io) => {
    const images = await wantedImages(input);
    const parallel = parallelOf(input);
    const view = new ProgressView(io, progressForm({ json: input.options['json'] === true }));
    const logs = { ...io, err: (text: string) => view.say(text.trimEnd()) };
    try {
      return await interruptible(signal =>
        withParts(input, logs, async parts => {
          const run = new PullRun(parts, input, view, signal);
          await run.pullAll(images, parallel);
          signal.throwIfAborted();
          return run.summarise(images.length);
        }),
      );
    } finally {
      view.close();
    }
  },
};

/** The pulls of one command. */
class PullRun {
  readonly #parts: Parts;
  readonly #input: Input;
  readonly #view: ProgressView;
  readonly #signal: AbortSignal;
  readonly #failed: string[] = [];
  #fetchedBytes = 0;

  constructor(parts: Parts, input: Input, view: ProgressView, signal: AbortSignal) {
    this.#parts = parts;
    this.#input = input;
    this.#view = view;
    this.#signal = signal;
  }

  async pullAll(images: readonly ListedImage[], parallel: number): Promise<void> {
    const queue = [...images];
    const work = async (): Promise<void> => {
      for (let image = queue.shift(); image !== undefined && !this.#signal.aborted; image = queue.shift()) {
        await this.#pull(image);
      }
    };
    await Promise.all(Array.from({ length: parallel }, work));
  }

  summarise(count: number): number {
    const failed = this.#failed.length;
    const pulled = count - failed;
    this.#view.event({ event: 'summary', pulled, failed: this.#failed, fetchedBytes: this.#fetchedBytes });
    this.#view.say(`${pulled} of ${count} images are here${failed === 0 ? '' : `; ${failed} failed:`}`);
    for (const image of this.#failed) this.#view.say(`  ${image}`);
    return failed === 0 ? EXIT.done : EXIT.failed;
  }

  /** Never rejects. */
  async #pull(image: ListedImage): Promise<void> {
    const item = this.#view.begin(image.name);
    try {
      const { repository, reference, platforms } = meantBy(this.#parts, this.#input, image);
      if (repository.upstream === '') throw new CommandError('it lives here and has no upstream');
      const right = await this.#parts.access.operatorRight(repository);
      const pulled = await pullImage(
        { repository, reference, right },
        {
          source: this.#parts.mirror,
          metadata: this.#parts.metadata,
          platforms,
          referrers: this.#input.options['referrers'] === true,
          progress: item,
          signal: this.#signal,
        },
      );
      this.#fetchedBytes += pulled.fetchedBytes;
      item.end('done', pulledText(pulled));
    } catch (error) {
      this.#failed.push(image.name);
      item.end('failed', error instanceof Error ? error.message : String(error));
    }
  }
}

function pulledText({ digest, blobs, heldBlobs, fetchedBytes }: PulledImage): string {
  return fetchedBytes === 0
    ? `${digest} was here`
    : `${digest}, ${blobs - heldBlobs} of ${blobs} blobs fetched`;
}

function parallelOf(input: Input): number {
  if (input.options['serialize'] === true) return 1;
  const given = textOption(input, 'maxParallel');
  if (given === undefined) return DEFAULT_PARALLEL;
  if (!/^[1-9]\d{0,3}$/.test(given))
    throw new CommandError('--max-parallel takes a number from 1 on', EXIT.usage);
  return Number(given);
}
