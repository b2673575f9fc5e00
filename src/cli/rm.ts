import { sizeText } from '../lib/units.ts';
import type { Repository } from '../oci/repository.ts';
import { CollectingStopped } from '../upkeep/collection.ts';
import { type RemovedImage, RemovalRefused } from '../upkeep/image-removal.ts';
import { printResult, type Command, CommandError, CONFIG_OPTION, EXIT, jsonOption } from './command.ts';
import { withParts } from './with-parts.ts';

/** `entrepot rm`: removes a tag, a digest or a repository. */
export const rm: Command = {
  name: 'rm',
  summary: 'remove a tag, a digest or a repository',
  description:
    'Removes a tag, a digest or a whole repository, with or without a running server. Mirrored content is fetched ' +
    'again by the next pull. In a hosted repository, removing a tag keeps the manifest, with its ' +
    'other tags and its digest; a digest is removed with its tags. Disk space is freed by garbage collection or when it is ' +
    'needed, or at once with --purge. Exit code 1 if nothing of it was stored, or if it is refused.',
  arguments: [{ name: '<reference>', description: 'image reference, such as docker.io/library/nginx:1.27' }],
  options: [
    {
      flags: '--force',
      description: 'also remove what is pinned, a digest with its tags, or a whole hosted repository',
    },
    {
      flags: '--purge',
      description:
        "also remove the tag's manifest, unless another tag refers to it, with what is attached to it, and free at once what " +
        'nothing else needs; do not use it while an image that shares layers is being pushed',
    },
    jsonOption(
      'image, digest, removedTags, otherTags, manifestHeld, freedBytes, neededBytes, neededBy (with --purge: what is ' +
        'not freed since these repositories need it)',
    ),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot rm docker.io/library/nginx:1.27', 'forget this tag of a mirror'],
    ['entrepot rm docker.io/library/nginx --purge', 'free the space of a whole repository'],
    ['entrepot rm team-a/app:v1 --purge', 'delete a hosted image'],
  ],
  run: async (input, io) => {
    const [typed = ''] = input.arguments;
    const run = { force: input.options['force'] === true, purge: input.options['purge'] === true };
    return withParts(input, io, async ({ resolver, removal }) => {
      const { repository, tag, digest } = resolver.repositoryOf(typed);
      const removed = await removal.remove(repository, digest ?? tag, run).catch((error: unknown) => {
        throw refusal(typed, error);
      });
      printResult(input, io, toJson(typed, removed), text(typed, repository, removed, run.purge));
      return removed === undefined ? EXIT.failed : EXIT.done;
    });
  },
};

function refusal(typed: string, error: unknown): unknown {
  if (error instanceof CollectingStopped) return new CommandError(`nothing can be purged: ${error.message}`);
  if (!(error instanceof RemovalRefused)) return error;
  const names = error.names.join(', ');
  const why = {
    disabled: 'deleting is disabled (hosted.delete)',
    pinned: `pinned as ${names}; --force removes it anyway`,
    tagged: `its tags ${names} would also be removed; use --force to do so`,
    repository: 'a hosted repository: name a tag or a digest, or use --force to remove all of it',
  } as const;
  return new CommandError(`${typed}: ${why[error.reason]}`);
}

function toJson(typed: string, removed: RemovedImage | undefined): object {
  return {
    image: typed,
    digest: removed?.digest ?? null,
    removedTags: removed?.removedTags ?? [],
    otherTags: removed?.otherTags ?? [],
    manifestHeld: removed?.isManifestHeld ?? false,
    freedBytes: removed?.freedBytes ?? 0,
    neededBytes: removed?.neededBytes ?? 0,
    neededBy: removed?.neededBy ?? [],
  };
}

function text(
  typed: string,
  { upstream }: Repository,
  removed: RemovedImage | undefined,
  isPurged: boolean,
): string {
  if (removed === undefined) return `${typed}: nothing of it is stored\n`;
  const { digest, removedTags, otherTags, isManifestHeld, freedBytes } = removed;
  const others = digest === undefined ? [] : removedTags.filter(tag => !typed.endsWith(`:${tag}`));
  const parts = [
    `${upstream === '' ? 'removed' : 'forgotten'}${others.length === 0 ? '' : `, with its tags ${others.join(', ')}`}`,
  ];
  if (otherTags.length > 0) parts.push(`${digest} is still stored as ${otherTags.join(', ')}`);
  else if (isManifestHeld && upstream === '') {
    const hint = isPurged ? '' : ' (--purge removes it too)';
    parts.push(`${digest} is still stored, without a tag${hint}`);
  }
  if (isPurged && !isManifestHeld) parts.push(`freed ${sizeText(freedBytes)}${neededText(removed)}`);
  return `${typed}: ${parts.join('; ')}\n`;
}

function neededText({ neededBytes, neededBy }: RemovedImage): string {
  if (neededBytes === 0) return '';
  const who = neededBy.length === 0 ? 'in use' : `needed by ${neededBy.join(', ')}`;
  return `, while ${sizeText(neededBytes)} are still ${who}`;
}
