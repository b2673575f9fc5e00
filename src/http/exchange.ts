import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Descriptor } from '../oci/descriptor.ts';
import type { OciError } from '../oci/errors.ts';
import type { EventActor } from '../oci/event.ts';
import type { Outcome, Served } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import { ANONYMOUS, memoryHolder, type Requester } from '../oci/requester.ts';
import type { Presence } from '../lib/lease.ts';
import type { MemoryHolder } from '../lib/memory-budget.ts';
import type { Sender } from '../access/subject.ts';
import type { Deadlines } from './deadlines.ts';
import type { Route } from './path.ts';
import type { Query } from './query.ts';

/** Clients have some dozen characters, and containerd some hundred. */
const MAX_USER_AGENT_LENGTH = 256;
/** The longest host name, with a port. A client may send anything, as long as all its headers may be. */
const MAX_HOST_LENGTH = 260;

/** One request and its response, with what the handlers find out and the response log reports. */
export class Exchange {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly method: string;
  readonly query: Query;
  readonly sender: Sender;
  /** Why this request must not change anything, whoever sends it: it comes from a page of another web site. */
  readonly siteProblem: string | undefined;
  /** In which the request's headers arrived: all that it changes belongs to that. */
  readonly during: Presence;
  /** `performance.now()` when the request's headers had arrived. */
  readonly startedAtMs = performance.now();
  readonly #isStopping: () => boolean;
  readonly #deadlines: Deadlines;

  route: Route | undefined;
  repository: Repository | undefined;
  requester: Requester | undefined;
  /** The user name in a form. */
  formUsername: string | undefined;
  /** The upstream of `ns`, to be returned as `OCI-Namespace`. */
  namespace: string | undefined;
  outcome: Outcome | undefined;
  /** The manifest that the response to a GET has. */
  pulled: Descriptor | undefined;
  /** The range of a blob that the response has, or as which type it has several. */
  contentRange: string | undefined;
  upstreamMs = 0;
  /** `performance.now()` when the first byte of the response's body was sent; `undefined` if none was. */
  firstByteAtMs: number | undefined;
  /** Bytes of the body that the kernel has taken. */
  bytesSent = 0;
  /** Whether it has taken the whole response. */
  isSent = false;
  /** The reason for an error response. The first of several counts: the error that is sent may hide it. */
  problem: OciError | undefined;
  /** Why the response was aborted, or the bug behind a 500. */
  failure: unknown;

  constructor(options: {
    req: IncomingMessage;
    res: ServerResponse;
    query: Query;
    sender: Sender;
    siteProblem?: string | undefined;
    during: Presence;
    isStopping: () => boolean;
    deadlines: Deadlines;
  }) {
    this.req = options.req;
    this.res = options.res;
    this.method = options.req.method ?? 'GET';
    this.query = options.query;
    this.sender = options.sender;
    this.siteProblem = options.siteProblem;
    this.during = options.during;
    this.#isStopping = options.isStopping;
    this.#deadlines = options.deadlines;
  }

  /** Whether the server is stopping, so that this response ends its connection. */
  get closing(): boolean {
    return this.#isStopping();
  }

  /** HEAD: the response has no body. */
  get bodyless(): boolean {
    return this.method === 'HEAD';
  }

  /** Whose share of memory a body counts against that is held for this request. */
  get memoryHolder(): MemoryHolder {
    return memoryHolder(this.requester ?? ANONYMOUS, this.sender.remote);
  }

  /** Who sends the request, for receivers of notifications. */
  get actor(): EventActor {
    const { tenant, id } = this.requester ?? ANONYMOUS;
    const { remote, host } = this.sender;
    const { 'user-agent': userAgent } = this.req.headers;
    return {
      name: tenant ?? id,
      remote,
      host: host && beginning(host, MAX_HOST_LENGTH),
      method: this.method,
      userAgent: userAgent && beginning(userAgent, MAX_USER_AGENT_LENGTH),
    };
  }

  /**
   * The result of `work`, for which the response waits; 503 if the client must not wait any longer. A later result is
   * passed to `discard`.
   */
  inTime<T>(work: Promise<T>, discard?: (late: T) => void): Promise<T> {
    return this.#deadlines.meet(this.startedAtMs, work, discard);
  }

  /** Call when a byte of the body is sent. */
  noteByte(): void {
    this.firstByteAtMs ??= performance.now();
  }

  /** Call when a write of the body has ended, with its error if it has failed. */
  noteWritten(bytes: number, error: Error | null | undefined): void {
    if (!this.#isCutOff && (error ?? undefined) === undefined) this.bytesSent += bytes;
  }

  /** Call when the response has ended, before anything else is done about that. */
  noteFinished(): void {
    this.isSent = !this.#isCutOff;
  }

  /** Node takes what it was writing when the connection was closed for written. */
  get #isCutOff(): boolean {
    return this.req.socket.destroyed;
  }

  /** Records where the response came from, for the log. */
  note({ outcome, upstreamMs }: Served): void {
    this.outcome = outcome;
    this.upstreamMs = upstreamMs;
  }
}

/** The first characters of a header, as a copy: a slice would keep all of it in memory. */
function beginning(text: string, length: number): string {
  return text.length <= length ? text : Buffer.from(text.slice(0, length), 'latin1').toString('latin1');
}
