import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe } from 'vitest';
import { Registry } from '../conformance/registry.ts';
import { requirementsOf } from '../conformance/workflows.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { HAS_PGBOUNCER, PgBouncer, Postgres } from '../support/postgres.ts';
import { answers, Daemon, freePort, hasPrograms } from '../support/programs.ts';
import { replicaConfig } from '../support/replica-config.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const PREFIX = 'conformance';
const REPLICAS = 3;

/** Each request goes to another replica than the last one. */
async function startHaproxy(folder: string, replicas: readonly Entrepot[]): Promise<[Daemon, string]> {
  const port = await freePort();
  const servers = replicas.map(({ host }, at) => `  server replica${at} ${host}`);
  const file = join(folder, 'haproxy.cfg');
  await writeFile(
    file,
    `defaults
  mode http
  timeout connect 5s
  timeout client 5m
  timeout server 5m
frontend clients
  bind 127.0.0.1:${port}
  default_backend replicas
backend replicas
  balance roundrobin
${servers.join('\n')}
`,
  );
  const url = `http://127.0.0.1:${port}`;
  const args = ['-db', '-f', file];
  return [await Daemon.start({ program: 'haproxy', args, isReady: () => answers(`${url}/v2/`) }), url];
}

describe.skipIf(!HAS_PGBOUNCER || !hasPrograms('haproxy'))(
  'OCI distribution-spec 1.1, with three replicas behind haproxy and in front of pgbouncer',
  () => {
    let folder: string;
    let postgres: Postgres;
    let bouncer: PgBouncer;
    let s3: FakeS3;
    let proxy: Daemon;
    let url: string;
    const replicas: Entrepot[] = [];

    beforeAll(async () => {
      folder = await makeTempFolder('replicas');
      postgres = await Postgres.start();
      s3 = await FakeS3.start();
      bouncer = await PgBouncer.start(postgres);
      const settings = postgres.settings({ port: bouncer.port });
      for (let at = 0; at < REPLICAS; at += 1) {
        const hosted = { prefixes: [PREFIX], anonymous: 'push' };
        replicas.push(await Entrepot.start({ hosted, ...(await replicaConfig({ settings, s3, folder })) }));
      }
      [proxy, url] = await startHaproxy(folder, replicas);
    });

    afterAll(async () => {
      await proxy.stop();
      await Promise.all(replicas.map(replica => replica.remove()));
      await s3.close();
      await bouncer.remove();
      await postgres.remove();
      await removeFolder(folder);
    });

    requirementsOf(() => new Registry(url, PREFIX));
  },
);
