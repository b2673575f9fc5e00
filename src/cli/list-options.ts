import { OciError } from '../oci/errors.ts';
import { parsePlatform, type Platform } from '../oci/platform.ts';
import { CommandError, EXIT, type Input, type Option, textOption } from './command.ts';

/** `--platform`, as every command takes it that copies images. Commas, so that it can stand before them. */
export const PLATFORM_OPTION: Option = {
  flags: '--platform <list>',
  description: 'platforms, such as linux/amd64,linux/arm64 (default: those of the configuration)',
};

/** The values of an option that takes a list with commas. */
export function commaList(input: Input, name: string): readonly string[] {
  return (textOption(input, name) ?? '').split(',').filter(value => value !== '');
}

/** What `--platform` says; `undefined` when it is not there. */
export function platformsOption(input: Input): readonly Platform[] | undefined {
  const texts = commaList(input, 'platform');
  try {
    return texts.length === 0 ? undefined : texts.map(parsePlatform);
  } catch (error) {
    throw error instanceof OciError ? new CommandError(error.message, EXIT.usage) : error;
  }
}
