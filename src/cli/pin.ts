import type { Input, Io } from './command.ts';
import { type Command, CommandError, CONFIG_OPTION, EXIT, type ExitCode } from './command.ts';
import { withParts } from './with-parts.ts';

const REFERENCE = {
  name: '<reference>',
  description: 'image reference with a tag (else latest) or a digest',
} as const;

/** `entrepot pin`: keep an image whatever happens. */
export const pin: Command = {
  name: 'pin',
  summary: 'keep an image in the store however full it gets',
  description:
    'Keeps a tag or a digest, and everything under it, from being evicted. A pinned tag covers what it means at the time. ' +
    'Only what is held can be kept: pull it first.',
  arguments: [REFERENCE],
  options: [CONFIG_OPTION],
  examples: [['entrepot pin registry.k8s.io/pause:3.10', 'never evict the image that every pod needs']],
  run: (input, io) => change(input, io, true),
};

/** `entrepot unpin`: the other way round. */
export const unpin: Command = {
  name: 'unpin',
  summary: 'let a pinned image be evicted again',
  arguments: [REFERENCE],
  options: [CONFIG_OPTION],
  examples: [['entrepot unpin registry.k8s.io/pause:3.10', 'treat it like any other']],
  run: (input, io) => change(input, io, false),
};

async function change(input: Input, io: Io, isPinned: boolean): Promise<ExitCode> {
  const [typed = ''] = input.arguments;
  return withParts(input, io, async ({ metadata, naming }) => {
    const { repository, tag = 'latest', digest } = naming.repositoryOf(typed);
    const reference = digest ?? tag;
    if (!isPinned) {
      const wasPinned = await metadata.removePin(repository, reference);
      io.out(`${typed}: ${wasPinned ? 'no longer pinned' : 'was not pinned'}\n`);
      return wasPinned ? EXIT.done : EXIT.failed;
    }
    if (!(await metadata.hasRepository(repository))) {
      throw new CommandError(`${typed}: nothing of that repository is held, so there is nothing to keep`);
    }
    await metadata.putPin(repository, reference);
    io.out(`${typed}: pinned\n`);
    return EXIT.done;
  });
}
