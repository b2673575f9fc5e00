import { loadConfig } from '../config/load.ts';
import { silentMeter } from '../lib/meter.ts';
import { createLogger } from '../ops/logger.ts';
import { type Command, CONFIG_OPTION, EXIT, textOption } from './command.ts';

/** `entrepot rm`: forget mirrored content. */
export const rm: Command = {
  name: 'rm',
  summary: 'forget mirrored content; the next pull fetches it again',
  arguments: [{ name: '<reference>', description: 'image reference, such as docker.io/library/nginx:1.27' }],
  options: [CONFIG_OPTION],
  examples: [['entrepot rm docker.io/library/nginx:1.27', 'forget this tag']],
  run: async (input, io) => {
    const [reference = ''] = input.arguments;
    const config = await loadConfig({ file: textOption(input, 'config') });
    const { log } = createLogger({ ...config.log, level: 'warn' });
    const { openParts } = await import('../wire.ts');
    const parts = await openParts(config, { log, meter: silentMeter });
    try {
      const wasHeld = await parts.remove(reference);
      io.out(`${reference}: ${wasHeld ? 'forgotten' : 'nothing of it is held'}\n`);
      return wasHeld ? EXIT.done : EXIT.failed;
    } finally {
      await parts.close();
    }
  },
};
