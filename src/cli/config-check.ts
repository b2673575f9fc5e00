import { ConfigError, type Problem, pathText, problemText, shortValue } from '../config/problems.ts';
import { optionsWithoutEffect } from '../config/without-effect.ts';
import { silentLog } from '../lib/log.ts';
import { warningLine } from '../ops/command-log.ts';
import { CONFIG_OPTION, type Command, EXIT, jsonOption, printResult, wantsJson } from './command.ts';
import { configInForce } from './store-config.ts';

/** `entrepot config check`: lists all problems of a configuration. */
export const configCheck: Command = {
  name: 'config check',
  summary: 'check a configuration and list all problems',
  description:
    'Reads a configuration, and the passwords, certificates, keys and other files that it names, as serve does. ' +
    'Secrets of tenants, keys for S3, files of nodeConfig, images and files of prepull, and entries of ' +
    'preloadedImagesVerificationAllowlist that cannot be used are warnings: the server starts without them. Options ' +
    'that have no effect because of others are warnings, too. Without --config and $ENTREPOT_CONFIG it reads the ' +
    'configuration of the server that the same user runs on this machine, if any, as SIGHUP would.',
  options: [
    jsonOption(
      'valid, upstreams, problems and warnings (source, key, value, message of each; all except message may be null, and ' +
        'a long value is shortened to a text)',
    ),
    CONFIG_OPTION,
  ],
  examples: [['entrepot config check --config entrepot.yaml', 'exit code 0 if it is valid, 2 if not']],
  run: async (input, io) => {
    try {
      const config = await configInForce(input, io);
      const checks = await import('../compose/check-files.ts');
      await checks.checkFiles(config, silentLog);
      const upstreams = [...config.upstreams.keys()];
      const text = `The configuration is valid. It mirrors ${upstreams.join(', ')}.\n`;
      const warnings = [
        ...optionsWithoutEffect(config),
        ...(await checks.certificateWarnings(config)),
        ...(await checks.secretWarnings(config)),
        ...(await checks.bucketWarnings(config)),
        ...(await checks.nodeConfigWarnings(config)),
        ...checks.imageWarnings(config),
        ...(await checks.listWarnings(config)),
      ];
      for (const warning of warnings) io.err(warningLine(problemText(warning)));
      printResult(
        input,
        io,
        { valid: true, upstreams, problems: [], warnings: warnings.map(problemJson) },
        text,
      );
      return EXIT.done;
    } catch (error) {
      // As text, problems go to standard error like any error.
      if (error instanceof ConfigError && wantsJson(input)) {
        const problems = error.problems.map(problemJson);
        printResult(input, io, { valid: false, upstreams: [], problems, warnings: [] }, '');
      }
      throw error;
    }
  },
};

function problemJson({ path, value, message, source }: Problem): object {
  const key = path.length === 0 ? null : pathText(path);
  return { source: source ?? null, key, value: shortValue(value) ?? null, message };
}
