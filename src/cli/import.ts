import { addAbortSignal, type Readable } from 'node:stream';
import { tenantGrantee } from '../access/grants.ts';
import { ArchiveError } from '../archive/archive-error.ts';
import { importArchive, type ImportOptions, type ImportReport } from '../archive/import.ts';
import { openArchive, readArchive } from '../archive/open-archive.ts';
import type { Place } from '../archive/placement.ts';
import type { NamedRepository, Naming } from '../http/naming.ts';
import { sizeText } from '../lib/units.ts';
import { OciError } from '../oci/errors.ts';
import { DEFAULT_TAG, parseNormalizedReference, referenceName, referenceText } from '../oci/reference.ts';
import type { Parts } from '../wire.ts';
import { countText } from './columns.ts';
import { type Command, CommandError, CONFIG_OPTION, EXIT, type Input } from './command.ts';
import { interruptible } from './interruptible.ts';
import { commaList, platformOptions, platformsOption } from './list-options.ts';
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
    'to the name that they came from, whose registry or prefix has to be configured here; they are pinned, and may be ' +
    'pulled by everybody, or by one tenant alone. Run again after a break, it goes on.',
  arguments: [{ name: '<file...>', description: 'tars or folders; - is standard input' }],
  options: [
    {
      flags: '--rename <list>',
      description:
        'other names: OLD=NEW,… for images or repositories, or NEW for the one image of an archive',
    },
    ...platformOptions('those that the archive says it carries, else all'),
    { flags: '--tenant <name>', description: 'only this tenant may have what belongs to mirrors' },
    { flags: '--public', description: 'let everybody have what comes from private repositories' },
    CONFIG_OPTION,
  ],
  makesStore: true,
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
        const renames = new Renames(input);
        const options = importOptions(parts, input, renames, signal);
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
        for (const name of renames.unused) io.err(`--rename: no image was called ${name}\n`);
        return failed === 0 && renames.unused.length === 0 ? EXIT.done : EXIT.failed;
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

function importOptions(parts: Parts, input: Input, renames: Renames, signal: AbortSignal): ImportOptions {
  const { metadata, blobs, naming, quota } = parts;
  const tenant = tenantOption(parts, input);
  const placeOf = (name: string | undefined): Place | undefined => {
    const here = renames.nameOf(name);
    if (here === undefined) return undefined;
    const { repository, tag, digest } = destinationOf(naming, here);
    return { repository, tag: tag ?? (digest === undefined ? DEFAULT_TAG : undefined), digest };
  };
  return {
    metadata,
    blobs,
    placeOf,
    platforms: platformsOption(input),
    grantee: tenant && tenantGrantee(tenant.name),
    mayPublish: input.options['public'] === true,
    room: quota,
    signal,
  };
}

/** ArchiveError, with the ways out, for a name under which nobody would find the image here. */
function destinationOf(naming: Naming, name: string): NamedRepository {
  try {
    return naming.destinationOf(name);
  } catch (cause) {
    if (!(cause instanceof OciError) || cause.code !== 'NAME_UNKNOWN') throw cause;
    const ways = 'configure it, or give the name that the image has here with --rename OLD=NEW';
    throw new ArchiveError(`${cause.message}: ${ways}`, { cause });
  }
}

/** What `--rename` makes of names: as given in full, or by its repository, keeping tag and digest. */
class Renames {
  readonly #pairs = new Map<string, string>();
  readonly #used = new Set<string>();
  readonly #only: string | undefined;
  #uses = 0;

  constructor(input: Input) {
    for (const text of commaList(input, 'rename')) {
      const [from = '', to, ...more] = text.split('=');
      if (more.length > 0 || to === '') throw new CommandError(`${text} is not OLD=NEW`, EXIT.usage);
      if (to === undefined) this.#only = from;
      else this.#pairs.set(canonical(from), to);
    }
    if (this.#only !== undefined && this.#pairs.size > 0) throw notTheOnly();
  }

  /** The old names that nothing was called by. */
  get unused(): readonly string[] {
    return [...this.#pairs.keys()].filter(name => !this.#used.has(name));
  }

  nameOf(name: string | undefined): string | undefined {
    if (this.#only !== undefined) return this.#onlyName(this.#only, name);
    if (name === undefined) return undefined;
    const { tag, digest, ...named } = parseNormalizedReference(name);
    const whole = this.#newName(canonical(name));
    if (whole !== undefined) return whole;
    const repository = this.#newName(referenceName(named));
    if (repository === undefined) return name;
    return `${repository}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`;
  }

  #newName(old: string): string | undefined {
    const name = this.#pairs.get(old);
    if (name !== undefined) this.#used.add(old);
    return name;
  }

  #onlyName(only: string, name: string | undefined): string | undefined {
    // What has no name besides may be a signature of the one.
    if (this.#uses === 1 && name === undefined) return undefined;
    this.#uses += 1;
    if (this.#uses > 1) throw notTheOnly();
    return only;
  }
}

function notTheOnly(): CommandError {
  return new CommandError('--rename NEW is for an archive with one image', EXIT.usage);
}

function canonical(name: string): string {
  return referenceText(parseNormalizedReference(name));
}

function reportText({ images, addedBlobs, addedBytes, heldBlobs }: ImportReport): string {
  const held = heldBlobs === 0 ? '' : `, ${heldBlobs} held already`;
  return `${countText(images.length, 'image')}; ${countText(addedBlobs, 'blob')} added, ${sizeText(addedBytes)}${held}`;
}
