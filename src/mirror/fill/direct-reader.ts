import { createHash, type Hash } from 'node:crypto';
import { type BlobReader, HOLD_BACK_BYTES } from '../../lib/blob-reader.ts';
import type { Log } from '../../lib/log.ts';
import type { Meter } from '../../lib/meter.ts';
import { unlessAborted } from '../../lib/single-flight.ts';
import { type Digest, digestAlgorithm, digestHex } from '../../oci/digest.ts';
import { repositoryText } from '../../oci/repository.ts';
import { ociErrorOf, UpstreamFailure } from '../../upstream/failures.ts';
import { admits } from '../links.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import { ByteWindow } from './byte-window.ts';
import type { Contender } from './contender.ts';
import { download, MoreThanNamed } from './download.ts';
import type { DownloadState } from './download-state.ts';
import { type Fill, wrongBytes } from './fill.ts';
import { type PullTurns, waiterOf } from './pull-queue.ts';

/** The part that the Fill has is hashed in steps of this size, so that the event loop is not blocked. */
const HASH_STEP_BYTES = 1024 * 1024;

export interface DirectOptions {
  readonly asking: UpstreamRequests;
  readonly queue: PullTurns;
  readonly log: Log;
  readonly meter: Meter;
  /** The Fill that stopped for lack of space. What it has is served from it. */
  readonly fill: Fill;
  /** The size of the whole blob in bytes. */
  readonly size: number;
  /** In whose name upstream is asked for the rest. */
  readonly contender: Contender;
  /** How much may be buffered for a slow client, besides the end that is held back. */
  readonly aheadBytes: () => number;
  /** Called when nothing is requested any more. */
  readonly ended: () => void;
}

/**
 * Reads a blob that does not fit on the disk: the beginning from the Fill that stopped, the rest straight from
 * upstream. For one reader, and only forwards. The blob is hashed on its way, and its end is held back until the digest
 * is verified.
 */
export class DirectReader implements BlobReader {
  readonly size: number;
  readonly #options: DirectOptions;
  readonly #digest: Digest;
  readonly #hash: Hash;
  readonly #closing = new AbortController();
  /** How many bytes the Fill has. */
  readonly #keptBytes: number;
  /** What was received after those bytes but not read yet. */
  readonly #window: ByteWindow;
  readonly #startedAtMs: number;
  #isQueued = true;
  #isVerified = false;
  #failure: { readonly cause: unknown } | undefined;

  constructor(options: DirectOptions) {
    const { fill, size, aheadBytes } = options;
    this.#options = options;
    this.size = size;
    this.#digest = fill.digest;
    this.#hash = createHash(digestAlgorithm(fill.digest));
    this.#keptBytes = fill.kept;
    this.#window = new ByteWindow(fill.kept, () => HOLD_BACK_BYTES + aheadBytes());
    this.#startedAtMs = options.asking.clock.nowMs();
    void this.#run();
  }

  /** How far it is. */
  get download(): DownloadState {
    const { repository, right } = this.#options.contender;
    return {
      kind: 'streamed',
      repository: repositoryText(repository),
      digest: this.#digest,
      state: this.#isQueued ? 'queued' : 'downloading',
      bytes: this.#window.end,
      aheadBytes: 0,
      size: this.size,
      readers: 1,
      requesters: [right.requester.id],
      startedAtMs: this.#startedAtMs,
      holder: undefined,
    };
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    if (position >= this.size) return 0;
    await this.#window.changes.until(() => {
      // Reading only goes forwards.
      this.#window.dropBefore(position);
      if (this.#readable > position) return true;
      if (this.#failure !== undefined) throw this.#failure.cause;
      return undefined;
    });
    const readable = buffer.subarray(0, this.#readable - position);
    return position < this.#keptBytes
      ? this.#options.fill.read(readable.subarray(0, this.#keptBytes - position), position)
      : this.#window.copy(readable, position);
  }

  async close(): Promise<void> {
    this.#fail(new Error('the reader was closed'));
    this.#closing.abort(this.#failure?.cause);
  }

  get #readable(): number {
    return this.#isVerified ? this.size : Math.min(this.#window.end, this.size - HOLD_BACK_BYTES);
  }

  async #run(): Promise<void> {
    const { queue, contender, ended } = this.#options;
    const repository = repositoryText(contender.repository);
    const place = queue.enter({ ...waiterOf(contender.right.requester), repository });
    try {
      await unlessAborted(place.turn, this.#closing.signal);
      this.#isQueued = false;
      await this.#hashKept();
      await this.#stream();
      if (this.#window.end !== this.size || this.#hash.digest('hex') !== digestHex(this.#digest))
        throw wrongBytes(this.#digest);
      this.#isVerified = true;
    } catch (error) {
      this.#fail(this.#clientErrorOf(error));
    } finally {
      place.leave();
      ended();
      this.#window.changes.tell();
    }
  }

  async #hashKept(): Promise<void> {
    const buffer = new Uint8Array(Math.min(HASH_STEP_BYTES, this.#keptBytes));
    for (let position = 0; position < this.#keptBytes; ) {
      this.#closing.signal.throwIfAborted();
      const step = buffer.subarray(0, this.#keptBytes - position);
      const count = await this.#options.fill.read(step, position);
      this.#hash.update(step.subarray(0, count));
      position += count;
    }
  }

  async #stream(): Promise<void> {
    const { asking, log, contender } = this.#options;
    await download({
      asking,
      digest: this.#digest,
      log: log.child({ upstream: contender.repository.upstream, digest: this.#digest }),
      signal: this.#closing.signal,
      resumed: () => {},
      skipEndpoints: new Set(),
      length: () => this.#window.end,
      size: () => this.size,
      limit: () => this.size,
      write: chunk => this.#take(chunk),
      contender: () => (contender.state === 'refused' ? undefined : contender),
      refused: async (_, failure) => {
        throw failure;
      },
      given: ({ answer }) => contender.isProved || admits(answer, contender.right),
    });
  }

  async #take(chunk: Uint8Array): Promise<void> {
    const { meter, contender } = this.#options;
    const { upstream } = contender.repository;
    meter.count('bytes_from_upstream_total', { upstream }, chunk.byteLength);
    this.#hash.update(chunk);
    await this.#window.push(chunk, this.#closing.signal);
  }

  #clientErrorOf(error: unknown): unknown {
    if (error instanceof MoreThanNamed) return wrongBytes(this.#digest, error);
    const { upstream } = this.#options.contender.repository;
    return error instanceof UpstreamFailure ? ociErrorOf(error, 'BLOB_UNKNOWN', upstream) : error;
  }

  #fail(cause: unknown): void {
    if (!this.#isVerified) this.#failure ??= { cause };
    this.#window.changes.tell();
  }
}
