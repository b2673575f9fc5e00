import type { BlobReader } from '../../lib/blob-reader.ts';
import { type Extent, Extents } from '../../lib/extents.ts';
import { repositoryText } from '../../oci/repository.ts';
import { ociErrorOf, UpstreamFailure } from '../../upstream/failures.ts';
import { ByteWindow } from './byte-window.ts';
import type { DownloadState } from './download-state.ts';
import { planRanges } from './plan-ranges.ts';
import { RangeRequest, type RangeRequestOptions, RangesUnusable } from './range-request.ts';

export interface DirectRangesOptions
  extends Pick<
    RangeRequestOptions,
    'asking' | 'links' | 'queue' | 'meter' | 'log' | 'digest' | 'size' | 'asker'
  > {
  /** The bytes that will be read. */
  readonly wanted: readonly Extent[];
  /** How much may be buffered for a slow client. */
  readonly aheadBytes: () => number;
  /** Opens another reader of the same bytes, once upstream answers a range with something else. */
  readonly instead: () => Promise<BlobReader>;
  /** Called when nothing is requested any more; may be called twice. */
  readonly ended: () => void;
}

/**
 * Reads ranges of a blob straight from upstream, since there is no room to keep them: one after the other, for one reader.
 * Like all ranges of a blob that is not stored, they are passed on unverified.
 */
export class DirectRanges implements BlobReader {
  readonly size: number;
  readonly #options: DirectRangesOptions;
  /** What is requested: what is wanted, and small gaps between. */
  readonly #plan: Extents;
  readonly #startedAtMs: number;
  #stream: RangeStream | undefined;
  /** What earlier streams have received. */
  #receivedBytes = 0;
  #instead: BlobReader | undefined;
  #isClosed = false;

  constructor(options: DirectRangesOptions) {
    this.#options = options;
    this.size = options.size;
    this.#plan = new Extents(planRanges(options.wanted, new Extents()));
    this.#startedAtMs = options.asking.clock.nowMs();
  }

  /** How far it has come. */
  get download(): DownloadState {
    const { digest, asker } = this.#options;
    return {
      kind: 'streamed',
      repository: repositoryText(asker.repository),
      digest,
      state: this.#stream?.isQueued === true ? 'queued' : 'downloading',
      bytes: this.#receivedBytes + (this.#stream?.receivedBytes ?? 0),
      aheadBytes: 0,
      size: this.#plan.bytes,
      readers: 1,
      requesters: [asker.right.requester.id],
      startedAtMs: this.#startedAtMs,
      holder: undefined,
    };
  }

  /** Resolves when the first byte is there. Rejects with the failure of its request, which may be RangesUnusable. */
  async begin(): Promise<void> {
    const [first] = this.#options.wanted;
    if (first !== undefined) await this.#streamAt(first.start).reach(first.start);
  }

  /** Only positions in the wanted ranges. */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    if (position >= this.size) return 0;
    if (this.#instead !== undefined) return this.#instead.read(buffer, position);
    try {
      return await this.#streamAt(position).read(buffer, position);
    } catch (failure) {
      if (!(failure instanceof RangesUnusable)) throw this.#clientErrorOf(failure);
      this.#end();
      this.#instead = await this.#options.instead();
      if (this.#isClosed) await this.#instead.close();
      return this.#instead.read(buffer, position);
    }
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#end();
    await this.#instead?.close();
  }

  #end(): void {
    this.#stream?.close();
    this.#options.ended();
  }

  /** The stream that brings the byte at `position`: the running one, or a new one from there on. */
  #streamAt(position: number): RangeStream {
    if (this.#isClosed) throw new Error('the reader was closed');
    if (this.#stream?.brings(position) === true) return this.#stream;
    this.#stream?.close();
    this.#receivedBytes += this.#stream?.receivedBytes ?? 0;
    const planned = this.#plan.next(position);
    if (planned === undefined || planned.start > position)
      throw new Error(`internal error: byte ${position} was read, but is in no requested range`);
    this.#stream = new RangeStream(this.#options, { start: position, end: planned.end });
    return this.#stream;
  }

  #clientErrorOf(failure: unknown): unknown {
    const { upstream } = this.#options.asker.repository;
    return failure instanceof UpstreamFailure ? ociErrorOf(failure, 'BLOB_UNKNOWN', upstream) : failure;
  }
}

/** One request for a range, with those of its bytes that have not been read yet. */
class RangeStream {
  readonly #extent: Extent;
  readonly #window: ByteWindow;
  readonly #request: RangeRequest;
  readonly #leave: () => void;
  readonly #closing = new AbortController();

  constructor(options: Omit<DirectRangesOptions, 'wanted' | 'instead' | 'ended'>, extent: Extent) {
    const { asking, links, queue, meter, log, digest, size, asker, aheadBytes } = options;
    this.#extent = extent;
    this.#window = new ByteWindow(extent.start, aheadBytes);
    this.#request = new RangeRequest({
      asking,
      links,
      queue,
      meter,
      log,
      digest,
      size,
      asker,
      extent,
      // Nobody else can have what is not kept.
      claim: async () => true,
      ranged: () => {},
      write: (_, chunk) => this.#window.push(chunk, this.#closing.signal),
    });
    this.#leave = this.#request.want();
    void this.#request.done.then(() => this.#window.changes.tell());
  }

  get isQueued(): boolean {
    return this.#request.isQueued;
  }

  get receivedBytes(): number {
    return this.#request.receivedBytes;
  }

  /** Whether the byte at `position` is among those that are there, or will come. */
  brings(position: number): boolean {
    return this.#window.start <= position && position < this.#extent.end;
  }

  /** Resolves when the byte at `position` is there. Rejects if it will not come. */
  async reach(position: number): Promise<void> {
    await this.#window.changes.until(() => {
      // Skipped gaps are dropped as they arrive: otherwise there would be no room for what follows them.
      this.#window.dropBefore(position);
      if (this.#window.end > position) return true;
      if (this.#request.isOver)
        throw this.#request.failure?.cause ?? new Error('internal error: a range ended too early');
      return undefined;
    }, this.#closing.signal);
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    await this.reach(position);
    return this.#window.copy(buffer, position);
  }

  close(): void {
    this.#closing.abort(new Error('the reader was closed'));
    this.#leave();
  }
}
