import { addAbortSignal, type Readable } from 'node:stream';
import { tenantGrantId } from '../access/grants.ts';
import { ArchiveError } from '../archive/archive-error.ts';
import { importArchive, type ImportOptions, type ImportReport } from '../archive/import.ts';
import { openArchive, readArchive } from '../archive/open-archive.ts';
import type { Place } from '../archive/placement.ts';
import { DEFAULT_TAG, parseNormalizedReference, referenceName, referenceText } from '../oci/reference.ts';
import type { Parts } from '../wire.ts';
import { countText, sizeText } from './columns.ts';
import { type Command, CommandError, CONFIG_OPTION, EXIT, type Input } from './command.ts';
import { interruptible } from './interruptible.ts';
import { commaList, PLATFORM_OPTION, platformsOption } from './list-options.ts';
import { progressForm, ProgressView } from './progress.ts';
import { tenantOption } from './tenant-option.ts';
import { withParts } from './with-parts.ts';

/** `entrepot import`: take bundles in. */
export const importCommand: Command = {
  name: 'import',
  summary: 'take in images from a bundle, an OCI image layout or an archive of docker save',
  description:
    'Reads tars (also gzip; zstd from Node 22.15 on) and folders with an OCI image layout: bundles of `entrepot ' +
    'export`, skopeo copy … oci-archive:, podman save --format oci-archive, docker save (25 and later). Every name, ' +
    'size and digest is checked and every image proved to be complete before anything is published. Images belong ' +
    'to the name that they came from, are pinned, and may be pulled by everybody, or by one tenant alone. Run again ' +
    'after a break, it goes on.',
  arguments: [{ name: '<file...>', description: 'tars or folders; - is standard input' }],
  options: [
    {
      flags: '--rename <list>',
      description:
        'other names: OLD=NEW,… for images or repositories, or NEW for the one image of an archive',
    },
    {
      ...PLATFORM_OPTION,
      description: 'platforms that have to be complete (default: what the archive says, or all)',
    },
    { flags: '--tenant <name>', description: 'only this tenant may have what belongs to mirrors' },
    { flags: '--public', description: 'let everybody have what comes from private repositories' },
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot import bundle.tar', 'take in a bundle'],
    [
      'podman save --format oci-archive app | entrepot import - --rename tools/app:v1',
      'from podman, as another name',
    ],
  ],
  run: (input, io) =>
    interruptible(signal =>
      withParts(input, io, async parts => {
        const options = importOptions(parts, input, signal);
        const view = new ProgressView(io, progressForm({ json: false }));
        let failed = 0;
        for (const file of input.arguments) {
          const item = view.begin(file === '-' ? 'standard input' : file);
          try {
            const report = await importFile(file, { ...options, progress: bytes => item.advance(bytes) });
            item.end('done', reportText(report));
            for (const { name, digest } of report.images) io.out(`${name} ${digest}\n`);
          } catch (error) {
            // Ctrl-C ends the whole pipe: an archive that is cut off by it is none that is refused.
            if (!(error instanceof ArchiveError) || signal.aborted) throw error;
            item.end('failed', error.message);
            failed += 1;
          } finally {
            view.close();
          }
        }
        return failed === 0 ? EXIT.done : EXIT.failed;
      }),
    ),
};

function importFile(file: string, options: ImportOptions): Promise<ImportReport> {
  return importArchive(
    file === '-' ? readArchive(standardInput(options)) : openArchive(file, options.signal),
    options,
  );
}

/** A pipe may bring nothing for hours: the signal is heard meanwhile. */
function standardInput({ signal }: ImportOptions): Readable {
  return signal === undefined ? process.stdin : addAbortSignal(signal, process.stdin);
}

function importOptions(parts: Parts, input: Input, signal: AbortSignal): ImportOptions {
  const { metadata, blobs, naming, quota } = parts;
  const tenant = tenantOption(parts, input);
  const renamed = renames(input);
  const placeOf = (name: string | undefined): Place | undefined => {
    const here = renamed(name);
    if (here === undefined) return undefined;
    const { repository, tag, digest } = naming.repositoryOf(here);
    return { repository, tag: tag ?? (digest === undefined ? DEFAULT_TAG : undefined), digest };
  };
  return {
    metadata,
    blobs,
    placeOf,
    platforms: platformsOption(input),
    grantee: tenant && tenantGrantId(tenant.name),
    mayPublish: input.options['public'] === true,
    room: quota,
    signal,
  };
}

/** What `--rename` makes of a name: as given in full, or by its repository, keeping tag and digest. */
function renames(input: Input): (name: string | undefined) => string | undefined {
  const pairs = new Map<string, string>();
  let only: string | undefined;
  for (const text of commaList(input, 'rename')) {
    const [from = '', to, ...more] = text.split('=');
    if (more.length > 0 || to === '') throw new CommandError(`${text} is not OLD=NEW`, EXIT.usage);
    if (to === undefined) only = from;
    else pairs.set(canonical(from), to);
  }
  if (only !== undefined && pairs.size > 0) {
    throw new CommandError('--rename NEW is for an archive with one image', EXIT.usage);
  }
  let uses = 0;
  return name => {
    if (only !== undefined) {
      // What has no name besides may be a signature of the one.
      if (uses === 1 && name === undefined) return undefined;
      uses += 1;
      if (uses > 1) throw new CommandError('--rename NEW is for an archive with one image', EXIT.usage);
      return only;
    }
    if (name === undefined) return undefined;
    const whole = pairs.get(canonical(name));
    if (whole !== undefined) return whole;
    const { tag, digest, ...named } = parseNormalizedReference(name);
    const repository = pairs.get(referenceName(named));
    if (repository === undefined) return name;
    return `${repository}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`;
  };
}

function canonical(name: string): string {
  return referenceText(parseNormalizedReference(name));
}

function reportText({ images, addedBlobs, addedBytes, heldBlobs }: ImportReport): string {
  const held = heldBlobs === 0 ? '' : `, ${heldBlobs} held already`;
  return `${countText(images.length, 'image')}; ${countText(addedBlobs, 'blob')} added, ${sizeText(addedBytes)}${held}`;
}
