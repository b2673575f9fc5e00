// Replicas on one index and one bucket, each of which can be killed, suspended, or cut off from what it needs.
import { join } from 'node:path';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { get } from './client.ts';
import { Entrepot, type EntrepotConfig } from './entrepot.ts';
import { FakeS3 } from './fake-s3.ts';
import { Postgres } from './postgres.ts';
import { freePort, until } from './programs.ts';
import { replicaConfig } from './replica-config.ts';
import { TcpGate } from './tcp-gate.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

/** No criterion, only an end for what hangs. */
const HANG_MS = 180_000;

/** What can become of a replica. `replicas`: the others cannot reach it; it reaches them. */
export const TROUBLES = [
  'killed',
  'suspended',
  'database closed',
  'database silent',
  'bucket closed',
  'bucket silent',
  'replicas closed',
  'replicas silent',
] as const;
export type Trouble = (typeof TROUBLES)[number];

export class Replica {
  server: Entrepot;
  trouble: Trouble | undefined;
  /** How often it was cut off from the database: meanwhile it answers from what it remembers. */
  blindTimes = 0;
  readonly #gates: Readonly<Record<'database' | 'bucket' | 'replicas', TcpGate>>;

  constructor(server: Entrepot, gates: Replica['gates']) {
    this.server = server;
    this.#gates = gates;
  }

  get gates() {
    return this.#gates;
  }

  get isBlind(): boolean {
    return this.trouble?.startsWith('database') === true;
  }

  async begin(trouble: Trouble): Promise<void> {
    this.trouble = trouble;
    if (this.isBlind) this.blindTimes += 1;
    if (trouble === 'killed') return this.server.kill();
    if (trouble === 'suspended') return void process.kill(this.server.pid, 'SIGSTOP');
    const [gate, how] = trouble.split(' ') as ['database' | 'bucket' | 'replicas', 'closed' | 'silent'];
    this.#gates[gate].cut(how);
  }

  /** Ends its trouble, if it has any. */
  async end(): Promise<void> {
    const { trouble } = this;
    if (trouble === 'killed') this.server = await this.server.startAgain();
    else if (trouble === 'suspended') process.kill(this.server.pid, 'SIGCONT');
    else for (const gate of Object.values(this.#gates)) gate.heal();
    // Until it has noticed, it answers from what it remembers.
    if (this.isBlind) await until('the database to be reached', HANG_MS, () => this.isReady());
    this.trouble = undefined;
  }

  async isReady(): Promise<boolean> {
    return (await get(`${this.server.ops}/readyz`)).status === 200;
  }

  async remove(): Promise<void> {
    if (this.trouble === 'suspended') process.kill(this.server.pid, 'SIGCONT');
    await this.server.remove();
    await Promise.all(Object.values(this.#gates).map(gate => gate.close()));
  }
}

export class Fleet {
  readonly s3: FakeS3;
  readonly settings: PostgresSettings;
  readonly replicas: readonly Replica[];
  readonly #folder: string;
  readonly #postgres: Postgres;

  private constructor(
    folder: string,
    postgres: Postgres,
    { s3, settings, replicas }: Pick<Fleet, 's3' | 'settings' | 'replicas'>,
  ) {
    this.#folder = folder;
    this.#postgres = postgres;
    this.s3 = s3;
    this.settings = settings;
    this.replicas = replicas;
  }

  /** `config`: what all have besides index, bucket and each other. */
  static async start(count: number, config: EntrepotConfig): Promise<Fleet> {
    const folder = await makeTempFolder('fleet');
    const postgres = await Postgres.start();
    const settings = postgres.settings();
    const s3 = await FakeS3.start();
    const replicas: Replica[] = [];
    for (let at = 0; at < count; at += 1) {
      const listen = await freePort();
      const gates = {
        database: await TcpGate.open(postgres.port),
        bucket: await TcpGate.open(Number(new URL(s3.endpoint).port)),
        replicas: await TcpGate.open(listen),
      };
      const behind = { settings: { ...settings, port: gates.database.port }, s3, folder };
      const { index, storage, cluster } = await replicaConfig(behind);
      const server = await Entrepot.start({
        ...config,
        index,
        storage: {
          ...storage,
          ...config.storage,
          path: join(folder, `replica-${at}`),
          s3: { ...storage.s3, endpoint: `http://127.0.0.1:${gates.bucket.port}` },
        },
        cluster: {
          ...cluster,
          listen: `127.0.0.1:${listen}`,
          advertise: `127.0.0.1:${gates.replicas.port}`,
        },
      });
      replicas.push(new Replica(server, gates));
    }
    return new Fleet(folder, postgres, { s3, settings, replicas });
  }

  async remove(): Promise<void> {
    await Promise.all(this.replicas.map(replica => replica.remove()));
    await this.s3.close();
    await this.#postgres.remove();
    await removeFolder(this.#folder);
  }
}
