// Random histories of two processes on one store: clients read parts of layers and pull them whole, processes are stopped
// and killed, garbage is collected, content is evicted. They are compared with a model of what was fetched: no byte is
// fetched twice, none is wrong, none is lost. What may be fetched again is said where the model forgets it.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { access, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { FileSavedParts } from '../../src/blobs/file-parts.ts';
import { type Extent, Extents } from '../../src/lib/extents.ts';
import { Chance } from './chance.ts';
import { get, type Got } from './client.ts';
import { bytesOf, type Content, imageOf, randomBlob } from './content.ts';
import { Entrepot } from './entrepot.ts';
import { FakeUpstream } from './fake-upstream.ts';
import { until } from './programs.ts';
import { runCommand } from './run-command.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const UPSTREAM = 'up.example';
const SIZE = 4 * MIB;
/** A whole pull that others come along with takes a second. */
const SLOW_BYTES_PER_S = 4 * MIB;
export const LAYERS = 4;
/** A whole pull fetches smaller pieces again, since a request of their own would cost more. */
const MIN_RANGE_BYTES = 17 * KIB;
const PROOF_BYTES = 4 * KIB;
/** A whole pull may have passed the beginning of a range before it sees that it is requested, where a machine is busy. */
const UNSEEN_BYTES = MIB;
const WITHIN_MS = 60_000;
/** Of each server's log, when something is found. */
const LINES_SHOWN = 30;

/** What the model knows of a layer. */
interface Known {
  readonly blob: Content;
  readonly tag: string;
  /** What is here of it, if it is not stored. */
  fetched: Extents;
  /** What of that each server has fetched itself. */
  by: Map<Entrepot, Extents>;
  isStored: boolean;
  /** Where upstream has sent a wrong byte, which the next whole pull finds out. */
  wrongAt: number | undefined;
  /** Whether it has: the other server may keep the wrong byte until it has ended. */
  wasWrong: boolean;
}

export class RangeHistory {
  readonly #chance: Chance;
  readonly #all: readonly Known[];
  readonly #store: string;
  readonly #evicting: string;
  readonly #upstream: FakeUpstream;
  readonly #servers: Entrepot[];

  private constructor(
    seed: number,
    all: readonly Known[],
    { upstream, servers }: { readonly upstream: FakeUpstream; readonly servers: Entrepot[] },
  ) {
    this.#chance = new Chance(seed);
    this.#all = all;
    this.#upstream = upstream;
    this.#servers = servers;
    this.#store = join(this.#first.folder, 'store');
    this.#evicting = join(this.#first.folder, 'evicting.yaml');
  }

  static async begin(seed: number): Promise<RangeHistory> {
    const upstream = await FakeUpstream.start();
    const config = { upstreams: { [UPSTREAM]: { url: upstream.url } }, pulls: { completeRanged: 'never' } };
    const first = await Entrepot.start(config);
    const storage = { path: join(first.folder, 'store') };
    const servers = [first, await Entrepot.start({ ...config, storage })];
    const all = Array.from({ length: LAYERS }, (_, at): Known => {
      const blob = randomBlob(SIZE, `${seed} ${at}`);
      upstream.add('app', imageOf([blob]), `v${at}`);
      const nothing = { fetched: new Extents(), by: new Map(), isStored: false };
      return { blob, tag: `v${at}`, ...nothing, wrongAt: undefined, wasWrong: false };
    });
    const history = new RangeHistory(seed, all, { upstream, servers });
    await writeFile(history.#evicting, stringify({ ...config, storage: { ...storage, maxBytes: '1KiB' } }));
    await history.#pullManifests();
    return history;
  }

  async step(): Promise<void> {
    const server = this.#chance.pick(this.#servers);
    const known = this.#chance.pick(this.#all);
    const range = () => this.#range(server, known);
    const ranges = () => this.#ranges(known);
    const others = [
      () => this.#pull(server, known),
      () => this.#pullBeside(server, known),
      () => this.#pullBehind(server, known),
      () => this.#purge(known),
      () => this.#collect(),
      () => this.#evict(),
      () => this.#stop(server),
      () => this.#killSaved(server),
      () => this.#kill(server),
      () => this.#killInside(server, known),
    ];
    try {
      await this.#chance.pick([range, range, range, range, ranges, ranges, ...others])();
    } catch (cause) {
      const states = this.#servers.map(
        one =>
          `${one.isRunning ? 'running' : 'ended'}:\n${one.logs().split('\n').slice(-LINES_SHOWN).join('\n')}`,
      );
      throw new Error(`${String(cause)}\n${states.join('\n')}`, { cause });
    }
  }

