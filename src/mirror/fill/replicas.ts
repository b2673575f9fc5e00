/** A Fill in another replica, under the Lease with this epoch. */
export interface RemoteFill {
  /** The address of the replica, as in `LeaseState`. */
  readonly address: string;
  /** Of its Lease. */
  readonly key: string;
  readonly epoch: number;
}

/** Bytes of a Fill as another replica sends them. */
export interface RemoteBytes {
  /** Of the whole blob; `undefined` if it is not known there. */
  readonly size: number | undefined;
  /** The repositories for which upstream sends the blob to that replica, as `repositoryText`. */
  readonly repositories: readonly string[];
  /**
   * The next bytes, as soon as there are some; `undefined` at the end, when the index says what became of the Fill. Their memory
   * is reused after the next call, except for what has been lent. Rejects with ReplicaAway if the connection breaks.
   */
  next(): Promise<Uint8Array | undefined>;
  close(): void;
}

/** How a process reads the Fills of other replicas. */
export interface Replicas {
  /**
   * Opens a Fill from a byte on; resolves when upstream has begun to send it. Rejects with ReplicaAway if there is no such
   * Fill, or the replica cannot be reached. `signal` ends this, and what is read then, with its reason.
   */
  read(fill: RemoteFill, from: number, signal: AbortSignal): Promise<RemoteBytes>;
}

/** Another replica cannot be reached, or does not have what it was asked for. */
export class ReplicaAway extends Error {
  override readonly name = 'ReplicaAway';
  /**
   * Whether its machine says that nobody listens at its address, as after a process was killed. One that is suspended, busy or
   * cut off does not refuse connections, unless something in between does it for it.
   */
  readonly isRefused: boolean;
  /** Whether one side does not take the other for a replica. */
  readonly isDistrusted: boolean;

  constructor(message: string, why: { cause?: unknown; isRefused?: boolean; isDistrusted?: boolean } = {}) {
    super(message, { cause: why.cause });
    this.isRefused = why.isRefused ?? false;
    this.isDistrusted = why.isDistrusted ?? false;
  }
}
