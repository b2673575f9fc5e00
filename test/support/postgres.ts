// A real PostgreSQL, and pgbouncer in front of it.

import { chmod, chown, mkdir, rm, writeFile } from 'node:fs/promises';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Database } from '../../src/metadata/postgres/database.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { PostgresSession } from '../../src/metadata/postgres/session.ts';
import { cpuSecondsOf, Daemon, freePort, hasPrograms, run, tryRun } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

const DEBIAN = '/usr/lib/postgresql';

/** Where Debian puts the programs of the newest version; `undefined` if it is not installed. */
const PROGRAMS = debianPrograms();

export const HAS_POSTGRES = PROGRAMS !== undefined;
export const HAS_PGBOUNCER = HAS_POSTGRES && hasPrograms('pgbouncer');

const USER = 'entrepot';
const READY_MS = 60_000;

export interface PostgresOptions {
  /** Whether it writes to disk what it has committed. Default false, for speed. */
  readonly syncs?: boolean;
  /** Parameters of the server, such as `ssl = on`. */
  readonly parameters?: Readonly<Record<string, string>>;
}

/** A server with its data in a folder of its own. */
export class Postgres {
  readonly port: number;
  readonly #folder: string;
  readonly #syncs: boolean;
  readonly #parameters: Readonly<Record<string, string>>;
  #daemon: Daemon | undefined;
  #schemas = 0;

  private constructor(folder: string, port: number, { syncs = false, parameters = {} }: PostgresOptions) {
    this.#folder = folder;
    this.port = port;
    this.#syncs = syncs;
    this.#parameters = parameters;
  }

  static async start(options: PostgresOptions = {}): Promise<Postgres> {
    const folder = await makeTempFolder('postgres');
    await ownedByServer(folder);
    const postgres = new Postgres(folder, await freePort(), options);
    await run(
      ...asServer('initdb', [
        '--pgdata',
        join(folder, 'data'),
        '--username',
        USER,
        '--auth',
        'trust',
        '--encoding',
        'UTF8',
        '--locale',
        'C.UTF-8',
        '--no-sync',
      ]),
    );
    await postgres.begin();
    return postgres;
  }

  /** Starts it again after `stop` or `crash`; as a standby, it lets nobody write. */
  async begin({ isStandby = false } = {}): Promise<void> {
    const signal = join(this.#folder, 'data', 'standby.signal');
    await (isStandby ? writeFile(signal, '') : rm(signal, { force: true }));
    const parameters = {
      listen_addresses: '127.0.0.1',
      unix_socket_directories: '',
      max_connections: '200',
      fsync: this.#syncs ? 'on' : 'off',
      ...this.#parameters,
    };
    const set = Object.entries(parameters).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    const [program, args] = asServer('postgres', [
      '-D',
      join(this.#folder, 'data'),
      '-p',
      String(this.port),
      ...set,
    ]);
    this.#daemon = await Daemon.start({
      program,
      args,
      isReady: async () => {
        const [isReady, of] = asServer('pg_isready', ['--host', '127.0.0.1', '--port', String(this.port)]);
        return (await tryRun(isReady, of)).code === 0;
      },
      readyTimeoutMs: READY_MS,
      deathSignal: 'TERM',
    });
  }

  get daemon(): Daemon {
    if (this.#daemon === undefined) throw new Error('PostgreSQL is not running');
    return this.#daemon;
  }

  get isRunning(): boolean {
    return this.#daemon !== undefined;
  }

  /** A place for an index of its own. */
  settings(given: Partial<PostgresSettings> = {}): PostgresSettings {
    this.#schemas += 1;
    return {
      host: '127.0.0.1',
      port: this.port,
      database: 'postgres',
      user: USER,
      password: undefined,
      passwordFile: undefined,
      tls: undefined,
      poolSize: 8,
      schema: `index_${this.#schemas}`,
      ...given,
    };
  }

  /** Of the server, with the processes of the connections that are open. */
  cpuSeconds(): number {
    const { pid } = this.daemon;
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number);
    return [pid, ...children].reduce((sum, each) => sum + cpuSecondsOf(each), 0);
  }

  /** Ends at once, as on a shutdown of the machine: connections are cut. */
  stop(): Promise<void> {
    return this.#end('SIGINT');
  }

  /** Ends without writing anything more, as in a crash: it recovers when it is started again. */
  crash(): Promise<void> {
    return this.#end('SIGQUIT');
  }