  /** Pulls everything whole. Returns how many of the layers are stored then. */
  async end(): Promise<number> {
    for (const known of this.#all) {
      for (let tries = 0; !known.isStored && tries < 2; tries += 1)
        await this.#pull(this.#chance.pick(this.#servers), known);
    }
    return this.#all.filter(({ isStored }) => isStored).length;
  }

  async remove(): Promise<void> {
    for (const server of this.#servers.slice(1)) await server.stop();
    await this.#first.remove();
    await this.#upstream.stop();
  }

  async #range(server: Entrepot, known: Known): Promise<void> {
    const wanted = this.#anyRange();
    const mayBeWrong = known.wrongAt === undefined && this.#chance.in(0.1);
    if (mayBeWrong) this.#upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, corruptByte: 5 });
    const got = await ask(server, known, wanted);
    this.#upstream.behave();
    const [first] = this.#account(known, server);
    if (mayBeWrong && first !== undefined) known.wrongAt = first.start + 5;
    requireRight(known, wanted, got);
  }

  /** Both servers at once. Who of them fetches what they both want is not known, so they are given the time to save it. */
  async #ranges(known: Known): Promise<void> {
    const wanted = Array.from({ length: 4 }, () => this.#anyRange());
    const got = await Promise.all(
      wanted.map((one, at) => ask(this.#servers[at % 2] as Entrepot, known, one)),
    );
    this.#account(known, undefined);
    for (const [at, one] of wanted.entries()) requireRight(known, one, got[at]);
    await this.#allSaved();
  }

  async #pull(server: Entrepot, known: Known): Promise<void> {
    const { blob } = known;
    const got = await get(urlOf(server, `blobs/${blob.digest}`));
    this.#account(known, server);
    const isRight = got.complete && got.status === 200 && got.sha256 === blob.digest.slice(7);
    assert.equal(isRight, known.wrongAt === undefined);
    if (!isRight) {
      // All of it is fetched anew: the process keeps none of what it had, and reads nothing of the other's.
      Object.assign(known, { ...NOTHING(), wasWrong: true });
      return this.#pull(server, known);
    }
    assert.ok(known.isStored || known.fetched.missing({ start: 0, end: SIZE }).length === 0);
    Object.assign(known, { ...NOTHING(), isStored: true });
    await this.#untilStored(server, known);
  }

  async #untilStored(server: Entrepot, { blob }: Known): Promise<void> {
    await until('it to be stored', WITHIN_MS, async () => {
      const { headers } = await get(urlOf(server, `blobs/${blob.digest}`));
      return headers['cache-status'] === 'entrepot; hit';
    });
    this.#upstream.requests.length = 0;
  }

