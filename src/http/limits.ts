/** What one client may take of a server, and for how long. */
export interface HttpLimits {
  /** Bytes of request line and headers together; more is 431. */
  readonly maxHeaderBytes: number;
  /** For the head of a request to arrive, from its first byte; longer is 408. */
  readonly headersTimeoutMs: number;
  /** Without a byte moving because of the client, in either direction; longer and the socket is destroyed. */
  readonly idleTimeoutMs: number;
  /** Between two requests of one connection. */
  readonly keepAliveTimeoutMs: number;
  /** How often the two limits on heads are looked at. */
  readonly checkIntervalMs: number;
  /** From the head of a request to the head of its answer; longer is 503. */
  readonly answerWithinMs: number;
  /** After which a body without a first byte sends its headers; until then a failure is answered as an error. */
  readonly bodyHeadersAfterMs: number;
  /**
   * A body that is in memory as a whole until its client has taken it has to be taken at this rate, on the average and
   * after some time that is free; else the socket is destroyed.
   */
  readonly wholeBodyBytesPerS: number;
  readonly wholeBodyFreeMs: number;
  /** Sockets of one listener; more are closed as they come. */
  readonly maxConnections: number;
}

export const HTTP_LIMITS: HttpLimits = {
  // Kubernetes service-account tokens and registry tokens with many scopes reach 8 KiB; twice that beside long paths.
  maxHeaderBytes: 32 * 1024,
  // A head is one packet or two; a client on the worst of links has it there in seconds.
  headersTimeoutMs: 20_000,
  // Long enough for a paused laptop or a lost route to come back, short enough that dead clients don't pile up.
  idleTimeoutMs: 60_000,
  // Above the 60 s after which common load balancers drop an idle connection, so that it is they who do.
  keepAliveTimeoutMs: 75_000,
  checkIntervalMs: 5_000,
  // Newer containerd gives up 30 s after it asked, whatever a credential plugin (60 s), the API server (30 s) or an upstream
  // does meanwhile.
  answerWithinMs: 20_000,
  bodyHeadersAfterMs: 15_000,
  // Slower than any link that images are pulled over; the longest such body, of 4 MiB, may take four minutes.
  wholeBodyBytesPerS: 16 * 1024,
  wholeBodyFreeMs: 10_000,
  // A descriptor each, and as many again for the files behind them, within the usual 65,536.
  maxConnections: 16_384,
};
