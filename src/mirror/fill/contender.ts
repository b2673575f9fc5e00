import type { Clock } from '../../lib/clock.ts';
import { type Credential, credentialId } from '../../oci/credential.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import type { Right } from '../../oci/requester.ts';

/** How long upstream's answer about one contender is also accepted for others with the same credentials. */
const FRESH_FOR_MS = 10_000;

interface AdmitOptions {
  readonly byStatus?: boolean;
  readonly isEarlier?: boolean;
}

/**
 * One of the requesters in whose name a Fill may be downloaded: a repository, and a right to ask upstream for it.
 * Readers that depend on a contender receive nothing before it is admitted, either by upstream's answer or by a right
 * that was proved before.
 */
export class Contender {
  readonly repository: Repository;
  readonly right: Right;
  /** Whether the right to this blob was proved before. */
  readonly settled: boolean;
  /** When it came, by `Clock.monotonicMs`: upstream is asked about it later. */
  readonly sinceMs: number;
  /** Resolves when admitted; rejects with the client's error when refused. Never causes an unhandled rejection. */
  readonly admission: Promise<void>;
  readonly #clock: Clock;
  #state: 'waiting' | 'admitted' | 'refused' = 'waiting';
  #isProved = false;
  #freshUntilMs = Number.POSITIVE_INFINITY;
  #resolve: (() => void) | undefined;
  #reject: ((reason: unknown) => void) | undefined;

  /** Unless `settled`, upstream's answer decides. */
  constructor(repository: Repository, right: Right, settled: boolean, clock: Clock) {
    this.#clock = clock;
    this.repository = repository;
    this.right = right;
    this.settled = settled;
    this.sinceMs = clock.monotonicMs();
    this.admission = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.admission.catch(() => {});
    if (settled) this.admit({ isEarlier: true });
  }

  get state(): 'waiting' | 'admitted' | 'refused' {
    return this.#state;
  }

  /** Whether upstream's answer about it is pending, or arrived a moment ago. */
  get isFresh(): boolean {
    return this.#clock.monotonicMs() < this.#freshUntilMs;
  }

  /**
   * Whether upstream's answer about this contender also applies to `right` in `repository`. A contender with a right of
   * its own may have been admitted by an import or a mirror's response, so it only speaks for others that have such a
   * right, too.
   */
  speaksFor(repository: Repository, right: Right): boolean {
    return (
      (hasOwn(right) || !hasOwn(this.right)) &&
      textOf(repository, right.credentials) === textOf(this.repository, this.right.credentials)
    );
  }

  /** Whether it was admitted by bytes that upstream sent, or by an earlier right, rather than by a status code. */
  get isProved(): boolean {
    return this.#isProved;
  }

  /**
   * `byStatus`: for what upstream sends to it alone, which will have to prove the right. `isEarlier`: by a right that was
   * proved before, so that upstream has not answered about it.
   */
  admit({ byStatus = false, isEarlier = false }: AdmitOptions = {}): void {
    if (this.#state !== 'waiting') return;
    this.#isProved = !byStatus;
    this.#state = 'admitted';
    this.#freshUntilMs = isEarlier ? Number.NEGATIVE_INFINITY : this.#clock.monotonicMs() + FRESH_FOR_MS;
    this.#resolve?.();
  }

  /** Has no effect on a contender that is already admitted. */
  refuse(reason: unknown): void {
    if (this.#state !== 'waiting') return;
    this.#state = 'refused';
    this.#reject?.(reason);
  }
}

function hasOwn({ proved, provedIfUnreachable }: Right): boolean {
  return proved || provedIfUnreachable;
}

function textOf(repository: Repository, credentials: readonly (Credential | undefined)[]): string {
  return [repositoryText(repository), ...credentials.map(credentialId)].join(' ');
}
