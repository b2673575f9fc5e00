import {
  COLLECTING,
  collectGarbage,
  contentBytes,
  EXCEEDED,
  freedBytes,
  garbageDocument,
  type GarbageReport,
} from '../admin/garbage.ts';
import { parseDuration, sizeText, UnitError } from '../lib/units.ts';
import { CollectingStopped } from '../upkeep/collecting-stopped.ts';
import { countText } from './columns.ts';
import {
  printResult,
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type Input,
  jsonOption,
  textOption,
} from './command.ts';
import { withUpkeep } from './upkeep-run.ts';

/** `entrepot gc`: collects garbage and evicts. */
export const gc: Command = {
  name: 'gc',
  summary: 'collect garbage, and shrink the store to its limits',
  description:
    'Removes what is no longer needed: content of deleted manifests, pushes and downloads that were not resumed ' +
    'within upkeep.keepUnfinishedFor, files left by a crash; then, if the store exceeds storage.maxBytes or ' +
    'less of the disk is free than storage.minFree, content that no repository has any more, followed by the least ' +
    'recently used mirrored content. Works beside a running server, which keeps serving and accepting pushes.',
  options: [
    { flags: '--dry-run', description: 'show what would be removed, and remove nothing' },
    {
      flags: '--grace-period <duration>',
      description: 'keep what was created or used within this time (default: upkeep.gcGracePeriod)',
    },
    {
      flags: '--force',
      description: 'collect even if the index may be incomplete: content that it does not know is removed',
    },
    jsonOption(
      'dryRun, freedBytes; of manifests, blobs, uploads, unfinished, strays, evicted the items and bytes (evicted is null ' +
        'while another process makes room); links; stuckAt (maxBytes, minFree or null)',
    ),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot gc --dry-run', 'show what would be freed'],
    ['entrepot gc --grace-period 0s', 'free what was just deleted; not during a push'],
  ],
  run: async (input, io) => {
    const period = gracePeriod(input);
    const force = input.options['force'] === true;
    return withUpkeep(input, io, async ({ upkeep }, { out, waitingFor, ...run }) => {
      const report = await collectGarbage(upkeep, { ...run, ...period, force, waitingFor }).catch(
        (error: unknown) => {
          throw error instanceof CollectingStopped
            ? new CommandError(`no garbage is collected: ${error.message}`)
            : error;
        },
      );
      if (report === undefined) throw new CommandError(`another process is already ${COLLECTING}`);
      const { evicted } = report;
      // In a dry run it is not known, since eviction would remove some of it.
      const graced =
        evicted?.stuckAt === undefined || run.dryRun
          ? undefined
          : await upkeep.collect({ signal: run.signal, dryRun: true, gracePeriodMs: 0, force });
      const gracedBytes = graced && contentBytes(graced);
      const text = reportText(report, { dryRun: run.dryRun, gracedBytes });
      printResult(input, { out }, garbageDocument(report, run.dryRun), text);
      return EXIT.done;
    });
  },
};

function gracePeriod(input: Input): { gracePeriodMs?: number } {
  const text = textOption(input, 'gracePeriod');
  if (text === undefined) {
    return {};
  }
  try {
    return { gracePeriodMs: parseDuration(text) };
  } catch (error) {
    throw error instanceof UnitError
      ? new CommandError(`--grace-period: ${error.message}`, EXIT.usage)
      : error;
  }
}

/** `gracedBytes`: what is kept only for the grace period, if that is known. */
function whyKept(gracedBytes: number | undefined): string {
  if (gracedBytes === undefined) {
    return ', and the rest is pinned, hosted, in use, or kept for upkeep.gcGracePeriod';
  }
  return gracedBytes === 0
    ? ', and the rest is pinned, hosted, or in use'
    : `; ${sizeText(gracedBytes)} is kept only for upkeep.gcGracePeriod: ` +
        '`entrepot gc --grace-period 0s` frees it (not during a push)';
}

/** `evicted` is `undefined` if another process is evicting. What was collected is reported nevertheless. */
export function reportText(
  report: GarbageReport,
  { dryRun, gracedBytes }: { readonly dryRun: boolean; readonly gracedBytes: number | undefined },
): string {
  const { collected, evicted } = report;
  const { uploads, unfinished, links, manifests, blobs, strays } = collected;
  const counts = [
    [manifests, countText(manifests.items, 'manifest')],
    [blobs, countText(blobs.items, 'blob')],
    [uploads, countText(uploads.items, 'upload session')],
    [unfinished, countText(unfinished.items, 'unfinished transfer')],
    [strays, `${countText(strays.items, 'file')} without a row`],
    [evicted ?? { items: 0, bytes: 0 }, `${evicted?.items ?? 0} evicted`],
  ] as const;
  const lines = counts
    .filter(([{ items }]) => items > 0)
    .map(([{ bytes }, text]) => `${text}, ${sizeText(bytes)}`);
  if (links > 0) {
    lines.push(`${countText(links, 'link')} of ${links === 1 ? 'a blob' : 'blobs'} that no manifest names`);
  }
  if (evicted === undefined) {
    lines.push('another process is already making room');
  } else if (evicted.stuckAt !== undefined) {
    lines.push(`${EXCEEDED[evicted.stuckAt]}${whyKept(gracedBytes)}`);
  }
  const bytes = freedBytes(report);
  const verb = dryRun ? 'would free' : 'freed';
  return [`${verb} ${sizeText(bytes)}`, ...lines.map(line => `  ${line}`)].map(line => `${line}\n`).join('');
}
