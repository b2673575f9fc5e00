import { removalRefusal, removedDocument } from '../admin/removals.ts';
import { formatDuration, sizeText } from '../lib/units.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { ImageRemoval, RemovedImage } from '../upkeep/image-removal.ts';
import { type Command, CommandError, CONFIG_OPTION, EXIT, jsonOption, wantsJson } from './command.ts';
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
        'not freed since these repositories need it), remainingBytes (what stays on disk for now)',
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
    return withParts(input, io, async ({ resolver, removal, config }) => {
      const { repository, tag, digest } = resolver.repositoryOf(typed);
      const removed = await removal.remove(repository, digest ?? tag, run).catch((error: unknown) => {
        const refusal = removalRefusal(typed, error);
        throw refusal === undefined ? error : new CommandError(refusal);
      });
      const named = { typed, repository, tag, gracePeriodMs: config.upkeep.gcGracePeriodMs };
      if (wantsJson(input)) io.out(`${JSON.stringify(removedDocument(typed, removed))}\n`);
      else if (removed === undefined) io.out(await nothingText(named, removal, run.purge));
      else io.out(text(named, removed, run.purge));
      return removed === undefined ? EXIT.failed : EXIT.done;
    });
  },
};

/** What was named. */
interface Named {
  readonly typed: string;
  readonly repository: Repository;
  /** `undefined` for a digest or a repository. */
  readonly tag: string | undefined;
  readonly gracePeriodMs: number;
}

function text(named: Named, removed: RemovedImage, isPurged: boolean): string {
  const { typed, repository } = named;
  const { digest, removedTags, otherTags, isManifestHeld, freedBytes } = removed;
  const others = digest === undefined ? [] : removedTags.filter(tag => !typed.endsWith(`:${tag}`));
  const parts = [
    `${repository.upstream === '' ? 'removed' : 'forgotten'}${others.length === 0 ? '' : `, with its tags ${others.join(', ')}`}`,
  ];
  if (otherTags.length > 0) parts.push(`${digest} is still stored as ${otherTags.join(', ')}`);
  else if (isManifestHeld) parts.push(untaggedText(repository, removed, isPurged));
  else if (isPurged) parts.push(`freed ${sizeText(freedBytes)}${neededText(removed)}`);
  else if (removed.remainingBytes > 0) parts.push(remainingText(removed.remainingBytes, named));
  return `${typed}: ${parts.join('; ')}\n`;
}

/** About a manifest that has no tag any more; after a purge because something of its repository needs it. */
function untaggedText(
  repository: Repository,
  { digest, remainingBytes }: RemovedImage,
  isPurged: boolean,
): string {
  if (isPurged) return `${digest} is still stored, without a tag`;
  const eviction = repository.upstream === '' ? '' : ' when space is needed, or now';
  return (
    `still stored without a tag, with ${sizeText(remainingBytes)} of its own, which is freed${eviction} by ` +
    `\`entrepot rm ${repositoryText(repository)}@${digest} --purge\``
  );
}

function remainingText(bytes: number, { gracePeriodMs }: Pick<Named, 'gracePeriodMs'>): string {
  return (
    `${sizeText(bytes)} stays on disk until garbage collection (upkeep.gcGracePeriod: ${formatDuration(gracePeriodMs)}) or ` +
    'until space is needed; `entrepot gc --grace-period 0s` frees it now (not during a push)'
  );
}

/** The name is not stored. What an earlier `rm` left may still take space, which somebody who purges wants to know. */
async function nothingText(named: Named, removal: ImageRemoval, isPurge: boolean): Promise<string> {
  const { typed, repository, tag } = named;
  // Each takes a survey of the index.
  const untagged = tag === undefined ? [] : await removal.untagged(repository);
  const unlinkedBytes = isPurge ? await removal.unlinkedBytes() : 0;
  const names = untagged.map(digest => `${repositoryText(repository)}@${digest}`);
  const parts = [
    names.length > 0
      ? `there is no such tag; stored without a tag: ${names.join(', ')}`
      : 'nothing of it is stored',
  ];
  if (unlinkedBytes > 0) {
    parts.push(`of everything that no repository has any more, ${remainingText(unlinkedBytes, named)}`);
  }
  return `${typed}: ${parts.join('; ')}\n`;
}

function neededText({ neededBytes, neededBy }: RemovedImage): string {
  if (neededBytes === 0) return '';
  const who = neededBy.length === 0 ? 'in use' : `needed by ${neededBy.join(', ')}`;
  return `, while ${sizeText(neededBytes)} are still ${who}`;
}
