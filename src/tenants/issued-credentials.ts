import type { IssuedCredential } from '../oci/issued-credential.ts';

/** The longest timeout of a timer; later ends take several. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Issued credentials and when they end, in memory. */
export class IssuedCredentials {
  readonly #nowMs: () => number;
  readonly #onEnd: (ids: ReadonlySet<string>) => void;
  #byId: ReadonlyMap<string, IssuedCredential> = new Map();
  #timer: NodeJS.Timeout | undefined;

  /** Calls `onEnd` with credentials when they end. */
  constructor(nowMs: () => number, onEnd: (ids: ReadonlySet<string>) => void) {
    this.#nowMs = nowMs;
    this.#onEnd = onEnd;
  }

  /** Including those that have ended. */
  find(id: string): IssuedCredential | undefined {
    return this.#byId.get(id);
  }

  isLive({ endsAtMs }: IssuedCredential): boolean {
    return this.#nowMs() < endsAtMs;
  }

  /** Replaces all credentials; returns those that differ from before. */
  set(credentials: readonly IssuedCredential[]): readonly IssuedCredential[] {
    const before = this.#byId;
    this.#byId = new Map(credentials.map(credential => [credential.id, credential]));
    this.#waitForEnd();
    return credentials.filter(({ id, endsAtMs }) => before.get(id)?.endsAtMs !== endsAtMs);
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  #waitForEnd(): void {
    clearTimeout(this.#timer);
    const nowMs = this.#nowMs();
    const ends = [...this.#byId.values()]
      .map(({ endsAtMs }) => endsAtMs)
      .filter(endsAtMs => endsAtMs > nowMs);
    const nextMs = ends.reduce((least, endsAtMs) => Math.min(least, endsAtMs), Number.POSITIVE_INFINITY);
    if (nextMs === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(() => this.#end(nextMs), Math.min(nextMs - nowMs, MAX_TIMER_MS));
    this.#timer.unref();
  }

  #end(atMs: number): void {
    const ended = [...this.#byId.values()].filter(one => one.endsAtMs === atMs && !this.isLive(one));
    if (ended.length > 0) this.#onEnd(new Set(ended.map(({ id }) => id)));
    this.#waitForEnd();
  }
}
