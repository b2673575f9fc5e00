import { TurnBatches } from '../turn-batches.ts';
import type { Connection } from './connection.ts';
import type { IndexVersion } from './index-version.ts';

/** Returns the version of the index since the read was asked for, or later; see `IndexVersion.look`. */
export type LookAtVersion = () => number;

/** The reads that pulls are answered from. Several share a look at the version of the index: each look costs as much as it saves. */
export class PullReads {
  readonly #connection: Pick<Connection, 'read'>;
  readonly #batches: TurnBatches<LookAtVersion>;

  constructor(connection: Pick<Connection, 'read'>, version: Pick<IndexVersion, 'look'>) {
    this.#connection = connection;
    this.#batches = new TurnBatches(() => once(() => version.look()));
  }

  /** Runs `work`, which only reads, at the end of this turn or before; as `Connection.read` does if the index is locked. */
  read<T>(work: (look: LookAtVersion) => T | Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#batches.add(look => void this.#connection.read(() => work(look)).then(resolve, reject));
    });
  }
}

/** A read that is repeated, since the index was locked, may use an earlier look: it is later than the read was asked for. */
function once(look: LookAtVersion): LookAtVersion {
  let seen: number | undefined;
  return () => (seen ??= look());
}
