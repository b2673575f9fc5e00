import { readVersion } from '../compose/version.ts';
import { printResult, type Command, EXIT, jsonOption } from './command.ts';

/** `entrepot version`: prints versions, for bug reports. */
export const version: Command = {
  name: 'version',
  summary: 'print the versions of Entrepot and Node',
  options: [jsonOption('version, node, platform')],
  examples: [['entrepot version --json', 'for programs']],
  run: async (input, io) => {
    const own = readVersion();
    const platform = `${process.platform}/${process.arch}`;
    const text = `entrepot ${own}\nnode ${process.version}\n${platform}\n`;
    printResult(input, io, { version: own, node: process.version, platform }, text);
    return EXIT.done;
  },
};
