import { readFile } from 'node:fs/promises';
import type { Config } from '../config/config.ts';
import { ConfigError } from '../config/problems.ts';
import { isCertificate, NO_CERTIFICATE } from '../config/secrets.ts';
import { fileTrouble } from '../lib/file-trouble.ts';

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
    return await readFile(file, 'utf8');
  } catch (error) {
    const message = `cannot be read: ${fileTrouble(error)}`;
    throw new ConfigError([{ path, value: file, message, source: origin.sourceOf(path) }]);
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
