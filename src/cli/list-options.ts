import { OciError } from '../oci/errors.ts';
import { parsePlatform, type Platform } from '../oci/platform.ts';
import { CommandError, EXIT, type Input, type Option, textOption } from './command.ts';

/**
 * `--platform` and `--all-platforms`, for commands that copy images. `usual` describes the default. The list has
 * commas, so that references can follow it.
 */
export function platformOptions(usual: string): readonly Option[] {
  return [
    {
      flags: '--platform <list>',
      description: `platforms of multi-platform images, such as linux/amd64,linux/arm64 (default: ${usual})`,
    },
    { flags: '--all-platforms', description: 'all platforms of multi-platform images' },
  ];
}

/** The values of an option with a comma-separated list. */
export function commaList(input: Input, name: string): readonly string[] {
  return (textOption(input, name) ?? '').split(',').filter(value => value !== '');
}

/** The platforms that they give; `undefined` if neither option is used. */
export function platformsOption(input: Input): readonly Platform[] | 'all' | undefined {
  const texts = commaList(input, 'platform');
  const isAll = input.options['allPlatforms'] === true;
  if (isAll && texts.length > 0) {
    throw new CommandError('--platform and --all-platforms are mutually exclusive', EXIT.usage);
  }
  try {
    if (texts.length > 0) return texts.map(parsePlatform);
    return isAll ? 'all' : undefined;
  } catch (error) {
    throw error instanceof OciError ? new CommandError(error.message, EXIT.usage) : error;
  }
}
