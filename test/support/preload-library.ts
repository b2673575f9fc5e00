// Small libraries in C that are loaded into the product by LD_PRELOAD, compiled at their first use.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, readFile, rename } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, parse } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hasPrograms, run } from './programs.ts';

const COMPILER = 'gcc';

/** Without a compiler there is no such library: tests that need one are skipped, with these words. */
export const canPreload = process.platform === 'linux' && hasPrograms(COMPILER);

const libraries = new Map<string, Promise<string>>();

/** The path of the library whose source lies beside this file; made once for each state of it. */
export function preloadLibrary(source: string): Promise<string> {
  let library = libraries.get(source);
  if (library === undefined) {
    library = compile(fileURLToPath(new URL(source, import.meta.url)));
    libraries.set(source, library);
  }
  return library;
}

async function compile(source: string): Promise<string> {
  const folder = join(process.env['TEST_CACHE'] ?? join(tmpdir(), 'entrepot-test-cache'), parse(source).name);
  await mkdir(folder, { recursive: true });
  const name = createHash('sha256').update(readFileSync(source)).digest('hex').slice(0, 16);
  const made = join(folder, `${name}.so`);
  const fresh = join(folder, `${name}.${process.pid}.so`);
  if (await readFile(made).catch(() => undefined)) return made;
  const options = ['-shared', '-fPIC', '-O2', '-Wall', '-Werror', '-o', fresh, source, '-ldl', '-lpthread'];
  await run(COMPILER, options);
  await rename(fresh, made);
  return made;
}
