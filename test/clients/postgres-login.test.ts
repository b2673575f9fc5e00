// How the index logs in at a real PostgreSQL: TLS, SCRAM, and a password file that is replaced.
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { silentLog } from '../../src/lib/log.ts';
import { openPostgresMetadataStore } from '../../src/metadata/postgres-metadata-store.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { type Certificate, makeCertificate } from '../support/certificates.ts';
import { HAS_POSTGRES, giveToServer, Postgres, sql } from '../support/postgres.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const USER = 'app';
const BLOB = digestOf(Buffer.from('blob'));

describe.skipIf(!HAS_POSTGRES)('an index in a PostgreSQL that asks who connects', () => {
  let postgres: Postgres;
  let folder: string;
  let passwordFile: string;
  let certificate: Certificate;

  beforeAll(async () => {
    folder = await makeTempFolder('login');
    certificate = await makeCertificate(folder, 'server');
    await chmod(join(folder, 'server.key'), 0o600);
    await writeFile(
      join(folder, 'hba.conf'),
      `hostssl all ${USER} 127.0.0.1/32 scram-sha-256\nhost all entrepot 127.0.0.1/32 trust\n`,
    );
    for (const name of ['', 'server.key', 'server.crt', 'hba.conf']) await giveToServer(join(folder, name));
    postgres = await Postgres.start({
      parameters: {
        ssl: 'on',
        ssl_cert_file: join(folder, 'server.crt'),
        ssl_key_file: join(folder, 'server.key'),
        hba_file: join(folder, 'hba.conf'),
        password_encryption: 'scram-sha-256',
      },
    });
    await sql(postgres.settings(), `CREATE ROLE ${USER} LOGIN PASSWORD 'first'`);
    await sql(postgres.settings(), `GRANT CREATE ON DATABASE postgres TO ${USER}`);
    passwordFile = join(folder, 'password');
    await writeFile(passwordFile, 'first\n');
  });

  afterAll(async () => {
    await postgres.remove();
    await removeFolder(folder);
  });

  const settings = (given: Partial<PostgresSettings> = {}) =>
    postgres.settings({ user: USER, passwordFile, tls: { ca: certificate.cert }, ...given });

  const open = (at: PostgresSettings) =>
    openPostgresMetadataStore(at, { log: silentLog, folder: { path: folder, id: 'folder' } });

  test('connects by TLS, and goes on with the password that is in the file then', async () => {
    const store = await open(settings());
    try {
      await store.putBlob(BLOB, 4);
      await sql(postgres.settings(), `ALTER ROLE ${USER} PASSWORD 'second'`);
      await writeFile(passwordFile, 'second\n');
      const ended = await sql(
        postgres.settings(),
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
        WHERE usename = '${USER}' AND ssl`,
      );
      expect(ended.length).toBeGreaterThan(0);
      expect(await store.statBlob(BLOB)).toEqual({ size: 4 });
    } finally {
      await store.close();
    }
  });

  test.each<[string, Partial<PostgresSettings>, string]>([
    ['without TLS', { tls: undefined }, '28000'],
    ['with other CAs', { tls: { ca: undefined } }, 'self-signed certificate'],
    ['by another name', { host: 'localhost' }, 'ERR_TLS_CERT_ALTNAME_INVALID'],
    [
      'with a wrong password',
      { passwordFile: undefined, password: 'wrong' },
      'password authentication failed',
    ],
    ['without its password file', { passwordFile: '/none' }, 'the password file cannot be read (ENOENT)'],
  ])('says what is wrong %s', async (_, given, reason) => {
    await expect(open(settings(given))).rejects.toThrow(reason);
  });
});
