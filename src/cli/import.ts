import { importArchive, type ImportReport } from '../archive/import.ts';
import { sizeText } from '../lib/units.ts';
import { eachArchive, placementOf } from './archives.ts';
import { countText } from './columns.ts';
import {
  answer,
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
import { Renames } from './renames.ts';
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
    'pulled by everybody, or by one tenant alone. Run again after a break, it goes on. With --dry-run it changes ' +
    'nothing, needs no store, and lists the images: what they would be called here, their platforms and size, how much ' +
    'of it is new here, and whether the name is new, held already, or would mean another image than now. An image for ' +
    'which the import would be refused is marked, and every reason is told; the exit code is 1 then. An import takes ' +
    'all images of an archive or none.',
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
    { flags: '--dry-run', description: 'check everything and list the images, but change nothing' },
    jsonOption(
      'a line for each image, with file, image, digest; with --dry-run also name (in the archive), platforms, bytes, ' +
        'newBytes, state (new, held, replaces, refused), replaces (a digest or null), reason (of refused, else null)',
    ),
    CONFIG_OPTION,
  ],
  makesStore: 'anywhere',
  examples: [
    ['entrepot import bundle.tar', 'take in a bundle'],
    [
      'entrepot import --dry-run bundle.tar',
      'what is in it, what of that is here, and whether it may come in',
    ],
    ['entrepot import --dry-run --json bundle.tar | jq -r .image', 'the names that it would bring'],
    [
      'podman save --format oci-archive app | entrepot import - --rename tools/app:v1',
      'from podman, as another name',
    ],
  ],
  run: (input, io) =>
    interruptible(signal => (input.options['dryRun'] === true ? importDryRun : importAll)(input, io, signal)),
};

function importAll(input: Input, io: Io, signal: AbortSignal): Promise<ExitCode> {
  return withParts(input, io, async parts => {
    const renames = new Renames(input);
    const { metadata, blobs, resolver, quota } = parts;
    const tenantName = tenantOption(parts, input)?.name;
    const placement = placementOf(input, { resolver, renames, tenantName });
    return eachArchive(input, io, { renames, signal }, async ({ file, entries, progress }) => {
      const report = await importArchive(entries, { ...placement, metadata, blobs, quota, progress, signal });
      const tell = () => {
        for (const { name, digest } of report.images)
          answer(input, io, { file, image: name, digest }, `${name} ${digest}\n`);
      };
      return { text: reportText(report), tell };
    });
  });
}

function reportText({ images, addedBlobs, addedBytes, heldBlobs }: ImportReport): string {
  const held = heldBlobs === 0 ? '' : `, ${heldBlobs} held already`;
  return `${countText(images.length, 'image')}; ${countText(addedBlobs, 'blob')} added, ${sizeText(addedBytes)}${held}`;
}
