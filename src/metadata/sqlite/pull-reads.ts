import type { Connection } from './connection.ts';
import type { IndexVersion } from './index-version.ts';

/** Returns the version of the index since the read was asked for, or later; see `IndexVersion.look`. */
export type LookAtVersion = () => number;

/** A look is cheap then, and few requests are in memory together: with all of 64 connections', the garbage collector moves them. */
const MAX_TOGETHER = 8;

/**
 * The reads that pulls are answered from. Those that are asked for in one turn of the event loop are done at its end, some at
 * a time, with one look at the version of the index for these: a look costs as much as what it saves, and code that runs for
 * several requests in a row costs less.
 */
export class PullReads {
  readonly #connection: Pick<Connection, 'read'>;
  readonly #version: Pick<IndexVersion, 'look'>;
  #asked: ((look: LookAtVersion) => void)[] = [];

  constructor(connection: Pick<Connection, 'read'>, version: Pick<IndexVersion, 'look'>) {
    this.#connection = connection;
    this.#version = version;
  }

  /** Runs `work`, which only reads, at the end of this turn or before; as `Connection.read` does if the index is locked. */
  read<T>(work: (look: LookAtVersion) => T | Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#asked.length === 0) setImmediate(() => this.#answer());
      this.#asked.push(look => void this.#connection.read(() => work(look)).then(resolve, reject));
      if (this.#asked.length === MAX_TOGETHER) this.#answer();
    });
  }

  #answer(): void {
    const asked = this.#asked;
    this.#asked = [];
    const look = once(() => this.#version.look());
    for (const answer of asked) answer(look);
  }
}

/** A read that is repeated, since the index was locked, may use an earlier look: it is later than the read was asked for. */
function once(look: LookAtVersion): LookAtVersion {
  let seen: number | undefined;
  return () => (seen ??= look());
}