  /** Either server reads what a whole pull has fetched by then, and fetches none of it. */
  async #pullBeside(server: Entrepot, known: Known): Promise<void> {
    if (known.isStored || known.wrongAt !== undefined) return;
    this.#upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, bytesPerS: SLOW_BYTES_PER_S });
    const pulling = this.#pull(server, known);
    const hasEnded = { now: false };
    void pulling.finally(() => (hasEnded.now = true)).catch(() => {});
    let there = 0;
    await until('it to be fetched', WITHIN_MS, async () => {
      there = await this.#lengthOf(known.blob);
      return hasEnded.now || there > 2 * MIN_RANGE_BYTES;
    });
    const start = this.#chance.below(MIN_RANGE_BYTES);
    const wanted = { start, end: Math.max(there, start + MIN_RANGE_BYTES) };
    requireRight(known, wanted, await ask(this.#chance.pick(this.#servers), known, wanted));
    await pulling;
    this.#upstream.behave();
  }

  /**
   * Either server fetches a range far ahead of a whole pull, which leaves it out. Its response, which asked for everything, is
   * ended there: so what counts is what both have received.
   */
  async #pullBehind(server: Entrepot, known: Known): Promise<void> {
    if (known.isStored || known.wrongAt !== undefined) return;
    await this.#allSaved();
    const missing = SIZE - known.fetched.bytes;
    const before = await this.#received();
    this.#upstream.misbehave({ kind: 'blob', method: 'GET', bytesPerS: SLOW_BYTES_PER_S });
    const pulling = get(urlOf(server, `blobs/${known.blob.digest}`));
    const hasEnded = { now: false };
    void pulling.then(() => (hasEnded.now = true));
    let there = 0;
    await until('it to be fetched', WITHIN_MS, async () => {
      there = await this.#lengthOf(known.blob);
      return hasEnded.now || there > 0;
    });
    const wanted = { start: there + MIB, end: SIZE };
    if (there < SIZE / 2 && !hasEnded.now)
      requireRight(known, wanted, await ask(this.#chance.pick(this.#servers), known, wanted));
    requireRight(known, { start: 0, end: SIZE }, await pulling, 200);
    await this.#untilStored(server, known);
    this.#upstream.behave();
    const twice = (await this.#received()) - before - missing;
    assert.ok(twice >= 0 && twice <= UNSEEN_BYTES, `${twice} bytes were fetched twice`);
    Object.assign(known, { ...NOTHING(), isStored: true });
  }

  /** How many bytes of blobs both servers have received since they were started. */
  async #received(): Promise<number> {
    const texts = await Promise.all(this.#servers.map(server => server.metrics()));
    const name = 'entrepot_bytes_from_upstream_total';
    return texts.reduce((sum, text) => {
      const value = new RegExp(`^${name}\\{.*\\} (\\d+)$`, 'm').exec(text)?.[1];
      return sum + Number(value ?? 0);
    }, 0);
  }

  async #purge(known: Known): Promise<void> {
    if (!known.isStored || known.wasWrong) return;
    await this.#first.command('rm', `${UPSTREAM}/app:${known.tag}`, '--purge');
    await this.#pullManifests();
    await this.#forgetRemoved([known]);
  }

  async #collect(): Promise<void> {
    assert.equal((await this.#first.command('gc')).code, 0);
  }

  /** Whatever eviction removes may be fetched again: stored layers, and ranges that no server has open. */
  async #evict(): Promise<void> {
    if (this.#all.some(({ wasWrong }) => wasWrong)) return;
    await this.#allSaved();
    await runCommand('gc', '--config', this.#evicting);
    await this.#pullManifests();
    await this.#forgetRemoved(this.#all);
  }

  async #stop(server: Entrepot): Promise<void> {
    await server.stop();
    await this.#startAgain(server);
    await this.#allSaved();
  }

  async #killSaved(server: Entrepot): Promise<void> {
    await this.#allSaved();
    await server.kill();
    await this.#startAgain(server);
    await this.#allSaved();
  }

  /** What the server has not saved may be fetched again. */
  async #kill(server: Entrepot): Promise<void> {
    await server.kill();
    await this.#forgetUnsaved(server);
    await this.#startAgain(server);
  }

  /** The same while it fetches something. */
  async #killInside(server: Entrepot, known: Known): Promise<void> {
    const start = this.#chance.below(SIZE / 2);
    this.#upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, bytesPerS: SLOW_BYTES_PER_S });
    const sentBefore = this.#upstream.bytesSent;
    const asking = ask(server, known, { start, end: SIZE }).catch(() => undefined);
    const hasEnded = { now: false };
    void asking.then(() => (hasEnded.now = true));
    const bytes = this.#chance.below(200 * KIB);
    await until(
      'it to be sent',
      WITHIN_MS,
      async () => hasEnded.now || this.#upstream.bytesSent - sentBefore > bytes,
    );
    await server.kill();
    await asking;
    this.#upstream.behave();
    this.#account(known, server);
    await this.#forgetUnsaved(server);
    await this.#startAgain(server);
  }

