/** How much one client may use of a server, and for how long. */
export interface HttpLimits {
  /** Bytes of request line and headers together; more is 431. */
  readonly maxHeaderBytes: number;
  /** How long the headers of a request may take from their first byte; longer is 408. */
  readonly headersTimeoutMs: number;
  /** How long no byte may move because of the client, in either direction, before the socket is destroyed. */
  readonly idleTimeoutMs: number;
  /** How long a connection may be idle between two requests. */
  readonly keepAliveTimeoutMs: number;
  /** How often the two limits on headers are checked. */
  readonly checkIntervalMs: number;
  /** From the headers of a request to those of its response; longer is 503. */
  readonly answerWithinMs: number;
  /**
   * How long to wait for the first byte of a body before its headers are sent. Until then a failure gets an error
   * response.
   */
  readonly bodyHeadersAfterMs: number;
  /**
   * How fast, on average and after some grace time, a client must receive a body that is in memory as a whole;
   * otherwise the socket is destroyed.
   */
  readonly wholeBodyBytesPerS: number;
  readonly wholeBodyFreeMs: number;
  /** Connections of one listener; further ones are closed at once. */
  readonly maxConnections: number;
}

/** The limits in production; tests use shorter ones. */
export const HTTP_LIMITS: HttpLimits = {
  // Kubernetes ServiceAccount tokens, and registry tokens with many scopes, have up to 8 KiB; this is enough for two
  // with long paths.
  maxHeaderBytes: 32 * 1024,
  // Headers fit into a packet or two, which arrive within seconds even over the worst network.
  headersTimeoutMs: 20_000,
  // Long enough for an interrupted route to come back, short enough that dead clients do not accumulate.
  idleTimeoutMs: 60_000,
  // Longer than the 60 s after which common load balancers drop an idle connection, so that they do it first.
  keepAliveTimeoutMs: 75_000,
  checkIntervalMs: 5_000,
  // Newer containerd gives up after 30 s, however long a credential plugin (60 s), the API server (30 s) or an upstream
  // takes.
  answerWithinMs: 20_000,
  bodyHeadersAfterMs: 15_000,
  // Slower than any network over which images are pulled. The longest such body, of 4 MiB, may take four minutes.
  wholeBodyBytesPerS: 16 * 1024,
  wholeBodyFreeMs: 10_000,
  // Each has a descriptor, and as many are needed for files, within the usual limit of 65,536.
  maxConnections: 16_384,
};
