import { type Credential, credentialId } from '../oci/credential.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';

/** So long the answer to one counts for others of the same credentials, who were authorized before it came. */
const FRESH_FOR_MS = 10_000;

/**
 * One of those a Fill may be downloaded for: a repository, and a right to ask upstream for it. Who reads on its
 * strength gets nothing before it is admitted, by upstream's answer or by a right that was settled before.
 */
export class Contender {
  readonly repository: Repository;
  readonly right: Right;
  /** Resolves when admitted, rejects with what a refused one hears. Never an unhandled rejection. */
  readonly admission: Promise<void>;
  #state: 'waiting' | 'admitted' | 'refused' = 'waiting';
  #isProved = false;
  #freshUntilMs = Number.POSITIVE_INFINITY;
  #resolve: (() => void) | undefined;
  #reject: ((reason: unknown) => void) | undefined;

  /** `isSettled`: the right to this very blob was proved before. Otherwise it rests on what upstream answers now. */
  constructor(repository: Repository, right: Right, isSettled: boolean) {
    this.repository = repository;
    this.right = right;
    this.admission = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.admission.catch(() => {});
    if (isSettled) this.admit();
  }

  get state(): 'waiting' | 'admitted' | 'refused' {
    return this.#state;
  }

  /** Whether upstream has yet to answer about it, or did so a moment ago. */
  get isFresh(): boolean {
    return performance.now() < this.#freshUntilMs;
  }

  /**
   * Whether what upstream tells this one it tells `right` in `repository` too. One with a right of its own, by which an
   * import or an answer of a mirror may have admitted it, speaks only for who has one too.
   */
  speaksFor(repository: Repository, right: Right): boolean {
    return (
      (hasOwn(right) || !hasOwn(this.right)) &&
      textOf(repository, right.credentials) === textOf(this.repository, this.right.credentials)
    );
  }

  /** Whether it was admitted by bytes that upstream gave or showed, or by a right from before, and not by a status. */
  get isProved(): boolean {
    return this.#isProved;
  }

  /** `byStatus`: for what upstream sends to it alone, which has to prove the right then. */
  admit({ byStatus = false }: { readonly byStatus?: boolean } = {}): void {
    if (this.#state !== 'waiting') return;
    this.#isProved = !byStatus;
    this.#state = 'admitted';
    this.#freshUntilMs = performance.now() + FRESH_FOR_MS;
    this.#resolve?.();
  }

  /** Too late for one that is admitted: what it was promised, it gets. */
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
