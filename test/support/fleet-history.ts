// Random histories of a fleet: tenants push, delete and pull, while its replicas are killed, suspended and cut off from
// what they need, and collect and evict by themselves.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Chance } from './chance.ts';
import { imageOf, randomBlob } from './content.ts';
import { FakeUpstream } from './fake-upstream.ts';
import { Fleet, type Replica, TROUBLES } from './fleet.ts';
import { FleetClient, type MirroredRepository } from './fleet-client.ts';
import { sql } from './postgres.ts';
import { until } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';
import { secretManifest } from './tenants.ts';

const UPSTREAM = 'up.example';
const HOST = 'fleet.example';
const TENANTS = ['team-a', 'team-b', 'team-c'] as const;
const REPOSITORIES = ['app', 'tools'] as const;
const REPLICAS = 3;
/** At a time. */
const TROUBLED = 2;
const GRACE_S = 40;
/** So little that mirrored content is evicted now and then. */
const MAX_BYTES = '6MB';
/** No criterion, only an end for what hangs. */
const HANG_MS = 180_000;
/** What the logs tell. */
const LOGGED = {
  evicted: /evicted content to make room/,
  'leases lost': /"lostLeases":[1-9]/,
  'considered dead': /had no heartbeat for so long/,
};
/** How often the same wrong contents of the bucket are found before they count. */
const MAX_TIMES = 8;

export interface FleetHistoryOptions {
  readonly seed: number;
  /** The longest that a replica is in trouble; it is considered dead after 5 s. */
  readonly maxTroubleMs: number;
}

/** Of the upstream, by their names, which are those of tenants. */
type Users = Readonly<Record<string, { readonly password: string; readonly repositories: string[] }>>;

export class FleetHistory {
  /** How often each kind of event was met. */
  readonly met = new Map<string, number>();
  readonly #folder: string;
  readonly #upstream: FakeUpstream;
  readonly #fleet: Fleet;
  readonly #clients: readonly FleetClient[];
  readonly #mirrored: ReadonlyMap<string, MirroredRepository>;
  readonly #users: Users;
  readonly #chance: Chance;
  readonly #maxTroubleMs: number;
  #isEnding = false;

  private constructor(
    { folder, upstream, fleet }: { folder: string; upstream: FakeUpstream; fleet: Fleet },
    mirrored: ReadonlyMap<string, MirroredRepository>,
    users: Users,
    { seed, maxTroubleMs }: FleetHistoryOptions,
  ) {
    this.#folder = folder;
    this.#upstream = upstream;
    this.#fleet = fleet;
    this.#mirrored = mirrored;
    this.#users = users;
    this.#chance = new Chance(seed);
    this.#maxTroubleMs = maxTroubleMs;
    const { replicas } = fleet;
    const met = (what: string) => this.#meet(what);
    const world = { replicas, mirrored, graceMs: GRACE_S * 1000, met, folder };
    this.#clients = TENANTS.flatMap((name, of) =>
      REPOSITORIES.map((repository, at) => {
        const as = { name, repository: `${name}/${repository}`, login: loginOf(name) };
        return new FleetClient(as, new Chance(seed + of * REPOSITORIES.length + at + 1), world);
      }),
    );
    for (const client of this.#clients) client.meet(this.#clients);
  }

