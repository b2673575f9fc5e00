import type { MetadataStore } from '../metadata/metadata-store.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import type { Repository } from '../oci/repository.ts';
import type { Input, Io } from './command.ts';
import {
  printResult,
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type ExitCode,
  jsonOption,
} from './command.ts';
import { withParts } from './with-parts.ts';

const REFERENCE = {
  name: '<reference>',
  description: 'image reference with a tag (else latest) or a digest',
} as const;

const DRY_RUN = { flags: '--dry-run', description: 'show what would be done, and do nothing' } as const;

/** `changed` tells whether it was different before. */
const PIN_JSON = jsonOption('image, pinned, changed, dryRun');

/** `entrepot pin`: protects an image from eviction. */
export const pin: Command = {
  name: 'pin',
  summary: 'protect an image from eviction',
  description:
    'Protects a tag or a digest, and everything under it, from eviction. A pinned tag covers whatever it refers to at the time. ' +
    'The image must be stored: pull it first.',
  arguments: [REFERENCE],
  options: [DRY_RUN, PIN_JSON, CONFIG_OPTION],
  examples: [['entrepot pin registry.k8s.io/pause:3.10', 'never evict the image that every pod needs']],
  run: (input, io) => change(input, io, true),
};

/** `entrepot unpin`: removes a pin. */
export const unpin: Command = {
  name: 'unpin',
  summary: 'allow a pinned image to be evicted again',
  arguments: [REFERENCE],
  options: [DRY_RUN, PIN_JSON, CONFIG_OPTION],
  examples: [['entrepot unpin registry.k8s.io/pause:3.10', 'treat it like any other image']],
  run: (input, io) => change(input, io, false),
};

async function change(input: Input, io: Io, isPinned: boolean): Promise<ExitCode> {
  const [typed = ''] = input.arguments;
  const dryRun = input.options['dryRun'] === true;
  return withParts(input, io, async ({ metadata, resolver }) => {
    const { repository, tag = DEFAULT_TAG, digest } = resolver.repositoryOf(typed);
    const reference = digest ?? tag;
    if (isPinned) {
      if (!(await isHeld(metadata, repository, reference))) {
        throw new CommandError(`${typed}: not stored: pull it first`);
      }
      const changed = !(await metadata.listPins(repository)).includes(reference);
      if (!dryRun) await metadata.putPin(repository, reference);
      const text = `${typed}: ${dryRun ? 'would be pinned' : 'pinned'}\n`;
      printResult(input, io, { image: typed, pinned: true, changed, dryRun }, text);
      return EXIT.done;
    }
    const wasPinned = dryRun
      ? (await metadata.listPins(repository)).includes(reference)
      : await metadata.removePin(repository, reference);
    const done = dryRun ? 'would no longer be pinned' : 'no longer pinned';
    const text = `${typed}: ${wasPinned ? done : 'was not pinned'}\n`;
    printResult(input, io, { image: typed, pinned: false, changed: wasPinned, dryRun }, text);
    return wasPinned ? EXIT.done : EXIT.failed;
  });
}

/** Whether the manifest is stored: a Link or a tag remains when it is evicted. */
async function isHeld(metadata: MetadataStore, repository: Repository, reference: string): Promise<boolean> {
  return (await metadata.readForPull(repository, reference)).manifest !== undefined;
}
