// Images that stand in for those of docker-compose.replicas.yml, which cannot be pulled without a registry: PostgreSQL and
// haproxy are this machine's, copied with their libraries onto the image of Entrepot, which has Debian's shell and Node.
// The S3 is the one in memory: Ceph would be three daemons, and its gateway alone reads wrong bytes (ceph.sh).
import { existsSync } from 'node:fs';
import { chmod, cp, mkdir, readdir, realpath, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'rolldown';
import type { Dockerd } from './dockerd.ts';
import { run } from './programs.ts';

const POSTGRES = '/usr/lib/postgresql';
const POSTGRES_SHARE = '/usr/share/postgresql';
const HAPROXY = '/usr/sbin/haproxy';
const S3_SOURCE = fileURLToPath(new URL('fake-s3-service.ts', import.meta.url));

/** Debian's name and number of the user, as in the public image. */
const USERS = 'root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n';

/** What the public image does at its first start, and at each. */
const POSTGRES_ENTRYPOINT = `#!/bin/sh
set -eu
PGDATA=/var/lib/postgresql/data
if [ "$(id -u)" = 0 ]; then
  POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  export POSTGRES_PASSWORD
  chown 999:999 "$PGDATA" /var/run/postgresql
  exec setpriv --reuid 999 --regid 999 --clear-groups "$0"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  printf '%s' "$POSTGRES_PASSWORD" >/tmp/password
  initdb --pgdata "$PGDATA" --username "$POSTGRES_USER" --pwfile /tmp/password --auth scram-sha-256 \\
    --locale C.UTF-8 $POSTGRES_INITDB_ARGS
  rm /tmp/password
  echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c 'listen_addresses=*'
`;

/** Of wget what the health checks ask of it. */
const WGET = `#!/usr/bin/env node
fetch(process.argv.at(-1)).then(({ status }) => process.exit(status < 500 ? 0 : 1), () => process.exit(1));
`;

/** The variables of docker-compose.replicas.yml, with images that `docker` now has. `base` is the image of Entrepot. */
export async function buildServiceImages(
  docker: Dockerd,
  base: string,
  folder: string,
): Promise<Readonly<Record<string, string>>> {
  const [postgres, haproxy, s3] = await Promise.all([
    postgresFiles(join(folder, 'postgres')),
    haproxyFiles(join(folder, 'haproxy')),
    s3Files(join(folder, 's3')),
  ]);
  return {
    ENTREPOT_IMAGE: base,
    POSTGRES_IMAGE: await built(
      docker,
      base,
      postgres,
      'STOPSIGNAL SIGINT\nENTRYPOINT ["docker-entrypoint.sh"]',
    ),
    HAPROXY_IMAGE: await built(
      docker,
      base,
      haproxy,
      'USER 99:99\nENTRYPOINT []\nCMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]',
    ),
    S3_IMAGE: await built(docker, base, s3, 'ENTRYPOINT []'),
  };
}

/** An image with the files of a folder over those of `base`; its name. */
async function built(docker: Dockerd, base: string, folder: string, lines: string): Promise<string> {
  const name = `local/${basename(folder)}`;
  const file = [`FROM ${base}`, 'USER 0:0', 'COPY root /', 'WORKDIR /', lines, ''].join('\n');
  await writeFile(join(folder, 'Dockerfile'), file);
  await docker.run('build', '--quiet', '--network', 'none', '--tag', name, folder);
  return name;
}

async function postgresFiles(folder: string): Promise<string> {
  const root = join(folder, 'root');
  const version = (await readdir(POSTGRES)).toSorted((a, b) => Number(b) - Number(a))[0] ?? '';
  const own = join(POSTGRES, version);
  const programs = (await readdir(join(own, 'bin'))).map(name => join(own, 'bin', name));
  // Not the compiler for queries, which needs all of LLVM.
  const libraries = (await readdir(join(own, 'lib'))).filter(name =>
    /^(plpgsql|dict_snowball)\.so$/.test(name),
  );
  for (const file of libraries) await copied(root, join(own, 'lib', file));
  await copied(root, join(POSTGRES_SHARE, version));
  if (existsSync('/usr/share/zoneinfo')) await copied(root, '/usr/share/zoneinfo');
  await withLibraries(root, programs);
  await mkdir(join(root, 'usr/local/bin'), { recursive: true });
  for (const name of ['postgres', 'initdb', 'pg_isready']) {
    await script(root, name, `#!/bin/sh\nexec ${join(own, 'bin', name)} "$@"\n`);
  }
  await script(root, 'docker-entrypoint.sh', POSTGRES_ENTRYPOINT);
  await mkdir(join(root, 'etc'), { recursive: true });
  await writeFile(join(root, 'etc/passwd'), USERS);
  return folder;
}

async function haproxyFiles(folder: string): Promise<string> {
  const root = join(folder, 'root');
  await withLibraries(root, [HAPROXY]);
  await script(root, 'wget', WGET);
  return folder;
}

async function s3Files(folder: string): Promise<string> {
  const root = join(folder, 'root');
  const file = join(folder, 's3.mjs');
  await build({ input: S3_SOURCE, platform: 'node', output: { file, format: 'esm' }, logLevel: 'warn' });
  await mkdir(join(root, 'opt'), { recursive: true });
  await cp(file, join(root, 'opt/s3.mjs'));
  await script(root, 'versitygw', '#!/bin/sh\nexec node /opt/s3.mjs "$@"\n');
  await script(root, 'wget', WGET);
  return folder;
}

async function script(root: string, name: string, text: string): Promise<void> {
  const file = join(root, 'usr/local/bin', name);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, text);
  await chmod(file, 0o755);
}

/** Programs at their places, and what they load, at those that the folders of their places really are. */
async function withLibraries(root: string, programs: readonly string[]): Promise<void> {
  const listed = await run('ldd', programs);
  const paths = [...listed.matchAll(/ => (\/\S+) \(/g)].map(([, path = '']) => path);
  for (const path of new Set([...programs, ...paths])) await copied(root, path);
}

/** A file or folder, without the links on the way to it, under the name that it is loaded by. */
async function copied(root: string, path: string): Promise<void> {
  const to = join(root, await realpath(dirname(path)), basename(path));
  await mkdir(dirname(to), { recursive: true });
  await cp(path, to, { recursive: true, dereference: true });
}
