import { type BackoffSchedule, backoffMs } from '../lib/backoff.ts';
import { HttpFailure } from '../lib/http-failure.ts';
import type { Ask } from './answers.ts';
import { UpstreamFailure } from './failures.ts';
import type { Reply, TransportRequest } from './transport.ts';

/** A request without the parts that an Ask adds: the credential that this endpoint may see, and the signal. */
export type EndpointRequest = Omit<TransportRequest, 'credential' | 'signal'>;

/** Where an upstream can be asked: its `url`, or a mirror. */
export interface Endpoint {
  /** 0 is `url`; mirrors follow in the configured order. */
  readonly index: number;
  /** As `Transport.send`. */
  send(request: EndpointRequest, ask: Ask, accept?: readonly number[]): Promise<Reply>;
}

/** For how long an endpoint that cannot be reached comes after the others, since each attempt may take a timeout. */
const REST: BackoffSchedule = { firstMs: 1_000, maxMs: 30_000 };

interface Rest {
  failures: number;
  untilMs: number;
}

/**
 * The endpoints in order. The next one is tried if the previous one failed in a way that says nothing about what was
 * requested.
 */
export class Endpoints {
  readonly #endpoints: readonly Endpoint[];
  readonly #rests = new Map<number, Rest>();
  readonly #now: () => number;

  constructor(endpoints: readonly Endpoint[], now: () => number = () => performance.now()) {
    this.#endpoints = endpoints;
    this.#now = now;
  }

  /**
   * The result of the first endpoint that succeeds. What `url` says about rights, absence or limits is final; what a
   * mirror says is not.
   */
  async attempt<T>(work: (endpoint: Endpoint) => Promise<T>, skip?: ReadonlySet<number>): Promise<T> {
    let ofUrl: UpstreamFailure | undefined;
    let ofMirror: UpstreamFailure | undefined;
    for (const endpoint of this.#inOrder(skip)) {
      try {
        const result = await work(endpoint);
        this.#rests.delete(endpoint.index);
        return result;
      } catch (error) {
        if (!(error instanceof UpstreamFailure)) throw error;
        this.#noteFailure(endpoint, error);
        if (endpoint.index > 0) ofMirror ??= error;
        else if (error.kind === 'unavailable' || error.kind === 'invalid') ofUrl = error;
        else throw error;
      }
    }
    if (ofUrl !== undefined) throw ofUrl;
    if (ofMirror?.kind === 'unavailable' || ofMirror?.kind === 'invalid') throw ofMirror;
    const message = ofMirror?.message ?? 'no endpoint is left to ask';
    throw new UpstreamFailure('unavailable', message, {
      endpoint: ofMirror?.endpoint,
      isUnasked: ofMirror === undefined,
      cause: ofMirror,
    });
  }

  /** The index of the endpoint that is tried first now; `undefined` if none is. */
  get first(): number | undefined {
    return this.#inOrder(undefined)[0]?.index;
  }

  /** Forgets which endpoints could not be reached. */
  forget(): void {
    this.#rests.clear();
  }

  #inOrder(skip: ReadonlySet<number> | undefined): readonly Endpoint[] {
    const asked = this.#endpoints.filter(({ index }) => !skip?.has(index));
    const isResting = ({ index }: Endpoint) => (this.#rests.get(index)?.untilMs ?? 0) > this.#now();
    return [...asked.filter(endpoint => !isResting(endpoint)), ...asked.filter(isResting)];
  }

  #noteFailure({ index }: Endpoint, { cause }: UpstreamFailure): void {
    if (!(cause instanceof HttpFailure) || (cause.reason !== 'unreachable' && cause.reason !== 'timeout'))
      return;
    const failures = (this.#rests.get(index)?.failures ?? 0) + 1;
    this.#rests.set(index, { failures, untilMs: this.#now() + backoffMs(REST, failures) });
  }
}
