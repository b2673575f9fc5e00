import { pipeline } from 'node:stream/promises';
import { isOpenToAll } from '../grants/grants.ts';
import { ArchiveError } from '../archive/archive-error.ts';
import { type ExportImage, planBundle } from '../archive/export.ts';
import { type HaveList, readHaveList } from '../archive/have-list.ts';
import { repositoryOptions } from '../config/repository-options.ts';
import { writeFileAtomic } from '../lib/atomic-file.ts';
import { namedFile } from '../lib/file-trouble.ts';
import { readFileOrPipe } from '../lib/named-pipe.ts';
import { heldContent, heldPlatforms } from '../metadata/held-tree.ts';
import { digestOfReference } from '../metadata/reference-digest.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { readContentTree } from '../oci/content-tree.ts';
import type { Manifest } from '../oci/manifest.ts';
import type { ContentLookup } from '../oci/platform-choice.ts';
import { formatPlatform, type Platform } from '../oci/platform.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { missingOfImage } from '../prepull/image-check.ts';
import type { WantedImage } from '../prepull/wanted-images.ts';
import type { Parts } from '../compose/parts.ts';
import { countText } from './columns.ts';
import {
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type Input,
  jsonOption,
  requireFileForJson,
  textOption,
  wantsJson,
} from './command.ts';
import { interruptible } from './interruptible.ts';
import { noteBundle } from './note-bundle.ts';
import { heldName } from '../compose/held-name.ts';
import { platformOptions, platformsOption } from './list-options.ts';
import { requireOutsideStore } from './output-file.ts';
import { progressForm, ProgressView } from './progress.ts';
import { FROM_OPTION, LIKELY_OPTION, meantBy, WANTED_ARGUMENTS, requireImages } from './wanted-images.ts';
import { withWholeIndex } from './with-parts.ts';

/** `entrepot export`: writes a bundle. */
export const exportCommand: Command = {
  name: 'export',
  summary: 'write images to a bundle, for a site without a network',
  description:
    'Writes stored images, with everything that belongs to them, to one tar file with an OCI image layout, ' +
    'which skopeo, podman, containerd and `entrepot import` read. Of multi-platform images it includes the platforms ' +
    'given with --platform; otherwise those of the configuration (upstreams.*.platforms all, those of tenants and ' +
    'runtimeHandlers if they are stored); otherwise all that are stored. The index itself is not changed. The same ' +
    'content always gives the same file.',
  arguments: WANTED_ARGUMENTS,
  options: [
    { flags: '-o, --output <file>', description: 'file to write; - is standard output' },
    FROM_OPTION,
    LIKELY_OPTION,
    ...platformOptions('those of the configuration, otherwise all that are stored'),
    { flags: '--have <file>', description: 'leave out the blobs on this list of `entrepot have`' },
    { flags: '--referrers', description: 'include stored signatures, SBOMs and other attached artifacts' },
    { flags: '--docker', description: 'add a manifest.json, for docker load and podman load' },
    jsonOption('file, images, blobs, blobBytes, leftOut (blobs that the receiver has)'),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot export docker.io/library/nginx:1.27 -o nginx.tar', 'one image'],
    [
      'entrepot export --platform linux/arm64 registry.k8s.io/pause:3.10 -o - | ssh edge entrepot import -',
      'through a pipe',
    ],
    ['helm template my-chart | entrepot export --from - -o chart.tar', 'all images of a chart'],
    [
      'entrepot export --have HAVE.json ghcr.io/org/app:v2 -o delta.tar',
      'only what is missing on the other side',
    ],
  ],
  run: async (input, io) => {
    const output = textOption(input, 'output');
    if (output === undefined)
      throw new CommandError('give --output, the file to write the bundle to', EXIT.usage);
    if (output === '-' && process.stdout.isTTY) {
      throw new CommandError(
        'a bundle cannot be written to a terminal: name a file, or use a pipe',
        EXIT.usage,
      );
    }
    requireFileForJson(input, output);
    platformsOption(input);
    const view = new ProgressView(io, progressForm({ json: false }));
    const exporting = (signal: AbortSignal) =>
      withWholeIndex(input, view.io, async parts => {
        await requireOutsideStore(output, parts.config.storage.path);
        const { bundle, names } = await plan(parts, input, { tell: line => view.say(line), signal });
        const item = view.begin(output === '-' ? 'standard output' : output);
        item.expect(bundle.blobBytes);
        const tar = bundle.tar(bytes => item.advance(bytes));
        await (output === '-'
          ? pipeline(tar, process.stdout, { signal })
          : writeFileAtomic(output, tar, { signal }));
        const leftOut =
          bundle.leftOut === 0 ? '' : `, ${bundle.leftOut} left out because the receiver has them`;
        const marked = bundle.privateImages === 0 ? '' : `; ${bundle.privateImages} marked as private`;
        item.end(
          'done',
          `${countText(names.length, 'image')}, ${countText(bundle.blobCount, 'blob')}${leftOut}${marked}`,
        );
        const { blobCount: blobs, blobBytes, leftOut: left } = bundle;
        await noteBundle(parts, view.io, { kind: 'export', file: output, names, blobs, bytes: blobBytes });
        if (wantsJson(input)) {
          const document = { file: output, images: names.length, blobs, blobBytes, leftOut: left };
          io.out(`${JSON.stringify(document)}\n`);
        }
        return EXIT.done;
      });
    try {
      return await interruptible(exporting, () => 'no bundle was written');
    } finally {
      view.close();
    }
  },
};

