import { loadConfig } from '../config/load.ts';
import { silentMeter } from '../lib/meter.ts';
import { createLogger } from '../ops/logger.ts';
import { type Command, CONFIG_OPTION, EXIT, textOption } from './command.ts';

/** `entrepot refresh`: ask upstream now. */
export const refresh: Command = {
  name: 'refresh',
  summary: 'ask upstream for a tag now, and forget remembered failures',
  arguments: [{ name: '<reference>', description: 'image reference, such as docker.io/library/nginx:1.27' }],
  options: [CONFIG_OPTION],
  examples: [
    ['entrepot refresh docker.io/library/nginx:latest', 'fetch what the tag means now, if it has moved'],
    ['entrepot refresh ghcr.io/org/app:v2', 'after a push, end the wait for a remembered "not found"'],
  ],
  run: async (input, io) => {
    const [reference = ''] = input.arguments;
    const config = await loadConfig({ file: textOption(input, 'config') });
    const { log } = createLogger({ ...config.log, level: 'warn' });
    const { openParts } = await import('../wire.ts');
    const parts = await openParts(config, { log, meter: silentMeter });
    try {
      io.out(`${reference}: ${await parts.refresh(reference)}\n`);
      return EXIT.done;
    } finally {
      await parts.close();
    }
  },
};
