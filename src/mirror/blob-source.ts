import type { BlobStore } from '../blobs/blob-store.ts';
import { isStorageClosed } from '../blobs/storage-full.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import { readerOfBytes } from '../lib/bytes-reader.ts';
import type { Clock } from '../lib/clock.ts';
import { type Extent, Extents } from '../lib/extents.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import { LATE, within } from '../lib/within.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type { BlobPullRead } from '../oci/pull-read.ts';
import type { BlobWant, Outcome, ServedBlob, ServedBlobStat } from '../oci/pull-source.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { ociErrorOf, UpstreamFailure } from '../upstream/failures.ts';
import type { HeldBytes } from './blob-proof.ts';
import type { Completion } from './fill/completion.ts';
import type { Contender } from './fill/contender.ts';
import type { DirectRanges } from './fill/direct-ranges.ts';
import { type Fill, wrongBytes } from './fill/fill.ts';
import type { FillRun, SeenLease } from './fill/fill-run.ts';
import type { Fills } from './fill/fills.ts';
import type { FirstRange, FirstRanges } from './fill/first-range.ts';
import type { PartialBlob } from './fill/partial-blob.ts';
import type { Partials, PartialUse } from './fill/partials.ts';
import { type Along, endsKeeping, RangeReader } from './fill/range-reader.ts';
import { type RangeAsker, RangesUnusable } from './fill/range-request.ts';
import { notHeld, type PullRuleOf, STALE_AFTER_MS } from './freshness.ts';
import type { Confirmed, Links } from './links.ts';
import { granteesOf, withPreload } from './preloads.ts';
import { StoredBlobChanged, type SetAsideIfDamaged, StoredCheck } from './stored-check.ts';
import { forbidsHeld } from './upstream-requests.ts';

/**
 * How long a reader that knows the size from a stored manifest waits for upstream's response. Until then a failure gets
 * its own status; afterwards it can only break off the body.
 */
const NAMED_SIZE_AFTER_MS = 5_000;

export interface BlobSourceOptions {
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly links: Links;
  readonly fills: Fills;
  readonly partials: Partials;
  readonly firstRanges: FirstRanges;
  readonly completion: Completion;
  readonly pullRuleOf: PullRuleOf;
  readonly setAsideIfDamaged: SetAsideIfDamaged;
  readonly clock: Clock;
  readonly meter: Meter;
  readonly log: Log;
}

/** What the index says about a blob, and the requester's right to it. */
interface BlobReading extends BlobPullRead {
  readonly right: Right;
  /** Whether it may be served without asking upstream. */
  readonly settled: boolean;
}

interface HeldBlob {
  readonly reader: BlobReader;
  /** Whether it is known to belong to the repository and the requester has proved a right to it. */
  readonly belongs: boolean;
}

/** A request for a blob that is not stored. */
interface Miss {
  readonly repository: Repository;
  readonly digest: Digest;
  readonly right: Right;
  /** Whether the right to this blob was proved before. */
  readonly settled: boolean;
  /** The size in the Link, if the blob belongs to the repository. */
  readonly linkedSize: number | undefined;
  /** By `Clock.monotonicMs`. */
  readonly startedMs: number;
  /** Absent if they have not been requested yet. */
  readonly readings?: Promise<FillReadings> | undefined;
}

/** What the index says about a blob when a Fill of it begins. */
interface FillReadings {
  /** The size in the Link, or in a manifest of the repository. */
  readonly namedSize: number | undefined;
  /** As `Fills.see`. */
  readonly seen: SeenLease | undefined;
}

/** What is known of a blob before ranges of it are read. */
interface RangesBeginning {
  /** Of the whole blob. */
  readonly size: number;
  /** If bytes came with the size. */
  readonly outcome?: Outcome;
  /** Keeps these bytes. */
  readonly keepIn?: (blob: PartialBlob) => Promise<void>;
}

/** Ranges of a blob that a client will read. */
interface WantedRanges {
  /** Of the whole blob. */
  readonly size: number;
  /** In the order in which they will be read. */
  readonly wanted: readonly Extent[];
  readonly asker: RangeAsker;
}

interface SizeWait {
  /** The size in a stored manifest that the requester has proved a right to. */
  readonly named: number | undefined;
  /** When the client's request began, by `Clock.monotonicMs`. */
  readonly sinceMs: number;
}

