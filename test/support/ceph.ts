// A real S3: Ceph's gateway, in front of a cluster of one disk in memory.
import { randomBytes } from 'node:crypto';
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EMPTY_HASH, signedHeaders } from '../../src/blobs/s3/signature.ts';
import { answers, Daemon, freePort } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

export const CEPH_PROGRAMS: readonly string[] = [
  'ceph',
  'ceph-mon',
  'ceph-osd',
  'monmaptool',
  'radosgw',
  'radosgw-admin',
];

const SCRIPT = fileURLToPath(new URL('ceph.sh', import.meta.url));
/** That of a gateway without a name of its own for its zone group. */
const REGION = 'us-east-1';
const KEYS_FILE = 'keys';
/** A cluster begins with an election, and with pools that are made one by one. */
const READY_MS = 180_000;

export class Ceph {
  readonly endpoint: string;
  readonly bucket = 'registry';
  readonly keys: { readonly accessKeyId: string; readonly secretAccessKey: string };
  readonly #daemon: Daemon;
  readonly #folder: string;

  private constructor(daemon: Daemon, folder: string, endpoint: string, keys: Ceph['keys']) {
    this.#daemon = daemon;
    this.#folder = folder;
    this.endpoint = endpoint;
    this.keys = keys;
  }

  /** With one empty bucket. */
  static async start(): Promise<Ceph> {
    const folder = await makeTempFolder('ceph');
    const [port, monitor] = [await freePort(), await freePort()];
    const endpoint = `http://127.0.0.1:${port}`;
    const keys = { accessKeyId: 'ENTREPOTTESTS', secretAccessKey: randomBytes(20).toString('hex') };
    const daemon = await Daemon.start({
      program: 'bash',
      args: [SCRIPT, folder, String(port), String(monitor)],
      env: { S3_KEY: keys.accessKeyId, S3_SECRET: keys.secretAccessKey },
      isReady: () => answers(endpoint),
      readyTimeoutMs: READY_MS,
      deathSignal: 'TERM',
    });
    // Servers of other users read the keys.
    await chmod(folder, 0o755);
    const { accessKeyId, secretAccessKey } = keys;
    await writeFile(
      join(folder, KEYS_FILE),
      `[default]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`,
    );
    const ceph = new Ceph(daemon, folder, endpoint, keys);
    const url = new URL(`/${ceph.bucket}/`, endpoint);
    const request = {
      method: 'PUT',
      url,
      headers: {},
      payloadHash: EMPTY_HASH,
      service: 's3',
      atMs: Date.now(),
    };
    const made = await fetch(url, {
      method: 'PUT',
      headers: signedHeaders({ ...request, region: REGION }, keys),
    });
    if (!made.ok) throw new Error(`the bucket was not made: ${made.status} ${await made.text()}`);
    return ceph;
  }

  /** As the client's settings. */
  settings(prefix: string) {
    const { endpoint, bucket, keys } = this;
    return {
      endpoint,
      region: REGION,
      bucket,
      prefix,
      pathStyle: true,
      credentials: { from: 'env' as const, keys },
    };
  }

  /** As `storage.s3` of a configuration. */
  config(prefix: string) {
    const { endpoint, bucket } = this;
    const credentialsFile = join(this.#folder, KEYS_FILE);
    return { endpoint, bucket, prefix, pathStyle: true, credentials: 'file', credentialsFile };
  }

  async stop(): Promise<void> {
    await this.#daemon.stop();
    await removeFolder(this.#folder);
  }
}
