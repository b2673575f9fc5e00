import type { Config } from '../config/config.ts';
import { ConfigError } from '../config/problems.ts';
import { isCertificate, MAX_SETTING_FILE_BYTES, NO_CERTIFICATE } from '../config/secrets.ts';
import { requireTextFile, textFileTrouble } from '../lib/text-file.ts';

/** A key of the configuration, and the file that it names, if it is set. */
export interface NamedFile {
  readonly path: readonly string[];
  readonly file: string | undefined;
}

/** The content of the file; `undefined` if none is named. Throws ConfigError if it cannot be read. */
export async function readNamedFile(
  { path, file }: NamedFile,
  { origin }: Pick<Config, 'origin'>,
): Promise<string | undefined> {
  if (file === undefined) return undefined;
  try {
    return await requireTextFile(file, MAX_SETTING_FILE_BYTES);
  } catch (error) {
    const problem = { path, value: file, message: textFileTrouble(error), source: origin.sourceOf(path) };
    throw new ConfigError([problem]);
  }
}

/** As `readNamedFile`, for the certificates of CAs. */
export async function readAuthorities(
  named: NamedFile,
  config: Pick<Config, 'origin'>,
): Promise<string | undefined> {
  const text = await readNamedFile(named, config);
  if (text === undefined || isCertificate(text)) return text;
  const { path, file: value } = named;
  const source = config.origin.sourceOf(path);
  throw new ConfigError([{ path, value, message: NO_CERTIFICATE, source }]);
}
