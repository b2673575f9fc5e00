// Configurations of replicas on this machine: a folder and ports each, one index, one bucket.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import type { FakeS3 } from './fake-s3.ts';
import { inConfig } from './postgres.ts';
import { freePort } from './programs.ts';

export interface SharedByReplicas {
  readonly settings: PostgresSettings;
  readonly s3: FakeS3;
  /** For files that the configurations name. */
  readonly folder: string;
}

/** What the next replica is started with. */
export async function replicaConfig({ settings, s3, folder }: SharedByReplicas) {
  const { endpoint, region, bucket, keys } = s3;
  const { accessKeyId, secretAccessKey } = keys;
  const credentialsFile = join(folder, 's3-keys');
  const text = `[default]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`;
  await writeFile(credentialsFile, text);
  const keyFile = join(folder, 'cluster-key');
  await writeFile(keyFile, 'a key of the cluster, long enough to use\n');
  const address = `127.0.0.1:${await freePort()}`;
  return {
    index: { postgres: inConfig(settings) },
    storage: {
      minFree: '1MiB',
      s3: {
        endpoint,
        region,
        bucket,
        prefix: 'entrepot/',
        pathStyle: true,
        credentials: 'file',
        credentialsFile,
      },
    },
    cluster: { listen: address, advertise: address, keyFile },
  };
}
