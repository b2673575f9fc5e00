import type { BlobStore } from '../blobs/blob-store.ts';
import { isStorageClosed } from '../blobs/storage-full.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import { readerOfBytes } from '../lib/bytes-reader.ts';
import type { Meter } from '../lib/meter.ts';
import { LATE, within } from '../lib/within.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type { Outcome, ServedBlob, ServedBlobStat } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { ociErrorOf, UpstreamFailure } from '../upstream/failures.ts';
import { forbidsHeld } from './upstream-requests.ts';
import type { Contender } from './contender.ts';
import type { FillRun } from './fill-run.ts';
import type { Fills } from './fills.ts';
import type { Confirmed, Links } from './links.ts';
import { rightTo } from './preloads.ts';
import { notHeld, type PullRuleOf, STALE_AFTER_MS } from './freshness.ts';

/**
 * So long a reader whose size a held manifest names waits for upstream's own answer: until then a failure has its own
 * status, afterwards it can only break the body off.
 */
const NAMED_SIZE_AFTER_MS = 5_000;

export interface BlobSourceOptions {
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly links: Links;
  readonly fills: Fills;
  readonly pullRuleOf: PullRuleOf;
  readonly meter: Meter;
}

interface HeldBlob {
  readonly reader: BlobReader;
  /** It is known to belong to the repository, and this requester has proved his right. */
  readonly belongs: boolean;
}

interface SizeWait {
  /** By a manifest that is held here, for whom has proved a right to it. */
  readonly named: number | undefined;
  /** When the client asked, on `performance.now()`'s clock. */
  readonly sinceMs: number;
}

/** No client waits longer for the head of an answer (`http/limits.ts`): from then on it keeps no Fill going. */
const CLIENT_WAITS_MS = 20_000;

/** Blobs of mirrored repositories: from the store where the Link and the right allow it, else by a Fill. */
export class BlobSource {
  readonly #blobs: BlobStore;
  readonly #metadata: MetadataStore;
  readonly #links: Links;
  readonly #fills: Fills;
  readonly #pullRuleOf: PullRuleOf;
  readonly #meter: Meter;

  constructor({ blobs, metadata, links, fills, pullRuleOf, meter }: BlobSourceOptions) {
    this.#blobs = blobs;
    this.#metadata = metadata;
    this.#links = links;
    this.#fills = fills;
    this.#pullRuleOf = pullRuleOf;
    this.#meter = meter;
  }

  /** The size, from the Link or the manifest that is held here, else from one HEAD upstream. Never starts a Fill. */
  async stat(repository: Repository, digest: Digest, given: Right): Promise<ServedBlobStat> {
    const right = await rightTo(this.#metadata, repository, digest, given);
    const isSettled = right.proved || (await this.#links.isSettled(repository, digest, right));
    const here = isSettled ? await this.#sizeHere(repository, digest) : undefined;
    if (here !== undefined) return { digest, size: here, outcome: 'hit', stored: true, upstreamMs: 0 };
    const startedMs = performance.now();
    const { size, outcome } = await this.#confirm(repository, digest, right, () =>
      this.#links.size(repository, digest, right),
    );
    if (size === undefined) {
      throw new OciError('UPSTREAM_INVALID', {
        message: 'upstream did not report the size of the blob',
        detail: { digest },
      });
    }
    return { digest, size, outcome, stored: false, upstreamMs: performance.now() - startedMs };
  }

  async open(repository: Repository, digest: Digest, given: Right): Promise<ServedBlob> {
    const right = await rightTo(this.#metadata, repository, digest, given);
    const settled = await this.#links.isSettled(repository, digest, right);
    const held = await this.#openHeld(repository, digest, right);
    if (held === undefined) return this.#openFill(repository, digest, right, settled);
    const { reader, belongs } = held;
    if (settled || belongs) {
      this.#metadata.noteUse(digest);
      return { digest, reader, outcome: 'hit', stored: true, upstreamMs: 0 };
    }
    const startedMs = performance.now();
    try {
      const bytes = {
        size: reader.size,
        length: reader.size,
        isVerified: true,
        open: () => this.#reopen(digest),
      };
      const { outcome } = await this.#confirm(repository, digest, right, () =>
        this.#links.confirm(repository, digest, right, bytes),
      );
      this.#metadata.noteUse(digest);
      return { digest, reader, outcome, stored: true, upstreamMs: performance.now() - startedMs };
    } catch (error) {
      await reader.close();
      throw error;
    }
  }

  /** For a comparison with upstream's, which others may share and which may go on when the client has had its answer. */
  async #reopen(digest: Digest): Promise<BlobReader> {
    const reader = await this.#blobs.open(digest);
    if (reader === undefined) throw new OciError('UNAVAILABLE', { message: 'the blob is being removed' });
    return reader;
  }