  async remove(): Promise<void> {
    if (this.#daemon !== undefined) await this.stop();
    await removeFolder(this.#folder);
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const { daemon } = this;
    process.kill(daemon.pid, signal);
    await daemon.closed;
    this.#daemon = undefined;
  }
}

/** A pooler in transaction mode: each transaction may get another connection to the server. */
export class PgBouncer {
  readonly port: number;
  readonly #folder: string;
  readonly #daemon: Daemon;

  private constructor(folder: string, port: number, daemon: Daemon) {
    this.#folder = folder;
    this.port = port;
    this.#daemon = daemon;
  }

  /** `poolSize`: how many connections to the server. */
  static async start(postgres: Postgres, { poolSize = 6 }: { poolSize?: number } = {}): Promise<PgBouncer> {
    const folder = await makeTempFolder('pgbouncer');
    const port = await freePort();
    const file = join(folder, 'pgbouncer.ini');
    await writeFile(join(folder, 'users.txt'), `"${USER}" ""\n`);
    await writeFile(
      file,
      `[databases]
* = host=127.0.0.1 port=${postgres.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${join(folder, 'users.txt')}
pool_mode = transaction
default_pool_size = ${poolSize}
max_client_conn = 500
server_login_retry = 0
max_prepared_statements = 0
`,
    );
    await ownedByServer(folder);
    const [program, args] = asOther('pgbouncer', [file]);
    const daemon = await Daemon.start({
      program,
      args,
      isReady: async () => {
        const [isReady, of] = asServer('pg_isready', ['--host', '127.0.0.1', '--port', String(port)]);
        return (await tryRun(isReady, of)).code === 0;
      },
    });
    return new PgBouncer(folder, port, daemon);
  }

  async remove(): Promise<void> {
    await this.#daemon.stop();
    await removeFolder(this.#folder);
  }
}

/** The section of a configuration. */
export function inConfig({ host, port, database, user, schema, poolSize }: PostgresSettings) {
  return { url: `postgresql://${user}@${host}:${port}/${database}`, schema, poolSize };
}

/** Runs statements as a person would. `@` stands for the schema. */
export async function sql<Row>(
  settings: PostgresSettings,
  statements: string,
  { answerWithinMs = 60_000 }: { readonly answerWithinMs?: number } = {},
): Promise<readonly Row[]> {
  const database = new Database({ ...settings, poolSize: 1 });
  try {
    return await database.trying(client =>
      new PostgresSession(client, database.schema, answerWithinMs).rows<Row>(statements),
    );
  } finally {
    await database.close();
  }
}

/** Makes an index, which exists and no process has open, one in which nothing is stored: faster than a new one. */
export async function emptyIndex(settings: PostgresSettings): Promise<void> {
  const tables = await sql<{ name: string }>(
    settings,
    `SELECT tablename AS name FROM pg_tables
    WHERE schemaname = '${settings.schema}' AND tablename NOT IN ('schema_version', 'versions', 'totals')`,
  );
  // Without triggers, which would count.
  await sql(
    settings,
    `BEGIN; SET LOCAL session_replication_role = replica;
    ${tables.map(({ name }) => `DELETE FROM @${name};`).join(' ')}
    UPDATE @totals SET repositories = 0, manifests = 0, manifest_bytes = 0, blobs = 0, blob_bytes = 0;
    COMMIT`,
  );
}

function debianPrograms(): string | undefined {
  try {
    const newest = readdirSync(DEBIAN).toSorted((a, b) => Number(b) - Number(a))[0];
    return newest && join(DEBIAN, newest, 'bin');
  } catch {
    return undefined;
  }
}

function asServer(program: string, args: readonly string[]): [program: string, args: readonly string[]] {
  return asOther(join(PROGRAMS ?? '', program), args);
}

/** PostgreSQL and pgbouncer refuse to run as root. */
function asOther(program: string, args: readonly string[]): [program: string, args: readonly string[]] {
  if (process.getuid?.() !== 0) return [program, args];
  // A change of the user clears what the Daemon has asked for: the server ends at once when the tests die.
  const as = ['--reuid', 'postgres', '--regid', 'postgres', '--clear-groups', '--pdeathsig', 'QUIT'];
  return ['setpriv', [...as, program, ...args]];
}

async function ownedByServer(folder: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  await mkdir(folder, { recursive: true });
  await chmod(folder, 0o755);
  await giveToServer(folder);
}

/** Gives a file or folder to the user as whom the server runs. */
export async function giveToServer(path: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const [, , uid, gid] = /^postgres:([^:]*):(\d+):(\d+):/m.exec(readFileSync('/etc/passwd', 'utf8')) ?? [];
  await chown(path, Number(uid), Number(gid));
}
