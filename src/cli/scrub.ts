import { parseSize, UnitError } from '../lib/units.ts';
import { sizeText } from './columns.ts';
import { type Command, CommandError, CONFIG_OPTION, EXIT, type Input, textOption } from './command.ts';
import { interruptible } from './interruptible.ts';
import { ProgressLine } from './progress-line.ts';
import { withParts } from './with-parts.ts';

/** `entrepot scrub`: read everything again. */
export const scrub: Command = {
  name: 'scrub',
  summary: 'compare everything that is held with its digest',
  description:
    'Reads everything again. Damaged mirrored content is removed, and downloaded again when it is asked for; damaged ' +
    'content of repositories that live here is refused from then on, until it is pushed again. Exit code 1 when ' +
    'anything was damaged. Works beside a running server.',
  options: [
    { flags: '--rate <size>', description: 'read so much a second (default: upkeep.scrubRate)' },
    { flags: '--dry-run', description: 'report damage, and change nothing' },
    CONFIG_OPTION,
  ],
  examples: [['entrepot scrub --rate 200MiB', 'check faster than the server does by itself']],
  run: (input, io) =>
    withParts(input, io, ({ metadata, upkeep }) =>
      interruptible(async signal => {
        const { blobBytes } = await metadata.readTotals();
        const progress = new ProgressLine(io, blobBytes);
        const report = await upkeep.scrub({
          dryRun: input.options['dryRun'] === true,
          signal,
          onProgress: progress.show.bind(progress),
          ...rate(input),
        });
        progress.end();
        if (report === undefined) {
          throw new CommandError('another process is scrubbing already');
        }
        for (const { kind, digest, reason, loss } of report.damaged) {
          io.out(`damaged: ${kind} ${digest}: ${reason}${loss === 'hosted' ? '; push it again' : ''}\n`);
        }
        const { checked, checkedBytes, damaged } = report;
        io.out(`checked ${checked} blobs, ${sizeText(checkedBytes)}: ${damaged.length} damaged\n`);
        return damaged.length > 0 ? EXIT.failed : EXIT.done;
      }),
    ),
};

function rate(input: Input): { bytesPerSecond?: number } {
  const text = textOption(input, 'rate');
  if (text === undefined) {
    return {};
  }
  try {
    return { bytesPerSecond: Math.max(1, parseSize(text)) };
  } catch (error) {
    throw error instanceof UnitError ? new CommandError(`--rate: ${error.message}`, EXIT.usage) : error;
  }
}