async function haveListIn(file: string, signal: AbortSignal): Promise<HaveList> {
  const reading = readFileOrPipe(file, signal).then(readHaveList);
  try {
    return await namedFile(`--have: ${file} cannot be read`, reading);
  } catch (error) {
    throw error instanceof ArchiveError ? new ArchiveError(`--have: ${file}: ${error.message}`) : error;
  }
}

async function plan(
  parts: Parts,
  input: Input,
  { tell, signal }: { readonly tell: (line: string) => void; readonly signal: AbortSignal },
) {
  const images = new Map<string, ExportImage>();
  for (const wanted of await requireImages(input, tell, { signal })) {
    const image = await imageOf(parts, input, wanted);
    images.set(image.name, together(images.get(image.name), image));
  }
  const haveFile = textOption(input, 'have');
  const dockerManifest = input.options['docker'] === true;
  if (haveFile !== undefined && dockerManifest) {
    throw new CommandError('--docker needs all layers: it cannot be used with --have', EXIT.usage);
  }
  const bundle = await planBundle([...images.values()], {
    metadata: parts.metadata,
    blobs: parts.blobs,
    have: haveFile === undefined ? undefined : await haveListIn(haveFile, signal),
    referrers: input.options['referrers'] === true,
    dockerManifest,
  });
  return { bundle, names: [...images.keys()] };
}

/** Several references may mean one image: `nginx` and `docker.io/library/nginx`, or names with an architecture. */
function together(earlier: ExportImage | undefined, image: ExportImage): ExportImage {
  if (earlier === undefined) return image;
  const isWhole = earlier.platforms === undefined || image.platforms === undefined;
  return {
    ...image,
    platforms: isWhole ? undefined : [...(earlier.platforms ?? []), ...(image.platforms ?? [])],
  };
}

async function imageOf(parts: Parts, input: Input, wanted: WantedImage): Promise<ExportImage> {
  const { metadata, config, access } = parts;
  const meant = meantBy(parts, input, wanted);
  const { reference } = meant;
  const { repository, platforms: ofName } = await heldName(parts, meant.repository, reference);
  const digest = await digestOfReference(metadata, repository, reference);
  const root = digest && (await metadata.readLinkedManifest(repository, digest));
  if (root === undefined) {
    throw new CommandError(`${wanted.name} is not stored here: fetch it with entrepot pull ${wanted.name}`);
  }
  const isPlaced = wanted.placements.some(({ requirements }) => requirements.length > 0);
  const isNarrowed = wanted.platforms.size > 0 || isPlaced || platformsOption(input) !== undefined;
  const platforms =
    ofName ?? (isNarrowed ? meant.platforms : await defaultPlatforms(parts, repository, root));
  if (platforms?.length === 0) {
    throw new CommandError(
      `${wanted.name} is not completely stored for any platform: fetch it with entrepot pull`,
    );
  }
  const suffix = isDigest(reference) ? `@${reference}` : `:${reference}`;
  return {
    name: `${repositoryText(repository)}${suffix}`,
    repository,
    digest: root.digest,
    platforms,
    isOpenToAll: async digests =>
      repository.upstream === ''
        ? access.isHostedForAll(repository)
        : isOpenToAll(metadata, repository, digests, config),
  };
}

/**
 * The platforms if none are given: those of the configuration, otherwise those that are stored; `undefined` for all.
 */
async function defaultPlatforms(
  parts: Parts,
  repository: Repository,
  root: Manifest,
): Promise<readonly Platform[] | undefined> {
  const configured = await configuredPlatforms(parts, repository, root.digest);
  if (configured !== undefined) return configured;
  const { metadata, blobs } = parts;
  const lookup = heldContent(repository, metadata, blob => blobs.open(blob));
  const held = await heldPlatforms(root, repository, parts, lookup);
  if (held !== undefined) await requireNoDamage(parts, repository, root, lookup);
  return held;
}

/** A platform that was stored before its content was damaged must not be omitted silently. */
async function requireNoDamage(
  { metadata }: Parts,
  repository: Repository,
  { mediaType, digest, bytes }: Manifest,
  lookup: ContentLookup,
): Promise<void> {
  const tree = await readContentTree({ mediaType, digest, size: bytes.byteLength }, { lookup });
  for (const content of [...tree.missing, ...tree.blobs]) {
    const damage = await metadata.readDamage(content.digest);
    if (damage === undefined) continue;
    const again = repository.upstream === '' ? 'push' : 'pull';
    throw new CommandError(
      `${repositoryText(repository)}@${digest} is incomplete: ${content.digest} is damaged (${damage.reason}); ` +
        `${again} it again, or select platforms with --platform`,
    );
  }
}

/**
 * The platforms that the configuration gives for a repository: those of its upstream and, if they are stored, those of
 * tenants and `runtimeHandlers`. `undefined` if there are none for the upstream.
 */
async function configuredPlatforms(
  parts: Parts,
  repository: Repository,
  digest: Digest,
): Promise<readonly Platform[] | undefined> {
  const { config, tenants } = parts;
  const upstream = config.upstreams.get(repository.upstream);
  const usual = upstream && repositoryOptions(upstream, repository.name).platforms;
  if (usual === undefined) return undefined;
  const ofTenants = tenants.list().flatMap(({ options }) => options.platforms ?? []);
  const special = [...Object.values(config.runtimeHandlers).flat(), ...ofTenants];
  const held: Platform[] = [];
  for (const platform of new Map(special.map(one => [formatPlatform(one), one])).values()) {
    const missing = await missingOfImage(parts, repository, digest, [platform]);
    if (missing.length === 0) held.push(platform);
  }
  return [...usual, ...held];
}
