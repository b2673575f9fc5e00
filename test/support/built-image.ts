// The image of the Dockerfile. Building it takes minutes, so it is kept beside what else is expensive to make, and built
// again when something changed of which it is made, and always with RELEASE=1.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Dockerd } from './dockerd.ts';
import { debianWithNode, testCacheFolder } from './images.ts';
import { run } from './programs.ts';
import { removeFolder } from './temp-folder.ts';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
const BASE = 'node-on-debian';
const KEPT = /^entrepot-[0-9a-f]{12}\.tar$/;

/** Gives `docker` the image as `tag`. */
export async function loadBuiltImage(docker: Dockerd, tag: string): Promise<void> {
  const cache = testCacheFolder();
  const file = join(cache, `entrepot-${await sourcesKey()}.tar`);
  if (existsSync(file) && process.env['RELEASE'] !== '1') {
    await docker.run('load', '--quiet', '--input', file);
    await docker.run('tag', 'entrepot:kept', tag);
    return;
  }
  await docker.run('import', await debianWithNode(), BASE);
  const base = ['--network', 'host', '--build-arg', `BASE=${BASE}`];
  await docker.run('build', '--quiet', ...base, ...(await buildSecrets()), '--tag', tag, PROJECT);
  await docker.run('tag', tag, 'entrepot:kept');
  await docker.run('save', '--output', `${file}.${process.pid}`, 'entrepot:kept');
  for (const name of await readdir(cache)) {
    if (KEPT.test(name)) await removeFolder(join(cache, name));
  }
  await rename(`${file}.${process.pid}`, file);
}

/** Differs when one of the files differs that .dockerignore lets into the build, or one of the two that direct it. */
async function sourcesKey(): Promise<string> {
  const ignore = await readFile(join(PROJECT, '.dockerignore'), 'utf8');
  const lines = ignore.split('\n').filter(line => line !== '' && !line.startsWith('#'));
  const included = lines.filter(line => line.startsWith('!')).map(line => line.slice(1));
  const excluded = lines.filter(line => line.startsWith('**/')).map(line => `:(exclude,glob)${line}`);
  const named = ['Dockerfile', '.dockerignore', ...included, ...excluded];
  const listed = await run(
    'git',
    ['ls-files', '-z', '--cached', '--others', '--exclude-standard', '--', ...named],
    {
      cwd: PROJECT,
    },
  );
  const hash = createHash('sha256');
  for (const path of listed
    .split('\0')
    .filter(name => name !== '')
    .toSorted()) {
    const bytes = await readFile(join(PROJECT, path));
    hash.update(`${path}\0${bytes.byteLength}\0`).update(bytes);
  }
  return hash.digest('hex').slice(0, 12);
}

/** How this machine reaches npm's registry, where it has something to say about it. */
async function buildSecrets(): Promise<readonly string[]> {
  const files = {
    npmrc: (await run('npm', ['config', 'get', 'userconfig'])).trim(),
    ca: process.env['NODE_EXTRA_CA_CERTS'] ?? '/etc/ssl/certs/ca-certificates.crt',
  };
  return Object.entries(files)
    .filter(([, file]) => existsSync(file))
    .flatMap(([id, file]) => ['--secret', `id=${id},src=${file}`]);
}
