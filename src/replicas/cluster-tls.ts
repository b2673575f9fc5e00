import type { ConnectionOptions, TLSSocket, TlsOptions } from 'node:tls';

/** How replicas prove to each other that they belong together, and encrypt what they send. */
export interface ClusterTls {
  /** For a server, to which no other side can connect. */
  readonly forServer: TlsOptions;
  /** For a client, which connects to no other side. Read for each connection. */
  readonly forClient: ConnectionOptions;
  /** Whether the client of a connection to such a server is a replica, as far as the handshake has not decided it. */
  admits(socket: TLSSocket): boolean;
  /** Whether a request has failed because one side does not trust the other; `isSecured`: after the handshake. */
  isDistrust(failure: unknown, isSecured: boolean): boolean;
  /** Increases when keys or certificates are replaced: an older connection may rely on some that are no longer valid. */
  readonly version: number;
  /** Calls `renewed` when `version` has increased. */
  follow(renewed: () => void): void;
}
