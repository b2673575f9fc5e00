// Where the stores of tests have their blobs: with TEST_STORAGE=s3 in a bucket of the fake S3, with TEST_STORAGE=ceph in
// one of Ceph, which the whole run shares, and otherwise in their folders.
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Ceph } from './ceph.ts';
import { FakeS3 } from './fake-s3.ts';

const STORAGE = process.env['TEST_STORAGE'] ?? '';
/** Says how Ceph is reached, to the processes of the tests. */
const CEPH = 'TEST_CEPH';

let fake: Promise<FakeS3> | undefined;

/** The `storage` of a configuration for the store at `path`, which has a prefix of its own; `folder`: of the configuration. */
export async function storageOf(path: string, folder: string): Promise<object> {
  const prefix = `${createHash('sha256').update(path).digest('hex').slice(0, 16)}/`;
  if (STORAGE === 'ceph') return { s3: { ...JSON.parse(process.env[CEPH] ?? '{}'), prefix } };
  if (STORAGE !== 's3') return {};
  const { endpoint, region, bucket, keys } = await (fake ??= FakeS3.start());
  const credentialsFile = join(folder, 's3-keys');
  const { accessKeyId, secretAccessKey } = keys;
  const text = `[default]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`;
  await writeFile(credentialsFile, text);
  return {
    s3: { endpoint, region, bucket, prefix, pathStyle: true, credentials: 'file', credentialsFile },
  };
}

/** Vitest's global setup. */
export async function setup(): Promise<(() => Promise<void>) | undefined> {
  if (STORAGE !== 'ceph') return undefined;
  const ceph = await Ceph.start();
  process.env[CEPH] = JSON.stringify(ceph.config(''));
  return () => ceph.stop();
}