  get #first(): Entrepot {
    return this.#servers[0] as Entrepot;
  }

  #anyRange(): Extent {
    const start = this.#chance.below(SIZE - MIN_RANGE_BYTES);
    return { start, end: Math.min(SIZE, start + MIN_RANGE_BYTES + this.#chance.below(300 * KIB)) };
  }

  async #startAgain(server: Entrepot): Promise<void> {
    const again = await server.startAgain();
    this.#servers[this.#servers.indexOf(server)] = again;
    for (const { by } of this.#all) {
      by.set(again, by.get(server) ?? new Extents());
      by.delete(server);
    }
  }

  /** The right to the repository, and the names of its layers, are known from then on. */
  async #pullManifests(): Promise<void> {
    for (const server of this.#servers) {
      for (const { tag } of this.#all)
        assert.equal((await get(urlOf(server, `manifests/${tag}`))).status, 200);
    }
    this.#upstream.requests.length = 0;
  }

  /** Adds what was fetched of the layer, none of which may have been here. Returns it. */
  #account(known: Known, server: Entrepot | undefined): readonly Extent[] {
    const asked = this.#takeAsked(known.blob);
    for (const extent of asked) {
      assert.deepEqual(known.isStored ? [] : known.fetched.missing(extent), [extent]);
      known.fetched.add(extent);
      if (server === undefined) continue;
      const own = known.by.get(server) ?? new Extents();
      known.by.set(server, own);
      own.add(extent);
    }
    return asked;
  }

  /** What upstream was asked to send of the blob, by the requests that succeeded. */
  #takeAsked(blob: Content): readonly Extent[] {
    const asked = this.#upstream.requests.filter(
      ({ kind, method, reference, status }) =>
        kind === 'blob' && method === 'GET' && reference === blob.digest && status < 300,
    );
    this.#upstream.requests.length = 0;
    const extents = asked.map(({ headers }) => {
      const [, start = '0', end = ''] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '') ?? [];
      return { start: Number(start), end: end === '' ? blob.size : Number(end) + 1 };
    });
    // Three of them make upstream prove that the repository has a blob that another server downloads.
    return extents.filter(({ start, end }) => end - start !== PROOF_BYTES);
  }

  /** Waits until all that was fetched would be there after a crash. */
  async #allSaved(): Promise<void> {
    await until('all ranges to be saved', WITHIN_MS, async () => {
      for (const known of this.#all) if (!(await this.#isSaved(known, known.fetched))) return false;
      return true;
    });
  }

  async #isSaved({ blob, isStored }: Known, fetched: Extents): Promise<boolean> {
    const saved = isStored ? undefined : await this.#savedOf(blob);
    return saved === undefined || [...fetched].every(extent => saved.missing(extent).length === 0);
  }

  /** How much of it a whole pull has fetched. */
  async #lengthOf({ digest }: Content): Promise<number> {
    const ingests = join(this.#store, 'ingest');
    const names = (await readdir(ingests)).filter(
      name => name.includes(digest.slice(7)) && !name.endsWith('.parts'),
    );
    const sizes = names.map(name =>
      stat(join(ingests, name)).then(
        ({ size }) => size,
        () => 0,
      ),
    );
    return Math.max(0, ...(await Promise.all(sizes)));
  }

  async #savedOf({ digest }: Content): Promise<Extents> {
    const ingests = join(this.#store, 'ingest');
    const saved = new Extents();
    for (const name of await readdir(ingests)) {
      if (!name.endsWith('.parts') || !name.includes(digest.slice(7))) continue;
      const parts = await FileSavedParts.open(join(ingests, name), 0);
      for (const extent of parts?.extents ?? []) saved.add(extent);
      await parts?.close();
    }
    return saved;
  }

  /** After a removal: knows what is still there. */
  async #forgetRemoved(which: readonly Known[]): Promise<void> {
    for (const known of which) {
      const hex = known.blob.digest.slice(7);
      const path = join(this.#store, 'blobs', 'sha256', hex.slice(0, 2), hex);
      const isStored =
        known.isStored &&
        (await access(path).then(
          () => true,
          () => false,
        ));
      const fetched = isStored ? new Extents() : await this.#savedOf(known.blob);
      this.#forget(known, { isStored, fetched });
    }
  }

  /** After a crash: what the server alone had fetched and not saved is not known any more. */
  async #forgetUnsaved(server: Entrepot): Promise<void> {
    for (const known of this.#all) {
      if (known.isStored) continue;
      for (const [other, fetched] of known.by)
        if (other !== server) await until('it to be saved', WITHIN_MS, () => this.#isSaved(known, fetched));
      this.#forget(known, { isStored: false, fetched: await this.#savedOf(known.blob) });
    }
  }

  #forget(known: Known, { isStored, fetched }: Pick<Known, 'isStored' | 'fetched'>): void {
    const wrongAt = known.wrongAt ?? -1;
    const isWrong = (fetched.next(wrongAt)?.start ?? SIZE) <= wrongAt;
    const large = [...fetched].filter(({ start, end }) => end - start >= MIN_RANGE_BYTES);
    const isHere = { isStored, fetched: new Extents(large), by: new Map() };
    Object.assign(known, { ...isHere, wrongAt: isWrong ? wrongAt : undefined });
  }
}

const NOTHING = () => ({ fetched: new Extents(), by: new Map(), wrongAt: undefined });

function urlOf(server: Entrepot, path: string): string {
  return `${server.url}/v2/app/${path}?ns=${UPSTREAM}`;
}

function ask(server: Entrepot, { blob }: Known, { start, end }: Extent): Promise<Got> {
  return get(urlOf(server, `blobs/${blob.digest}`), { headers: { range: `bytes=${start}-${end - 1}` } });
}

function requireRight(
  { blob, wrongAt }: Known,
  { start, end }: Extent,
  got: Got | undefined,
  status: 200 | 206 = 206,
): void {
  if (got?.failure !== undefined) throw got.failure;
  assert.deepEqual([got?.status, got?.complete, got?.bytes], [status, true, end - start]);
  const right = createHash('sha256').update(bytesOf(blob).subarray(start, end)).digest('hex');
  const hasWrong = wrongAt !== undefined && start <= wrongAt && wrongAt < end;
  assert.equal(got?.sha256 === right, !hasWrong);
}