/**
 * No client waits longer for the head of a response (`http/limits.ts`), so afterwards it is no reason to continue a
 * Fill.
 */
const CLIENT_WAITS_MS = 20_000;

/**
 * How often a request opens a stored blob again because it has changed: once for its damage, once for that of a local copy,
 * and once if it is replaced meanwhile. Each time upstream is asked for some bytes.
 */
const MAX_REOPENINGS = 3;

/** Serves blobs of mirrored repositories: from the store if Link and right allow it, otherwise from a Fill. */
export class BlobSource {
  readonly #blobs: BlobStore;
  readonly #metadata: MetadataStore;
  readonly #links: Links;
  readonly #fills: Fills;
  readonly #partials: Partials;
  readonly #firstRanges: FirstRanges;
  readonly #completion: Completion;
  readonly #pullRuleOf: PullRuleOf;
  readonly #clock: Clock;
  readonly #meter: Meter;
  readonly #storedCheck: StoredCheck;
  readonly #namedSizes = new SingleFlight<number | undefined>();
  readonly #seenLeases = new SingleFlight<SeenLease | undefined>();

  constructor(options: BlobSourceOptions) {
    const {
      blobs,
      metadata,
      links,
      fills,
      partials,
      firstRanges,
      completion,
      pullRuleOf,
      clock,
      meter,
      log,
    } = options;
    this.#blobs = blobs;
    this.#metadata = metadata;
    this.#links = links;
    this.#fills = fills;
    this.#partials = partials;
    this.#firstRanges = firstRanges;
    this.#completion = completion;
    this.#pullRuleOf = pullRuleOf;
    this.#clock = clock;
    this.#meter = meter;
    this.#storedCheck = new StoredCheck(options.setAsideIfDamaged, log);
  }

