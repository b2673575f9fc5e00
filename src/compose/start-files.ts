import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config } from '../config/config.ts';
import { MAX_SETTING_FILE_BYTES } from '../config/secrets.ts';
import { requireTextFile } from '../lib/text-file.ts';

/** The keys of files, or folders of files, that are read once, when a server starts. */
function filesOf({ storage, index, credentialProviders }: Config): readonly (readonly [string, string])[] {
  const files = {
    'storage.s3.caFile': storage.s3?.caFile,
    'index.postgres.tls.caFile': index.postgres?.tls?.caFile,
    'credentialProviders.configFile': credentialProviders?.configFile,
  };
  return Object.entries(files).flatMap(([key, path]) => (path === undefined ? [] : [[key, path] as const]));
}

interface StartFile {
  readonly key: string;
  readonly path: string;
  /** As `contentOf` returns it. */
  readonly content: string;
}

/** What was in the files that a server reads when it starts and not again. */
export class StartFiles {
  readonly #files: readonly StartFile[];

  private constructor(files: readonly StartFile[]) {
    this.#files = files;
  }

  /** Call this when the server reads them. */
  static async read(config: Config): Promise<StartFiles> {
    const read = filesOf(config).map(async ([key, path]) => ({ key, path, content: await contentOf(path) }));
    return new StartFiles(await Promise.all(read));
  }

  /** The keys of those that have changed since. */
  async changed(): Promise<readonly string[]> {
    const found = this.#files.map(async ({ key, path, content }) =>
      (await contentOf(path)) === content ? [] : [key],
    );
    return (await Promise.all(found)).flat();
  }
}

/** A hash of a file, or of the files in a folder; for a file that cannot be read, of the reason. */
async function contentOf(path: string): Promise<string> {
  const names = await readdir(path).catch((): string[] => []);
  // Empty if it is not a folder, or cannot be listed.
  const paths = names.length === 0 ? [path] : names.sort().map(name => join(path, name));
  const hash = createHash('sha256');
  for (const each of paths) {
    const text = await requireTextFile(each, MAX_SETTING_FILE_BYTES).catch(String);
    hash.update(JSON.stringify([each, text]));
  }
  return hash.digest('hex');
}
