import { unlessAborted } from '../../lib/single-flight.ts';
import type { Further } from './connection-trials.ts';
import type { PartialBlob } from './partial-blob.ts';
import { NO_TRANSFERS, type PullPlace, type PullTurns } from './pull-queue.ts';
import type { RangeRequest } from './range-request.ts';

export interface FurtherConnectionOptions {
  /** Its place among all connections, which it leaves at its end. */
  readonly place: PullPlace;
  /** What keeps what it brings; `undefined` if that is not possible. */
  readonly blob: Promise<PartialBlob | undefined>;
  /** Begins the next request in that place; `undefined` if there is nothing left. */
  readonly next: (blob: PartialBlob) => RangeRequest | undefined;
  /** Called when its first bytes have come. Returns what is called at its end. */
  readonly opened: () => () => void;
  /** Called when a request has failed, which ends it. */
  readonly failed: (failure: unknown) => void;
  /** Called at its end. */
  readonly ended: (further: FurtherConnection) => void;
}

/** A further connection for a blob, which brings one stripe after the other until nothing is left or it is ended. */
export class FurtherConnection implements Further {
  /** Resolves when it has ended; never rejects. */
  readonly done: Promise<void>;
  readonly #options: FurtherConnectionOptions;
  readonly #ending = new AbortController();
  #state: Further['state'] = 'queued';
  #request: RangeRequest | undefined;
  /** What earlier requests have brought. */
  #earlierBytes = 0;
  #countedBytes = 0;
  #close: () => void = () => {};

  constructor(options: FurtherConnectionOptions) {
    this.#options = options;
    void options.place.recalled.then(() => this.end());
    this.done = this.#run();
  }

  get state(): Further['state'] {
    return this.#state;
  }

  /** What it is bringing. */
  get request(): RangeRequest | undefined {
    return this.#request?.isOver === false ? this.#request : undefined;
  }

  /** How many bytes it has brought since this was last called. */
  takeCount(): number {
    const bytes = this.#earlierBytes + (this.#request?.receivedBytes ?? 0);
    const count = bytes - this.#countedBytes;
    this.#countedBytes = bytes;
    if (count > 0 && this.#state === 'waiting') {
      this.#state = 'running';
      this.#close = this.#options.opened();
    }
    return count;
  }

  /** Gives it up at once; what it has brought is kept. */
  end(): void {
    const reason = new Error('the connection is not wanted any more');
    this.#ending.abort(reason);
    this.#request?.stop(reason);
  }

  async #run(): Promise<void> {
    const { place, failed, ended } = this.#options;
    try {
      // Not only until it is ended: it has to be known when nobody uses it any more.
      const blob = await this.#options.blob;
      if (blob === undefined) return;
      await unlessAborted(place.turn, this.#ending.signal);
      this.#state = 'waiting';
      for (let isLeft = true; isLeft; ) isLeft = await this.#bringNext(blob);
    } catch (error) {
      if (!this.#ending.signal.aborted) failed(error);
    } finally {
      this.#state = 'over';
      this.#close();
      place.leave();
      ended(this);
    }
  }

  /** False if nothing is left. Rejects with the failure of the request. */
  async #bringNext(blob: PartialBlob): Promise<boolean> {
    const request = this.#options.next(blob);
    if (request === undefined) return false;
    request.want();
    this.#request = request;
    await request.done;
    this.#earlierBytes += request.receivedBytes;
    this.#request = undefined;
    this.#ending.signal.throwIfAborted();
    if (request.failure !== undefined) throw request.failure.cause;
    return true;
  }
}

/** A place that is there already, and that nobody wants back. */
export function heldPlace(): PullPlace {
  return {
    queued: false,
    turn: Promise.resolve(),
    recalled: new Promise(() => {}),
    join: () => {},
    leave: () => {},
  };
}

/** The queue for a request whose place is there already. */
export const NO_QUEUE: PullTurns = { state: NO_TRANSFERS, enter: heldPlace, limitsChanged: () => {} };