  /** The size: from the Link if possible, otherwise by one HEAD to upstream. Never starts a Fill. */
  async stat(repository: Repository, digest: Digest, given: Right): Promise<ServedBlobStat> {
    const { right, linkedSize, settled } = await this.#readForPull(repository, digest, given);
    // A manifest can tell the size, too, but only upstream says that the blob belongs here.
    const here =
      (right.proved || settled ? linkedSize : undefined) ??
      (await this.#sizeOfParts({ repository, digest, right, settled }));
    if (here !== undefined) return { digest, size: here, outcome: 'hit', stored: true, upstreamMs: 0 };
    const startedMs = this.#clock.monotonicMs();
    const { size, outcome } = await this.#confirm(repository, digest, right, () =>
      this.#links.size(repository, digest, right),
    );
    if (size === undefined) {
      throw new OciError('UPSTREAM_INVALID', {
        message: 'upstream did not report the size of the blob',
        detail: { digest },
      });
    }
    return { digest, size, outcome, stored: false, upstreamMs: this.#clock.monotonicMs() - startedMs };
  }

  /** `want` as in `PullSource.openBlob`. */
  async open(repository: Repository, digest: Digest, given: Right, want?: BlobWant): Promise<ServedBlob> {
    for (let reopenings = 0; ; reopenings += 1) {
      try {
        return await this.#openNow(repository, digest, given, want);
      } catch (error) {
        if (!(error instanceof StoredBlobChanged) || reopenings === MAX_REOPENINGS) throw error;
      }
    }
  }

  /** As `open`. Rejects with `StoredBlobChanged` if the blob changed while upstream was asked about it. */
  async #openNow(
    repository: Repository,
    digest: Digest,
    given: Right,
    want: BlobWant | undefined,
  ): Promise<ServedBlob> {
    const read = await this.#readForPull(repository, digest, given);
    const { right, settled, linkedSize, storedSize } = read;
    const isMissing = storedSize === undefined && want === undefined;
    const readings = isMissing ? this.#readForFill(repository, digest, linkedSize) : undefined;
    // A failure is reported to whoever awaits it.
    readings?.catch(() => {});
    const held = await this.#openHeld(read, repository, digest, want);
    if (held === undefined) {
      const startedMs = this.#clock.monotonicMs();
      const miss = { repository, digest, right, settled, linkedSize, startedMs, readings };
      return (want && (await this.#openRanges(miss, want))) ?? this.#openFill(miss);
    }
    const { reader, belongs } = held;
    if (settled || belongs) {
      this.#metadata.noteUse(digest);
      return { digest, reader, outcome: 'hit', stored: true, upstreamMs: 0 };
    }
    const startedMs = this.#clock.monotonicMs();
    try {
      const bytes = this.#storedBytes(digest, reader.size);
      const { outcome } = await this.#confirm(repository, digest, right, () =>
        this.#links.confirm(repository, digest, right, bytes),
      );
      this.#metadata.noteUse(digest);
      return { digest, reader, outcome, stored: true, upstreamMs: this.#clock.monotonicMs() - startedMs };
    } catch (error) {
      await reader.close();
      throw error;
    }
  }

  async #readForPull(repository: Repository, digest: Digest, given: Right): Promise<BlobReading> {
    const grantees = granteesOf(given);
    const read =
      given.ahead?.takeBlob(repository, digest) ??
      (await this.#metadata.readBlobForPull(repository, digest, { grantees }));
    const right = withPreload(given, read.isPreloaded && grantees.length > 0);
    await this.#links.forgetEnded(repository, digest, right);
    const settled = read.linkedSize !== undefined && this.#links.covers(repository, digest, right);
    return { ...read, right, settled };
  }

  /** Stored bytes, to be compared with upstream's. */
  #storedBytes(digest: Digest, size: number): HeldBytes {
    let opened: BlobReader | undefined;
    return {
      size,
      length: size,
      isVerified: true,
      open: async () => (opened = await this.#reopen(digest)),
      check: async () => {
        await this.#storedCheck.requireIntact(digest);
        // A damaged copy may be gone, and another process, or a scrub, may have found the damage first.
        const present = await this.#reopen(digest);
        await present.close();
        if (present.origin !== opened?.origin) throw new StoredBlobChanged(digest);
      },
    };
  }

  /**
   * A reader of its own for a comparison with upstream, which may be shared, and may continue after the client has its
   * answer.
   */
  async #reopen(digest: Digest): Promise<BlobReader> {
    const reader = await this.#blobs.open(digest);
    if (reader === undefined) throw new StoredBlobChanged(digest);
    return reader;
  }

  /**
   * The stored blob, whichever repository it belongs to; a stored manifest only if it belongs to this one and the right
   * is proved. If the file of a row is missing or truncated, that is damage: the row stays, and a Fill for a requester
   * with a right replaces the file.
   */
  async #openHeld(
    { right, linkedSize, storedSize }: BlobReading,
    repository: Repository,
    digest: Digest,
    want: BlobWant | undefined,
  ): Promise<HeldBlob | undefined> {
    if (storedSize !== undefined) {
      const reader = await this.#blobs.open(digest, want && readOf(want, storedSize));
      if (reader?.size === storedSize) return { reader, belongs: false };
      await reader?.close();
    }
    if (!right.proved || linkedSize === undefined) return undefined;
    const manifest = await this.#metadata.readLinkedManifest(repository, digest);
    return manifest && { reader: readerOfBytes(manifest.bytes), belongs: true };
  }