  /**
   * Bytes that are in the store, whoever they belong to; a manifest only where it belongs and the right is proved. A row
   * whose file is gone, or is a part of it, is damage and stays: a Fill of somebody who has the right brings it again.
   */
  async #openHeld(repository: Repository, digest: Digest, right: Right): Promise<HeldBlob | undefined> {
    const row = await this.#metadata.statBlob(digest);
    if (row !== undefined) {
      const reader = await this.#blobs.open(digest);
      if (reader?.size === row.size) return { reader, belongs: false };
      await reader?.close();
    }
    const manifest = right.proved ? await this.#metadata.readLinkedManifest(repository, digest) : undefined;
    return manifest && { reader: readerOfBytes(manifest.bytes), belongs: true };
  }

  /** A manifest that names the blob may give the size, but only a Link says that the blob belongs here. */
  async #sizeHere(repository: Repository, digest: Digest): Promise<number | undefined> {
    if (await this.#metadata.isLinked(repository, digest)) {
      const size = await this.#metadata.namedSize(repository, digest);
      if (size !== undefined) return size;
    }
    return (await this.#metadata.readLinkedManifest(repository, digest))?.bytes.byteLength;
  }

  /**
   * Settles the right to a blob by asking upstream. `stale`: upstream could not say, but what it said before counts.
   * Throws what the client hears.
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
      const confirmed = mayServeStale ? await within(ask(), STALE_AFTER_MS) : await ask();
      if (confirmed !== LATE) {
        // Who had to prove his right first is told what he hears of a first fetch, whoever holds the same bytes.
        const outcome = confirmed.joined ? 'joined' : mayServeStale ? 'revalidated' : 'miss';
        return { size: confirmed.size, outcome };
      }
    } catch (error) {
      if (!(error instanceof UpstreamFailure)) throw error;
      if (!mayServeStale || forbidsHeld(error)) throw ociErrorOf(error, 'BLOB_UNKNOWN');
    }
    return stale();
  }

  async #openFill(
    repository: Repository,
    digest: Digest,
    right: Right,
    settled: boolean,
  ): Promise<ServedBlob> {
    if (this.#isOffline(repository, right)) throw notHeld('BLOB_UNKNOWN', repository, digest);
    const startedMs = performance.now();
    const namedSize = await this.#metadata.namedSize(repository, digest);
    for (;;) {
      const running = this.#fills.find(repository.upstream, digest);
      const run = running ?? this.#fills.start(repository, digest, right, { settled, namedSize });
      const joined = running ? running.join(repository, right, settled, namedSize) : run.starter;
      // Kept readable until it is opened: it may end while upstream is asked.
      const leave = run.fill.hold();
      try {
        const contender =
          joined ?? (await whileWaited(this.#shownIn(run, repository, right, namedSize), startedMs));
        if (contender === undefined) continue;
        if (running !== undefined) this.#meter.count('fills_joined_total');
        const reader = await this.#read(run, contender, {
          named: right.proved ? namedSize : undefined,
          sinceMs: startedMs,
        });
        const stored = !isStorageClosed(run.fill.failure);
        this.#metadata.noteUse(digest);
        // Who had to prove his right first hears nothing of the Fill of others that a first fetch would not tell.
        const outcome = running !== undefined && joined !== undefined ? 'joined' : 'miss';
        return { digest, reader, outcome, stored, upstreamMs: performance.now() - startedMs };
      } finally {
        leave();
      }
    }
  }

  /**
   * Joins a requester to whom upstream shows what a Fill brings for others; `undefined` when the Fill fails before that can
   * be known. Who knows the size has his answer while the Fill waits for its turn, and waits in the body.
   */
  async #shownIn(
    run: FillRun,
    repository: Repository,
    right: Right,
    namedSize: number | undefined,
  ): Promise<Contender | undefined> {
    const { digest } = run.fill;
    // Whom upstream refuses hears it before there is anything to compare.
    const asked = run.isShowable
      ? undefined
      : await this.#confirm(repository, digest, right, () => this.#links.size(repository, digest, right));
    const contender = run.wait(repository, right, namedSize);
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

  /** Has upstream show to one that waits what is here, as soon as it is enough, and admits or refuses it. Never rejects. */
  async #show(run: FillRun, contender: Contender): Promise<void> {
    const { repository, right } = contender;
    const { digest } = run.fill;
    try {
      const held = await run.shown();
      if (held === undefined) return run.refuse(contender, run.fill.failure);
      if (contender.state !== 'waiting') return;
      await this.#confirm(repository, digest, right, () =>
        this.#links.confirm(repository, digest, right, held),
      );
      run.admit(contender, held);
    } catch (error) {
      run.refuse(contender, error);
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
      const size = await this.#sizeOf(run, admission, wait);
      // An empty body is complete with its headers: there is no end to hold back.
      if (size === 0)
        await whileWaited(
          fill.until(() => fill.state === 'verified' || undefined),
          wait.sinceMs,
        );
      return fill.open(size, admission, leave, () => this.#fills.readDirectly(fill, size, contender));
    } catch (error) {
      leave();
      // Without a size there is nothing to answer with, and with a full disk no way to find it out.
      throw isStorageClosed(error) ? new OciError('INSUFFICIENT_STORAGE', { cause: error }) : error;
    }
  }

  /** The size as upstream gives it; a named one at once for who waits in the queue, and soon for who waits for upstream. */
  async #sizeOf(run: FillRun, admission: Promise<void>, { named, sinceMs }: SizeWait): Promise<number> {
    const { fill } = run;
    const given = admission.then(() => fill.until(() => fill.size));
    if (named === undefined) return whileWaited(given, sinceMs);
    const size = await within(given, run.isQueued ? 0 : NAMED_SIZE_AFTER_MS);
    return size === LATE ? named : size;
  }
}

/** `promise`, or UNAVAILABLE once the client that asked at `sinceMs` has its answer from elsewhere. */
async function whileWaited<T>(promise: Promise<T>, sinceMs: number): Promise<T> {
  const value = await within(promise, Math.max(0, sinceMs + CLIENT_WAITS_MS - performance.now()));
  if (value === LATE)
    throw new OciError('UNAVAILABLE', { message: 'upstream did not report the size of the blob' });
  return value;
}
