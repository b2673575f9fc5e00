#!/usr/bin/env node
// `entrepot credential-provider` as a single file for nodes: the build bundles everything that it needs.
import { credentialProvider } from './cli/credential-provider.ts';
import { EXIT } from './cli/command.ts';
import { Parser } from './cli/parser.ts';
import { readVersion } from './compose/version.ts';

const TEXT = {
  description: 'The image credential provider of Entrepot, for the kubelet.',
  version: readVersion(),
  groups: {},
  examples: credentialProvider.examples,
  exitCodes: '0 done, 1 failed, 2 wrong usage',
};

const IO = {
  out: (text: string) => void process.stdout.write(text),
  err: (text: string) => void process.stderr.write(text),
};

void main(process.argv.slice(2));

async function main(typed: readonly string[]): Promise<void> {
  const argv = typed[0] === '--version' ? typed : [credentialProvider.name, ...typed];
  try {
    process.exitCode = await new Parser(TEXT, [credentialProvider], IO).run(argv);
  } catch (error) {
    IO.err(`entrepot: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = EXIT.failed;
  }
}
