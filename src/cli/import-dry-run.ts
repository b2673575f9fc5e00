import {
  type InspectedImage,
  type InspectOptions,
  inspectArchive,
  type Inspection,
} from '../archive/inspection.ts';
import type { Config } from '../config/config.ts';
import type { RepositoryResolver } from '../oci/repository-resolver.ts';
import { sizeText } from '../lib/units.ts';
import type { Parts } from '../compose/parts.ts';
import { repositoryResolverOf } from '../compose/repository-resolver.ts';
import { eachArchive, placementOf } from './archives.ts';
import { columnsText, countText } from './columns.ts';
import { CommandError, EXIT, type ExitCode, type Input, type Io, textOption, wantsJson } from './command.ts';
import { progressForm, ProgressView } from './progress.ts';
import { Renames } from './renames.ts';
import { configAndStore } from './store-config.ts';
import { tenantOption } from './tenant-option.ts';
import { withParts } from './with-parts.ts';

const HEADINGS = ['IMAGE', 'PLATFORMS', 'SIZE', 'NEW', 'STATE', 'DIGEST'] as const;

/** The store with which archives are compared, or an empty one if there is none. */
type Here = Pick<InspectOptions, 'metadata' | 'blobs' | 'quota'> & {
  readonly resolver: RepositoryResolver;
  readonly tenantName: string | undefined;
};

/** `entrepot import --dry-run`: lists the content of archives, and what importing them would do. */
export async function importDryRun(input: Input, io: Io, signal: AbortSignal): Promise<ExitCode> {
  const view = new ProgressView(io, progressForm({ json: false }));
  const { config, hasStore } = await configAndStore(input, io);
  const inspectAll = (here: Here) => {
    const renames = new Renames(input);
    const options = { ...placementOf(input, { ...here, renames }), ...here, signal };
    return eachArchive(input, io, { view, renames, signal }, async ({ file, entries, ...archive }) => {
      const inspection = await inspectArchive(entries, { ...options, ...archive });
      return {
        text: summaryText(inspection),
        isRefused: inspection.refusals.length > 0,
        tell: () => {
          io.err(refusalsText(inspection));
          io.out(wantsJson(input) ? jsonText(file, inspection) : tableText(inspection));
        },
      };
    });
  };
  if (hasStore) return withParts(input, view.io, parts => inspectAll(hereOf(parts, input)), { config });
  io.err(`there is no store in ${config.storage.path}: everything is new\n`);
  return inspectAll(nothingHere(config, input));
}

function hereOf(parts: Parts, input: Input): Here {
  const { metadata, blobs, quota, resolver } = parts;
  return { metadata, blobs, quota, resolver, tenantName: tenantOption(parts, input)?.name };
}

const nothing = async () => undefined;

/** Without a store, only the tenants of the configuration are known. */
function nothingHere(config: Config, input: Input): Here {
  const isTenant = (name: string) => config.tenants.some(tenant => tenant.name === name);
  const tenantName = textOption(input, 'tenant');
  if (tenantName !== undefined && !isTenant(tenantName))
    throw new CommandError(`there is no tenant named ${tenantName}`, EXIT.usage);
  return {
    metadata: { statBlob: nothing, readSetting: nothing, readTag: nothing, isLinked: async () => false },
    blobs: { stat: nothing, open: nothing },
    resolver: repositoryResolverOf(config, isTenant),
    tenantName,
  };
}

/** A row for each name that an image would have here; one for an image without a name. */
interface Row extends Omit<InspectedImage, 'places'> {
  /** `undefined` if the import would be refused. */
  readonly here: string | undefined;
  readonly state: 'new' | 'held' | 'replaces' | 'refused';
  readonly replaces: string | undefined;
}

function rowsOf({ images }: Inspection): readonly Row[] {
  return images.flatMap(({ places, ...image }): Row[] => {
    // Without a place it cannot be imported either, since the archive is refused as a whole.
    if (places.length === 0) return [{ ...image, here: undefined, state: 'refused', replaces: undefined }];
    return places.map(({ name, isHeld, replaces }) => {
      const usual = isHeld && image.newBytes === 0 ? 'held' : 'new';
      return { ...image, here: name, state: replaces === undefined ? usual : 'replaces', replaces };
    });
  });
}

function tableText(inspection: Inspection): string {
  const rows = rowsOf(inspection).map(row => [
    row.here ?? row.name ?? '-',
    row.platforms.join(' ') || '-',
    sizeText(row.bytes),
    sizeText(row.newBytes),
    row.replaces === undefined ? row.state : `replaces ${row.replaces}`,
    row.digest,
  ]);
  return columnsText(HEADINGS, rows);
}

function jsonText(file: string, inspection: Inspection): string {
  const lines = rowsOf(inspection).map(
    ({
      here = null,
      name = null,
      digest,
      platforms,
      bytes,
      newBytes,
      state,
      replaces = null,
      refusal = null,
    }) =>
      JSON.stringify({
        file,
        image: here,
        name,
        digest,
        platforms,
        bytes,
        newBytes,
        state,
        replaces,
        reason: refusal,
      }),
  );
  return lines.map(line => `${line}\n`).join('');
}

/** A bundle of a thousand images for another site has as many reasons. */
const MAX_REASONS = 20;

function summaryText({ images, bytes, newBytes, refusals }: Inspection): string {
  const [refusal, ...others] = refusals;
  if (others.length > 0) {
    const refused = images.filter(image => image.refusal !== undefined).length;
    return `would be refused because of ${refused} of its ${images.length} images`;
  }
  if (refusal !== undefined) return `would be refused: ${refusal}`;
  return `${countText(images.length, 'image')}, ${sizeText(bytes)}, of which ${sizeText(newBytes)} would be new`;
}

/** A line for each reason if there are several; the summary has a single one. */
function refusalsText({ refusals }: Inspection): string {
  if (refusals.length < 2) return '';
  const lines = refusals.slice(0, MAX_REASONS).map(refusal => `  ${refusal}\n`);
  const more = refusals.length - lines.length;
  return lines.join('') + (more > 0 ? `  and ${more} more (--json: all)\n` : '');
}
