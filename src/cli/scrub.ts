import { parseRate, sizeText, UnitError } from '../lib/units.ts';
import { everything } from '../metadata/survey.ts';
import type { DamagedContent } from '../upkeep/quarantine.ts';
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

/** `entrepot scrub`: verifies all stored content. */
export const scrub: Command = {
  name: 'scrub',
  summary: 'verify all stored content against its digests',
  description:
    'Reads everything again. Damaged mirrored content is removed, and downloaded again when it is requested; damaged ' +
    'content of hosted repositories is refused until it is pushed again; what may not be read stays in use. Exit code 1 if ' +
    'anything is damaged, including hosted and pinned content that was found earlier and has not been replaced. Works beside a running server.',
  options: [
    { flags: '--rate <size>', description: 'read at this rate per second (default: upkeep.scrubRate)' },
    { flags: '--dry-run', description: 'report damage, and change nothing' },
    jsonOption(
      'a line with event (damaged), kind, digest, reason, hosted (null if it stays in use) for all damaged content; at the end one with event ' +
        '(summary), checked, checkedBytes, damaged, lost (found earlier and not replaced yet)',
    ),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot scrub --rate 200MiB', 'verify faster than the server does'],
    ['entrepot scrub --dry-run --json', 'report damage as JSON'],
  ],
  run: async (input, io) => {
    const pace = rate(input);
    return withUpkeep(
      input,
      io,
      async ({ metadata, survey, upkeep }, { out, expect, waitingFor, ...run }) => {
        expect((await metadata.readTotals()).blobBytes);
        const onDamaged = ({ kind, digest, reason, loss }: DamagedContent) =>
          printResult(
            input,
            { out },
            { event: 'damaged', kind, digest, reason, hosted: loss === undefined ? null : loss === 'hosted' },
            `damaged: ${kind} ${digest}: ${reason}${loss === undefined ? '' : REMEDY[loss]}\n`,
          );
        const report = await upkeep.scrub({ ...run, ...pace, onDamaged, onWait: waitingFor('scrubbing') });
        if (report === undefined) {
          throw new CommandError('another process is already scrubbing');
        }
        const { checked, checkedBytes, damaged } = report;
        const found = new Set(damaged.map(({ digest }) => digest));
        let lost = 0;
        for await (const contents of everything(after => survey.lost(after)))
          lost += contents.filter(({ digest }) => !found.has(digest)).length;
        const earlier =
          lost === 0 ? '' : `; ${lost} found earlier and not replaced yet (see entrepot images)`;
        printResult(
          input,
          { out },
          { event: 'summary', checked, checkedBytes, damaged: damaged.length, lost },
          `checked ${checked} blobs, ${sizeText(checkedBytes)}: ${damaged.length} damaged${earlier}\n`,
        );
        return damaged.length + lost > 0 ? EXIT.failed : EXIT.done;
      },
    );
  },
};

const REMEDY = {
  hosted: '; it is refused until it is pushed again',
  mirrored: '; it is downloaded again when it is requested',
} as const;

function rate(input: Input): { bytesPerSecond?: number } {
  const text = textOption(input, 'rate');
  if (text === undefined) {
    return {};
  }
  try {
    return { bytesPerSecond: parseRate(text) };
  } catch (error) {
    throw error instanceof UnitError ? new CommandError(`--rate: ${error.message}`, EXIT.usage) : error;
  }
}
