import { importArchive, type ImportReport } from '../archive/import.ts';
import { sizeText } from '../lib/units.ts';
import { eachArchive, placementOf } from './archives.ts';
import { noteBundle } from './note-bundle.ts';
import { countText } from './columns.ts';
import {
  printResult,
  type Command,
  CONFIG_OPTION,
  type ExitCode,
  type Input,
  type Io,
  jsonOption,
} from './command.ts';
import { importDryRun } from './import-dry-run.ts';
import { interruptible } from './interruptible.ts';
import { platformOptions } from './list-options.ts';
import { progressForm, ProgressView } from './progress.ts';
import { Renames } from './renames.ts';
import { tenantOption } from './tenant-option.ts';
import { withParts } from './with-parts.ts';

/** `entrepot import`: imports bundles. */
export const importCommand: Command = {
  name: 'import',
  summary: 'import images from a bundle, an OCI image layout or an archive of docker save',
  description:
    'Reads tar files (also gzip; zstd with Node 22.15 or later) and folders with an OCI image layout: bundles of `entrepot ' +
    'export`, skopeo copy … oci-archive:, podman save --format oci-archive, docker save (25 and later). Every name, ' +
    'size and digest is checked, and every image must be complete, before anything is published. Images keep ' +
    'their names, whose registry or prefix must be configured here; they are pinned, and may be ' +
    'pulled by everybody, or by one tenant only. An interrupted import continues when run again. With --dry-run it changes ' +
    'nothing, needs no store, and lists the images: their names here, their platforms and size, how much ' +
    'of it is new, and whether the name is new, already stored, or would be moved to another digest. An image for ' +
    'which the import would be refused is marked with the reason, and the exit code is 1. Either all images of an ' +
    'archive are imported, or none.',
  arguments: [{ name: '<file...>', description: 'tar files or folders; - is standard input' }],
  options: [
    {
      flags: '--rename <list>',
      description:
        'other names: OLD=NEW,… for images or repositories, or NEW for the one image of an archive',
    },
    ...platformOptions('those that the archive declares, otherwise all'),
    { flags: '--tenant <name>', description: 'grant mirrored images to this tenant only' },
    { flags: '--public', description: 'grant images from private repositories to everybody' },
    { flags: '--dry-run', description: 'check everything and list the images, but change nothing' },
    jsonOption(
      'a line for each image, with file, image, digest; with --dry-run also name (in the archive), platforms, bytes, ' +
        'newBytes, state (new, held, replaces, refused), replaces (a digest or null), reason (of refused, else null)',
    ),
    CONFIG_OPTION,
  ],
  makesStore: 'anywhere',
  examples: [
    ['entrepot import bundle.tar', 'import a bundle'],
    [
      'entrepot import --dry-run bundle.tar',
      'list its contents, what is new, and whether it would be accepted',
    ],
    ['entrepot import --dry-run --json bundle.tar | jq -r .image', 'the names that it would import'],
    [
      'podman save --format oci-archive app | entrepot import - --rename tools/app:v1',
      'from podman, under another name',
    ],
  ],
  run: (input, io) =>
    input.options['dryRun'] === true
      ? interruptible(
          signal => importDryRun(input, io, signal),
          () => 'nothing was changed',
        )
      : interruptible(signal => importAll(input, io, signal)),
};

function importAll(input: Input, io: Io, signal: AbortSignal): Promise<ExitCode> {
  const view = new ProgressView(io, progressForm({ json: false }));
  return withParts(input, view.io, async parts => {
    const renames = new Renames(input);
    const { metadata, spool, blobs, resolver, quota } = parts;
    const tenantName = tenantOption(parts, input)?.name;
    const placement = placementOf(input, { resolver, renames, tenantName });
    return eachArchive(input, io, { view, renames, signal }, async ({ file, entries, ...archive }) => {
      const report = await importArchive(entries, {
        ...placement,
        metadata,
        spool,
        blobs,
        quota,
        ...archive,
        signal,
      });
      const { images, addedBlobs: blobCount, addedBytes } = report;
      const names = images.map(({ name }) => name);
      await noteBundle(parts, io, { kind: 'import', file, names, blobs: blobCount, bytes: addedBytes });
      const tell = () => {
        for (const { name, digest } of report.images)
          printResult(input, io, { file, image: name, digest }, `${name} ${digest}\n`);
      };
      return { text: reportText(report), tell };
    });
  });
}

function reportText({ images, addedBlobs, addedBytes, heldBlobs }: ImportReport): string {
  const held = heldBlobs === 0 ? '' : `, ${heldBlobs} already stored`;
  return `${countText(images.length, 'image')}; ${countText(addedBlobs, 'blob')} added, ${sizeText(addedBytes)}${held}`;
}
