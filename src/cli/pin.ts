import { NotStored } from '../admin/inspect.ts';
import { changePin } from '../admin/pins.ts';
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
  return withParts(input, io, async parts => {
    const { presence: during } = parts.metadata;
    const changed = await changePin(parts, typed, { isPinned, dryRun, during }).catch((error: unknown) => {
      throw error instanceof NotStored ? new CommandError(error.message) : error;
    });
    printResult(
      input,
      io,
      { image: typed, pinned: isPinned, changed, dryRun },
      `${typed}: ${resultText({ isPinned, changed, dryRun })}\n`,
    );
    return isPinned || changed ? EXIT.done : EXIT.failed;
  });
}

function resultText({
  isPinned,
  changed,
  dryRun,
}: {
  readonly isPinned: boolean;
  readonly changed: boolean;
  readonly dryRun: boolean;
}): string {
  if (isPinned) return dryRun ? 'would be pinned' : 'pinned';
  if (!changed) return 'was not pinned';
  return dryRun ? 'would no longer be pinned' : 'no longer pinned';
}
