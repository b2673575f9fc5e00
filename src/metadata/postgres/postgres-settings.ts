/** What a database is reached with. Can be passed to a thread. */
export interface PostgresSettings {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  readonly password: string | undefined;
  /** Read for each new connection in place of `password`, since it may change. */
  readonly passwordFile: string | undefined;
  /** `undefined`: without TLS. */
  readonly tls: PostgresTls | undefined;
  /** How many connections at most, besides one for heartbeats. */
  readonly poolSize: number;
  /** Where the tables are; created if necessary. */
  readonly schema: string;
}

export interface PostgresTls {
  /** The CAs that the server's certificate is verified with; `undefined`: those that Node trusts. */
  readonly ca: string | undefined;
}
