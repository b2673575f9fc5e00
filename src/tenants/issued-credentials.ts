import type { IssuedCredential } from '../oci/issued-credential.ts';

/** What a timer can wait for at once; later ends are waited for in several steps. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** What was issued and when it ends, in memory. */
export class IssuedCredentials {
  readonly #nowMs: () => number;
  readonly #onEnd: (ids: ReadonlySet<string>) => void;
  #byId: ReadonlyMap<string, IssuedCredential> = new Map();
  #timer: NodeJS.Timeout | undefined;

  /** `onEnd` is told of credentials as their time comes. */
  constructor(nowMs: () => number, onEnd: (ids: ReadonlySet<string>) => void) {
    this.#nowMs = nowMs;
    this.#onEnd = onEnd;
  }

  /** Those that have ended too. */
  find(id: string): IssuedCredential | undefined {
    return this.#byId.get(id);
  }

  isLive({ endsAtMs }: IssuedCredential): boolean {
    return this.#nowMs() < endsAtMs;
  }

  /** Takes `credentials` as all that there are; returns those that differ from before. */
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
