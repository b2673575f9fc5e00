import type { Identity } from './identity.ts';
import type { Sender } from './subject.ts';
import type { VerifiedToken } from './tokens.ts';

/** Once a second is rare enough, and often enough for what is remembered for as long as it is used. */
const KEPT_MS = 1_000;

/** What a request proved. */
export interface Proved {
  readonly identity: Identity;
  /** The token by which it was proved, if any: it may expire. */
  readonly token: VerifiedToken | undefined;
}

interface Kept extends Proved {
  readonly authorization: string | undefined;
  readonly remote: string;
  readonly untilMs: number;
}

/**
 * What each connection proved last. Clients send the same header with each request, and to parse it and look its credential
 * up costs as much as all else that is decided about the request.
 */
export class RecentProofs {
  /** Replaced by `clear`: what is being proved then is kept in the one that nobody asks any more. */
  #kept = new WeakMap<object, Kept>();

  /** What the connection of `sender` proved with the same header a moment ago, since the last `clear`. */
  find({ connection, authorization, remote }: Sender): Proved | undefined {
    const kept = this.#kept.get(connection);
    const isSame = kept?.authorization === authorization && kept?.remote === remote;
    return isSame && performance.now() < kept.untilMs ? kept : undefined;
  }

  /** Call it before something is proved, and what it returns with the result. */
  keeper({ connection, authorization, remote }: Sender): (proved: Proved) => void {
    const proofs = this.#kept;
    return ({ identity, token }) => {
      const untilMs = performance.now() + KEPT_MS;
      proofs.set(connection, { identity, token, authorization, remote, untilMs });
    };
  }

  /** Forgets everything: what was proved may not be true any more. */
  clear(): void {
    this.#kept = new WeakMap();
  }
}