  static async open(options: FleetHistoryOptions): Promise<FleetHistory> {
    const folder = await makeTempFolder('fleet-history');
    const users: Users = Object.fromEntries(
      TENANTS.map(name => [name, { password: `upstream of ${name}`, repositories: [`private/${name}`] }]),
    );
    const upstream = await FakeUpstream.start({
      auth: { scheme: 'bearer', users, public: ['library/open'] },
    });
    const mirrored = new Map<string, MirroredRepository>();
    for (const name of ['library/open', ...TENANTS.map(tenant => `private/${tenant}`)]) {
      const images = [1, 2, 3].map(at => imageOf([randomBlob(at * 200_000, `${name} ${at}`)]));
      images.forEach((image, at) => upstream.add(name, image, `v${at}`));
      const readers = TENANTS.filter(tenant => name === 'library/open' || name.endsWith(tenant));
      mirrored.set(`${UPSTREAM}/${name}`, { images, readers: new Set(readers) });
    }
    for (const name of TENANTS) {
      await mkdir(join(folder, name));
      const logins = { [HOST]: loginOf(name), [UPSTREAM]: [name, `upstream of ${name}`] as const };
      await writeFile(join(folder, name, 'pull.json'), secretManifest('pull', logins));
    }
    const fleet = await Fleet.start(REPLICAS, {
      storage: { maxBytes: MAX_BYTES },
      server: { serverNames: [HOST] },
      tenants: TENANTS.map(name => ({ name, secrets: join(folder, name) })),
      upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: '0s' } },
      upkeep: { gcInterval: '10s', gcGracePeriod: `${GRACE_S}s`, scrubInterval: false },
      log: { level: 'info' },
    });
    return new FleetHistory({ folder, upstream, fleet }, mirrored, users, options);
  }

  /** Goes on until `isOver` says so, or something has failed; then nothing is in trouble any more. */
  async run(isOver: () => boolean): Promise<void> {
    const troubles = TROUBLES.toSorted(() => this.#chance.next() - 0.5);
    const acts = [
      ...this.#clients.map(client => this.#repeat(() => client.act())),
      ...Array.from({ length: TROUBLED }, () =>
        this.#repeat(async () => {
          const trouble = troubles.shift();
          if (trouble === undefined) return;
          troubles.push(trouble);
          const free = this.#fleet.replicas.filter(replica => replica.trouble === undefined);
          await this.#trouble(this.#chance.pick(free), trouble);
        }),
      ),
      this.#repeat(async () => {
        await sleep(1_000);
        this.#isEnding ||= isOver();
      }),
      this.#repeat(async () => {
        await sleep(this.#chance.below(8_000));
        await this.#changeRights();
      }),
    ];
    const failures = (await Promise.allSettled(acts)).flatMap(end =>
      end.status === 'rejected' ? [end.reason as unknown] : [],
    );
    if (failures.length > 0) throw failures[0];
  }

  /** When all is healed: what was acknowledged is there, and the bucket has what is needed, object for object. */
  async expectSound(): Promise<void> {
    for (const replica of this.#fleet.replicas) {
      await until('a replica to be ready', HANG_MS, () => replica.isReady());
    }
    for (const [what, line] of Object.entries(LOGGED)) if (line.test(this.#logs())) this.#meet(what);
    for (const client of this.#clients) await client.settle();
    for (const client of this.#clients) await client.expectAll();
    for (const client of this.#clients) await client.push();
    for (const client of this.#clients) await client.expectAll();
    await this.#expectExactlyTheNeeded();
    for (const client of this.#clients) await client.expectAll();
  }

  async close(): Promise<void> {
    await this.#fleet.remove();
    await this.#upstream.stop();
    await removeFolder(this.#folder);
  }

  #logs(): string {
    return this.#fleet.replicas.map(({ server }) => server.logs()).join('\n');
  }

  async #expectExactlyTheNeeded(): Promise<void> {
    const { server } = this.#fleet.replicas[0]!;
    for (const name of this.#mirrored.keys()) await server.command('rm', name);
    const needed = new Set(
      this.#clients.flatMap(({ images }) => images).flatMap(({ config, layers }) => [config, ...layers]),
    );
    const digests = [...new Set([...needed].map(({ digest }) => digest as string))].toSorted();
    let [found, times] = ['', 0];
    // Leases of those that were killed last 5 s, and downloads go on behind their last reader.
    await until('the bucket to have what is needed', HANG_MS, async () => {
      const { code, stderr } = await server.command('gc', '--grace-period', '0s');
      if (stderr.includes('already collecting')) return false;
      if (code !== 0) throw new Error(`a collection when all was healed: ${stderr}`);
      const rows = await sql<{ digest: string; key: string }>(
        this.#fleet.settings,
        'SELECT digest, key FROM @blobs ORDER BY digest',
      );
      const wrong = differences({
        row: [digests, rows.map(({ digest }) => digest)],
        object: [rows.map(({ key }) => key), this.#fleet.s3.blobKeys()],
        upload: [[], [...this.#fleet.s3.uploads.values()].map(({ key }) => key)],
      });
      times = wrong === found ? times + 1 : 0;
      found = wrong;
      if (wrong !== '' && times === MAX_TIMES) throw new Error(`when all was healed: ${wrong}`);
      return wrong === '';
    });
  }

  async #repeat(act: () => Promise<void>): Promise<void> {
    try {
      while (!this.#isEnding) await act();
    } finally {
      this.#isEnding = true;
    }
  }

  async #trouble(replica: Replica, trouble: (typeof TROUBLES)[number]): Promise<void> {
    this.#meet(trouble);
    await replica.begin(trouble);
    const endMs = performance.now() + 2_000 + this.#chance.below(this.#maxTroubleMs - 2_000);
    while (!this.#isEnding && performance.now() < endMs) await sleep(200);
    await replica.end();
    await sleep(500 + this.#chance.below(2_000));
  }

  /** From now on, another tenant may pull what was private, or one may not any more. */
  async #changeRights(): Promise<void> {
    const [tenant, of] = [this.#chance.pick(TENANTS), this.#chance.pick(TENANTS)];
    const name = `private/${of}`;
    const { readers, images } = this.#mirrored.get(`${UPSTREAM}/${name}`)!;
    const { repositories } = this.#users[tenant]!;
    if (!readers.has(tenant)) {
      readers.add(tenant);
      repositories.push(name);
      this.#meet('granted');
      return;
    }
    repositories.splice(repositories.indexOf(name), 1);
    this.#upstream.revokeTokens();
    const client = this.#clients.find(each => each.name === tenant)!;
    await client.expectRefused(`${UPSTREAM}/${name}`);
    readers.delete(tenant);
    await client.expectForbidden(`${UPSTREAM}/${name}`, images);
    this.#meet('revoked');
  }

  #meet(what: string): void {
    this.met.set(what, (this.met.get(what) ?? 0) + 1);
  }
}

function loginOf(tenant: string): readonly [username: string, password: string] {
  return [`robot-${tenant}`, `password of ${tenant}`];
}

/** What is missing, and what should not be there, as text; '' if there is nothing. */
function differences(
  kinds: Readonly<Record<string, readonly [expected: readonly string[], actual: readonly string[]]>>,
): string {
  const lines = Object.entries(kinds).flatMap(([kind, [expected, actual]]) => [
    ...expected.filter(one => !actual.includes(one)).map(one => `no ${kind} ${one}`),
    ...actual.filter(one => !expected.includes(one)).map(one => `a needless ${kind} ${one}`),
  ]);
  return lines.join('; ');
}
