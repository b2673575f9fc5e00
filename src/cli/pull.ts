import { parseCron } from '../lib/cron.ts';
import { BLOB_UNSTORED, DOWNLOAD_FAILED, DOWNLOAD_UNSTORED } from '../mirror/fill/fill-outcome.ts';
import { DEFAULT_PARALLEL_IMAGES } from '../prepull/pull-all.ts';
import { type WatchOptions, watch } from '../prepull/watch.ts';
import {
  CONFIG_OPTION,
  type Command,
  CommandError,
  EXIT,
  type ExitCode,
  type Input,
  jsonOption,
  textOption,
  wantsJson,
} from './command.ts';
import { interruptible } from './interruptible.ts';
import { platformsOption } from './list-options.ts';
import { ProgressView, progressForm } from './progress.ts';
import { PullRun } from './pull-run.ts';
import { tenantOption } from './tenant-option.ts';
import {
  filesOption,
  readableImages,
  requireImages,
  WANTED_ARGUMENTS,
  WANTED_OPTIONS,
} from './wanted-images.ts';
import { withParts } from './with-parts.ts';

/** `entrepot pull`: pulls images before nodes ask for them. */
export const pull: Command = {
  name: 'pull',
  summary: 'pull images before nodes ask for them',
  description:
    'Pulls images with everything that belongs to them, beside a running server on the same store or without one. ' +
    'Stored content is not fetched again. A hosted image has no upstream: it must be stored already. Continues after images that fail, and lists them at the end. ' +
    'When interrupted, it keeps what it has; run again, it fetches what is missing. Without a name it pulls what the ' +
    'configuration names (prepull), which a running server also does itself. With --watch it pulls again at each ' +
    'time of prepull.schedule, and retries failures like a pod with ImagePullBackOff.',
  arguments: WANTED_ARGUMENTS,
  options: [
    ...WANTED_OPTIONS,
    {
      flags: '--tenant <name>',
      description: "with this tenant's credentials only, which proves the right of this tenant only",
    },
    { flags: '--referrers', description: 'also signatures, SBOMs and other attached artifacts' },
    { flags: '--serialize', description: 'one image at a time' },
    {
      flags: '--max-parallel <count>',
      description: `images at a time (default: ${DEFAULT_PARALLEL_IMAGES})`,
    },
    { flags: '--watch', description: 'keep running, and pull by prepull.schedule of the configuration' },
    jsonOption(
      'a line for each event (begin, done, failed, waiting, summary), with event; name, bytes, ms, text of an image; ' +
        'pulled, failed, fetchedBytes at the end',
    ),
    CONFIG_OPTION,
  ],
  makesStore: 'where-named',
  examples: [
    [
      'entrepot pull docker.io/library/nginx:1.27 --platform linux/amd64,linux/arm64',
      'one image for two platforms',
    ],
    ['helm template my-chart | entrepot pull --from -', 'all images of a chart'],
    [
      'entrepot pull --from images.txt deploy.yaml --max-parallel 8',
      'from a list and from Kubernetes manifests',
    ],
  ],
  run: async (input, io) => {
    if (input.options['watch'] === true && filesOption(input).includes('-')) {
      throw new CommandError(
        '--watch reads its files repeatedly, so standard input cannot be one of them',
        EXIT.usage,
      );
    }
    const parallel = parallelOf(input);
    platformsOption(input);
    const view = new ProgressView(io, progressForm({ json: wantsJson(input) }));
    const told = new Set<string>();
    // With --watch the files are read repeatedly, and mostly say the same.
    const tell = (line: string) => {
      if (!told.has(line)) view.say(line);
      told.add(line);
    };
    try {
      return await interruptible(signal =>
        withParts(
          input,
          view.io,
          async parts => {
            // Fails once, rather than for every image.
            tenantOption(parts, input);
            const run = new PullRun({ parts, input, view, signal, parallel });
            const { prepull } = parts.config;
            if (input.options['watch'] !== true)
              return run.once(await requireImages(input, tell, { standing: prepull, signal }));
            if (prepull.schedule === false) {
              throw new CommandError('--watch needs a schedule, but prepull.schedule is false', EXIT.usage);
            }
            const failed = (error: unknown) =>
              view.say(error instanceof Error ? error.message : String(error));
            const watching = watch({
              schedule: parseCron(prepull.schedule),
              clock: parts.clock,
              named: async () => {
                const { images, unread } = await readableImages(input, tell, { standing: prepull, signal });
                [...unread.values()].forEach(failed);
                return { images, unread: unread.size };
              },
              pull: images => run.pullAll(images),
              failed,
              waits: next => tellNext(view, next),
              signal,
            });
            return stopped(watching, signal, view);
          },
          {
            followsCluster: textOption(input, 'tenant') !== undefined,
            credentialsOf: { tenant: textOption(input, 'tenant') },
            muted: [DOWNLOAD_FAILED, DOWNLOAD_UNSTORED, BLOB_UNSTORED],
          },
        ),
      );
    } finally {
      view.close();
    }
  },
};

function tellNext(
  view: ProgressView,
  { roundMs, retryMs }: Parameters<WatchOptions<never>['waits']>[0],
): void {
  const [round, retry] = [roundMs, retryMs].map(ms => (ms === undefined ? null : new Date(ms).toISOString()));
  view.event({ event: 'waiting', round, retry });
  view.say(`${retry === null ? '' : `failed images are retried at ${retry}; `}all images again at ${round}`);
}

/** Stopping `--watch`, which never ends by itself, counts as success. */
async function stopped(watching: Promise<never>, signal: AbortSignal, view: ProgressView): Promise<ExitCode> {
  try {
    return await watching;
  } catch (error) {
    if (!signal.aborted) throw error;
    view.say('stopped');
    return EXIT.done;
  }
}

function parallelOf(input: Input): number {
  const isSerial = input.options['serialize'] === true;
  const given = textOption(input, 'maxParallel');
  if (given === undefined) return isSerial ? 1 : DEFAULT_PARALLEL_IMAGES;
  if (!/^[1-9]\d{0,3}$/.test(given))
    throw new CommandError('--max-parallel: expected a number of at least 1', EXIT.usage);
  if (isSerial && given !== '1')
    throw new CommandError(
      `--serialize pulls one image at a time, but --max-parallel is ${given}: use one of them`,
      EXIT.usage,
    );
  return Number(given);
}