  /**
   * Asks upstream about the right to a blob. The result is `stale` if upstream could not answer and an earlier proof is
   * accepted. Throws the client's error.
   */
  async #confirm(
    repository: Repository,
    digest: Digest,
    right: Right,
    ask: () => Promise<Confirmed<number | undefined>>,
  ): Promise<{ readonly size: number | undefined; readonly outcome: Outcome }> {
    const belongs = await this.#metadata.isLinked(repository, digest);
    const mayServeStale = belongs && (right.proved || right.provedIfUnreachable);
    const stale = async (): Promise<{ size: number | undefined; outcome: Outcome }> => ({
      size: await this.#metadata.namedSize(repository, digest),
      outcome: 'stale',
    });
    if (this.#isOffline(repository, right)) {
      if (mayServeStale) return stale();
      throw notHeld('BLOB_UNKNOWN', repository, digest);
    }
    try {
      const confirmed = mayServeStale ? await within(ask(), STALE_AFTER_MS, this.#clock) : await ask();
      if (confirmed !== LATE) {
        // A requester that had to prove its right first is told the same as for a first fetch, even if the bytes are
        // stored.
        const outcome = confirmed.joined ? 'joined' : mayServeStale ? 'revalidated' : 'miss';
        return { size: confirmed.size, outcome };
      }
    } catch (error) {
      if (!(error instanceof UpstreamFailure)) throw error;
      if (!mayServeStale || forbidsHeld(error)) throw ociErrorOf(error, 'BLOB_UNKNOWN', repository.upstream);
    }
    return stale();
  }

  /**
   * Some ranges of a blob that is not stored, requested from upstream as such, and kept if there is room. `undefined` if it has
   * to be downloaded as a whole: the client will read all of it, or upstream does not answer with ranges.
   */
  async #openRanges(miss: Miss, want: BlobWant): Promise<ServedBlob | undefined> {
    const { repository, digest, right, settled } = miss;
    const beginning = await this.#beginRanges(miss, want);
    if (beginning === undefined) return undefined;
    const { size } = beginning;
    const wanted = want(size);
    if (wanted === undefined || !isPartial(wanted, size)) return undefined;
    // Another replica downloads all of it.
    if (isRest(wanted, size) && (await this.#fills.see(repository.upstream, digest))?.lease?.elsewhere)
      return undefined;
    const ranges = { size, wanted, asker: { repository, right, settled } };
    try {
      const opened = await this.#partials.open(ranges.asker, digest, size);
      return opened && (await this.#openKept(miss, ranges, opened, beginning));
    } catch (error) {
      if (isStorageClosed(error)) return this.#openUnkept(miss, ranges, error);
      throw error;
    }
  }

  /** Ranges that are kept in `opened`. Rejects with the disk's error if there is no room for the first bytes. */
  async #openKept(
    miss: Miss,
    { size, wanted, asker }: WantedRanges,
    opened: PartialUse,
    beginning: RangesBeginning,
  ): Promise<ServedBlob> {
    const { repository, digest, right, startedMs } = miss;
    const { blob } = opened;
    await beginning.keepIn?.(blob).catch(() => {});
    const leave = (): void => {
      opened.leave();
      this.#completion.read(repository, right, blob);
    };
    const findAlong = async (missing: () => readonly Extent[]): Promise<Along | undefined> =>
      (await this.#along(miss, size)) ?? this.#alongElsewhere(miss, size, missing);
    const findWhole = async (): Promise<Along | 'stored' | undefined> => {
      if ((await this.#metadata.statBlob(digest)) !== undefined) return 'stored';
      return findAlong(() => wanted.flatMap(extent => blob.missing(extent)));
    };
    const unknown = wanted.flatMap(extent => blob.known.missing(extent));
    const along = await (unknown.length === 0 ? this.#along(miss, size) : findAlong(() => unknown));
    const instead = () => this.#openWhole(miss);
    const reader = new RangeReader({
      use: { blob, leave },
      wanted,
      asker,
      along,
      findWhole,
      instead: async failure =>
        isStorageClosed(failure)
          ? this.#fills.readRangesDirectly({ digest, size, wanted, asker, instead }, failure)
          : instead(),
    });
    const outcome =
      beginning.outcome ?? ({ nothing: 'hit', others: 'joined', requests: 'miss' } as const)[reader.needs];
    this.#completion.requested(repository, right, blob);
    this.#metadata.noteUse(digest);
    const whole = await this.#begun(miss, reader);
    if (whole !== undefined) return whole;
    const upstreamMs = outcome === 'hit' ? 0 : this.#clock.monotonicMs() - startedMs;
    // What a Fill brings is not among the parts if that is not stored.
    const stored =
      outcome === 'hit' ||
      ((await this.#partials.hasRoomFor(blob, wanted)) &&
        (along === undefined || (await this.#fills.hasRoomFor(along.fill, size))));
    return { digest, reader, outcome, stored, upstreamMs };
  }

  /** Ranges that there is no room to keep. `full`: the error that says so. */
  async #openUnkept(miss: Miss, ranges: WantedRanges, full: unknown): Promise<ServedBlob> {
    const { digest, startedMs } = miss;
    const instead = () => this.#openWhole(miss);
    const reader = this.#fills.readRangesDirectly({ digest, ...ranges, instead }, full);
    const whole = await this.#begun(miss, reader);
    if (whole !== undefined) return whole;
    const upstreamMs = this.#clock.monotonicMs() - startedMs;
    return { digest, reader, outcome: 'miss', stored: false, upstreamMs };
  }

  async #openWhole({ repository, digest, right }: Miss): Promise<BlobReader> {
    return (await this.open(repository, digest, right)).reader;
  }

  /**
   * Waits a while for the first byte, so that a failure gets its own status. Resolves with the whole blob if ranges of it
   * cannot be had, otherwise with `undefined`. Closes the reader if it resolves with the whole blob or rejects.
   */
  async #begun(
    { repository, digest, right }: Miss,
    reader: RangeReader | DirectRanges,
  ): Promise<ServedBlob | undefined> {
    try {
      await within(reader.begin(), NAMED_SIZE_AFTER_MS, this.#clock);
      return undefined;
    } catch (error) {
      await reader.close();
      if (error instanceof UpstreamFailure) throw ociErrorOf(error, 'BLOB_UNKNOWN', repository.upstream);
      if (error instanceof RangesUnusable && error.isIgnored)
        this.#partials.noteIgnored(repository.upstream, digest);
      if (endsKeeping(error) && !isStorageClosed(error)) return this.open(repository, digest, right);
      throw error;
    }
  }

  /**
   * Finds out the size, by which ranges are told apart: a requester whose right is proved has it from what is known of the
   * repository, or of the parts that are there. Otherwise upstream says it, with the first bytes that are wanted if
   * possible, and refuses who may not read the blob. `undefined` if no ranges can be had.
   */
  async #beginRanges(miss: Miss, want: BlobWant): Promise<RangesBeginning | undefined> {
    const { repository, digest, right, settled, linkedSize } = miss;
    if (this.#isOffline(repository, right)) return undefined;
    const isProved = right.proved || settled;
    const size =
      (isProved ? (linkedSize ?? (await this.#metadata.namedSize(repository, digest))) : undefined) ??
      (await this.#sizeOfParts(miss));
    if (size !== undefined) return { size };
    return this.#askForRanges(miss, want.first);
  }

  /** Asks upstream for the size, with the bytes of `first` if there is one and upstream answers with ranges. */
  async #askForRanges(miss: Miss, first: Extent | undefined): Promise<RangesBeginning | undefined> {
    const { repository, digest, right } = miss;
    let begun: FirstRange | undefined;
    const confirmed = await this.#confirm(repository, digest, right, async () => {
      begun = first && (await this.#firstRanges.ask(miss, first));
      return begun ?? this.#links.size(repository, digest, right);
    });
    const { size, outcome } = confirmed;
    // If upstream cannot be asked, it will send no ranges either.
    if (size === undefined || outcome === 'stale') return undefined;
    if (begun?.isIgnored === true) this.#partials.noteIgnored(repository.upstream, digest);
    if (begun?.isWhole === true) return undefined;
    return begun === undefined ? { size } : { size, outcome, keepIn: begun.keepIn };
  }

  /** The size according to parts that are there and that the requester may have without upstream being asked. */
  async #sizeOfParts({
    repository,
    digest,
    right,
    settled,
  }: Pick<Miss, 'repository' | 'digest' | 'right' | 'settled'>): Promise<number | undefined> {
    if (this.#isOffline(repository, right)) return undefined;
    const mayHave = right.proved || settled || this.#links.isPartGiven(repository, digest, right);
    return mayHave ? this.#partials.sizeOf({ repository, right, settled }, digest) : undefined;
  }

  /** The download of the whole blob that is in progress, if the requester may read it as it is. Never rejects. */
  async #along({ repository, digest, right, settled }: Miss, namedSize: number): Promise<Along | undefined> {
    const running = this.#fills.find(repository.upstream, digest);
    if (running === undefined) return undefined;
    const { fill, sharing } = running;
    const leave = fill.hold();
    const request = { repository, right, settled, namedSize };
    const joined = await sharing.join(request).catch(() => undefined);
    if (joined?.state === 'admitted') return { fill, leave };
    leave();
    return undefined;
  }

  /** The same in another process on the store, if that has some of the `missing` bytes, or soon. Never rejects. */
  async #alongElsewhere(
    { repository, digest, right, settled }: Miss,
    namedSize: number,
    missing: () => readonly Extent[],
  ): Promise<Along | undefined> {
    const request = { repository, right, settled, namedSize };
    return this.#fills.readAlong(digest, request, missing).catch(() => undefined);
  }

  /**
   * Reads both at the same time, and once for all clients that want the blob at the moment: each query may be a round trip.
   * The answers may be older than a client's request, since nothing is allowed or refused because of them.
   */
  async #readForFill(
    repository: Repository,
    digest: Digest,
    linkedSize: number | undefined,
  ): Promise<FillReadings> {
    const { upstream } = repository;
    const running = this.#fills.find(upstream, digest);
    const key = `${repositoryText(repository)}@${digest}`;
    const [namedSize, seen] = await Promise.all([
      linkedSize ??
        running?.sharing.namedSizeIn(repository) ??
        this.#namedSizes.run(key, () => this.#metadata.namedSize(repository, digest)).promise,
      running === undefined
        ? this.#seenLeases.run(`${upstream}@${digest}`, () => this.#fills.see(upstream, digest)).promise
        : undefined,
    ]);
    return { namedSize, seen };
  }

  async #openFill(miss: Miss): Promise<ServedBlob> {
    const { repository, digest, right, settled, linkedSize, startedMs } = miss;
    if (this.#isOffline(repository, right)) throw notHeld('BLOB_UNKNOWN', repository, digest);
    const readings = await (miss.readings ?? this.#readForFill(repository, digest, linkedSize));
    const { namedSize } = readings;
    let { seen } = readings;
    const request = { repository, right, settled, namedSize };
    for (;;) {
      const running = this.#fills.find(repository.upstream, digest);
      const run = running ?? this.#fills.start(digest, request, seen);
      seen = undefined;
      // Keeps the Fill readable until it is opened: it may end while upstream is asked.
      const leave = run.fill.hold();
      try {
        const joined = running ? await running.sharing.join(request) : run.sharing.starter;
        const contender =
          joined ?? (await this.#whileWaited(this.#shownIn(run, repository, right, namedSize), startedMs));
        if (contender === undefined) continue;
        if (running !== undefined) this.#meter.count('fills_joined_total');
        const reader = await this.#read(run, contender, {
          named: right.proved ? namedSize : undefined,
          sinceMs: startedMs,
        }).catch((error: unknown) => {
          // The Fill ran out of room before upstream had proved this requester's right: it makes a request of its own.
          if (running !== undefined && contender.state === 'refused' && isStorageClosed(run.fill.failure))
            return undefined;
          throw error;
        });
        if (reader === undefined) continue;
        const stored =
          !isStorageClosed(run.fill.failure) && (await this.#fills.hasRoomFor(run.fill, reader.size));
        this.#metadata.noteUse(digest);
        // A requester that had to prove its right first learns nothing of the Fills of others that a first fetch would
        // not tell.
        const outcome = running !== undefined && joined !== undefined ? 'joined' : 'miss';
        const upstreamMs = this.#clock.monotonicMs() - startedMs;
        return { digest, reader, outcome, stored, upstreamMs, unstored: run.unstored };
      } finally {
        leave();
      }
    }
  }

  /**
   * Joins a Fill that others started, for a requester to whom upstream proves that it has the same bytes; `undefined`
   * if the Fill fails before that is possible. A requester that knows the size gets its response while the Fill is
   * queued, and waits for the body.
   */
  async #shownIn(
    run: FillRun,
    repository: Repository,
    right: Right,
    namedSize: number | undefined,
  ): Promise<Contender | undefined> {
    const { digest } = run.fill;
    // A requester that upstream refuses is told so before there is anything to compare.
    const asked = run.sharing.isShowable
      ? undefined
      : await this.#confirm(repository, digest, right, () => this.#links.size(repository, digest, right));
    const contender = run.sharing.wait({ repository, right, namedSize });
    if (asked?.outcome === 'stale') contender.admit();
    else void this.#show(run, contender);
    if (run.isQueued && right.proved && namedSize !== undefined) return contender;
    try {
      await contender.admission;
      return contender;
    } catch (error) {
      if (run.fill.state === 'failed') return undefined;
      throw error;
    }
  }

  /**
   * Lets upstream prove to a waiting contender that it has the Fill's bytes, as soon as there are enough, and admits or
   * refuses it. Never rejects.
   */
  async #show(run: FillRun, contender: Contender): Promise<void> {
    const { repository, right } = contender;
    const { digest } = run.fill;
    try {
      const held = await run.sharing.shown();
      if (held === undefined) return run.sharing.refuse(contender, run.fill.failure);
      if (contender.state !== 'waiting') return;
      await this.#confirm(repository, digest, right, () =>
        this.#links.confirm(repository, digest, right, held),
      );
      run.sharing.admit(contender, held);
    } catch (error) {
      run.sharing.refuse(contender, error);
    }
  }

  #isOffline(repository: Repository, right: Right): boolean {
    return this.#pullRuleOf(repository, right).pullPolicy === 'Never';
  }

  async #read(run: FillRun, contender: Contender, wait: SizeWait): Promise<BlobReader> {
    const { admission } = contender;
    const { fill } = run;
    const leave = fill.hold();
    try {
      const size = await this.#sizeOf(run, admission, wait).catch((error: unknown) => {
        if (!isStorageClosed(error)) throw error;
        return this.#whileWaited(this.#sizeWithoutRoom(fill, contender, wait.named, error), wait.sinceMs);
      });
      // An empty body is complete with its headers, so there is no end to hold back.
      if (size === 0)
        await this.#whileWaited(
          fill.until(() => fill.state === 'verified' || undefined),
          wait.sinceMs,
        );
      return fill.open(size, admission, leave, () => this.#fills.readDirectly(fill, size, contender));
    } catch (error) {
      leave();
      throw isStorageClosed(error) ? new OciError('INSUFFICIENT_STORAGE', { cause: error }) : error;
    }
  }

  /**
   * The size of a blob that upstream began to send without telling it, and for which there is no room: without a size there
   * can be no response.
   */
  async #sizeWithoutRoom(
    { digest, length }: Fill,
    { repository, right, state }: Contender,
    named: number | undefined,
    full: unknown,
  ): Promise<number> {
    if (state !== 'admitted') throw full;
    const ask = () => this.#links.size(repository, digest, right);
    const size = named ?? (await this.#confirm(repository, digest, right, ask)).size;
    if (size === undefined) {
      throw new OciError('INSUFFICIENT_STORAGE', {
        message:
          'there is no room for the blob, and upstream did not report its size, so it cannot be passed on',
        detail: { digest },
        cause: full,
      });
    }
    if (length > size) throw wrongBytes(digest);
    return size;
  }

  /**
   * The size from upstream. One that is known from a manifest is used at once while the Fill is queued, and after a few
   * seconds while upstream is asked.
   */
  async #sizeOf(run: FillRun, admission: Promise<void>, { named, sinceMs }: SizeWait): Promise<number> {
    const { fill } = run;
    const given = admission.then(() => fill.until(() => fill.size));
    if (named === undefined) return this.#whileWaited(given, sinceMs);
    const size = await within(given, run.isQueued ? 0 : NAMED_SIZE_AFTER_MS, this.#clock);
    return size === LATE ? named : size;
  }

  /** The result of `promise`; UNAVAILABLE as soon as the client that asked at `sinceMs` has waited too long. */
  async #whileWaited<T>(promise: Promise<T>, sinceMs: number): Promise<T> {
    const leftMs = sinceMs + CLIENT_WAITS_MS - this.#clock.monotonicMs();
    const value = await within(promise, Math.max(0, leftMs), this.#clock);
    if (value === LATE)
      throw new OciError('UNAVAILABLE', { message: 'upstream did not report the size of the blob' });
    return value;
  }
}

/** A client that wants so much, to the end of a blob, wants all of it that it does not have. */
const REST_BYTES = 1024 * 1024;
/** A blob of at most this size is downloaded as a whole, whatever is requested of it: a request costs as much. */
const SMALL_BYTES = 256 * 1024;

/**
 * What will be read of a stored blob; nothing if the client cannot have what it wants. It is told so when its right is proved:
 * until then, the error would tell it that the blob is stored, and its size.
 */
function readOf(want: BlobWant, size: number): readonly Extent[] | undefined {
  try {
    return want(size);
  } catch (error) {
    if (error instanceof OciError) return [];
    throw error;
  }
}

/**
 * Whether somebody resumes a pull of the whole blob, as clients do whose replica is gone. Lazy clients read less from its
 * end.
 */
function isRest([wanted, ...others]: readonly Extent[], size: number): boolean {
  return wanted?.end === size && size - wanted.start >= REST_BYTES && others.length === 0;
}

/** Whether somebody who wants this reads only parts of the blob. */
function isPartial(wanted: readonly Extent[], size: number): boolean {
  return size > SMALL_BYTES && new Extents(wanted).bytes < size;
}
