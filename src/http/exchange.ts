import type { IncomingMessage, ServerResponse } from 'node:http';
import type { OciError } from '../oci/errors.ts';
import type { Outcome, Served } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import { ANONYMOUS, memoryHolder, type Requester } from '../oci/requester.ts';
import type { MemoryHolder } from '../lib/memory-budget.ts';
import type { Sender } from '../access/subject.ts';
import { sourceOf } from '../access/failed-logins.ts';
import type { Deadlines } from './deadlines.ts';
import type { Route } from './path.ts';

/** One request and its answer: what the handlers learn on the way, and what the response log says at the end. */
export class Exchange {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly method: string;
  readonly query: URLSearchParams;
  readonly sender: Sender;
  /** Why this request may change nothing, whoever sends it: a web page of somebody else's is behind it. */
  readonly siteProblem: string | undefined;
  /** `performance.now()` when the request's head had arrived. */
  readonly startedAtMs = performance.now();
  readonly #isStopping: () => boolean;
  readonly #deadlines: Deadlines;

  route: Route | undefined;
  repository: Repository | undefined;
  requester: Requester | undefined;
  /** The user name of a form, which is in no header. */
  formUsername: string | undefined;
  /** `ns` as it was understood, to be answered as `OCI-Namespace`. */
  namespace: string | undefined;
  outcome: Outcome | undefined;
  upstreamMs = 0;
  /** Bytes of the body that the kernel took. */
  bytesSent = 0;
  /** Why the answer is an error; of several reasons the first, since what the client hears instead may hide it. */
  problem: OciError | undefined;
  /** Why the answer broke off, or the bug behind a 500. */
  failure: unknown;

  constructor(options: {
    req: IncomingMessage;
    res: ServerResponse;
    query: URLSearchParams;
    sender: Sender;
    siteProblem?: string | undefined;
    isStopping: () => boolean;
    deadlines: Deadlines;
  }) {
    this.req = options.req;
    this.res = options.res;
    this.method = options.req.method ?? 'GET';
    this.query = options.query;
    this.sender = options.sender;
    this.siteProblem = options.siteProblem;
    this.#isStopping = options.isStopping;
    this.#deadlines = options.deadlines;
  }

  /** The server is stopping: whatever is answered now ends its connection. */
  get closing(): boolean {
    return this.#isStopping();
  }

  /** HEAD: everything but the body. */
  get bodyless(): boolean {
    return this.method === 'HEAD';
  }

  /** As whose a body is counted that is held for this request. */
  get memoryHolder(): MemoryHolder {
    return memoryHolder(this.requester ?? ANONYMOUS, sourceOf(this.sender.remote));
  }

  /**
   * `work`, which the answer waits for, or 503 when the client can be kept waiting no longer. What comes later is handed to
   * `discard`.
   */
  inTime<T>(work: Promise<T>, discard?: (late: T) => void): Promise<T> {
    return this.#deadlines.meet(this.startedAtMs, work, discard);
  }

  /** Remembers how the answer came about. */
  note({ outcome, upstreamMs }: Served): void {
    this.outcome = outcome;
    this.upstreamMs = upstreamMs;
  }
}
