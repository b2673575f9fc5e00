import { readFileSync } from 'node:fs';
import { answer, type Command, EXIT, jsonOption } from './command.ts';

/** `entrepot version`: for reports of faults. */
export const version: Command = {
  name: 'version',
  summary: 'print the versions of Entrepot and Node',
  options: [jsonOption('version, node, platform')],
  examples: [['entrepot version --json', 'for programs']],
  run: async (input, io) => {
    const own = readVersion();
    const platform = `${process.platform}/${process.arch}`;
    const text = `entrepot ${own}\nnode ${process.version}\n${platform}\n`;
    answer(input, io, { version: own, node: process.version, platform }, text);
    return EXIT.done;
  },
};

/** The version in package.json, which stands at the same distance from `src/cli` and `dist/cli`. */
export function readVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  const { version: own }: { version: string } = JSON.parse(text);
  return own;
}
