import type { Clock } from '../../lib/clock.ts';
import type { Digest } from '../../oci/digest.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import type { Right } from '../../oci/requester.ts';
import { ociErrorOf, UpstreamFailure } from '../../upstream/failures.ts';
import type { HeldBytes } from '../blob-proof.ts';
import type { Links } from '../links.ts';
import { Contender } from './contender.ts';

/** In how many names a download may continue; more readers need no more alternatives. */
const MAX_CONTENDERS = 64;

/** The contenders of a Fill, in the order in which they came. Those that upstream refuses are removed. */
export class Contenders {
  readonly #digest: Digest;
  readonly #links: Links;
  readonly #clock: Clock;
  #contenders: readonly Contender[] = [];
  #areSettled = true;
  /** As text: the repositories for which upstream sends the blob to another replica. */
  readonly #givenElsewhere = new Set<string>();

  constructor(digest: Digest, links: Links, clock: Clock) {
    this.#digest = digest;
    this.#links = links;
    this.#clock = clock;
  }

  /** Whether the rights of all contenders that ever came were proved before. */
  get areSettled(): boolean {
    return this.#areSettled;
  }

  /** The contender in whose name upstream is currently asked. */
  get current(): Contender | undefined {
    return this.#contenders[0];
  }

  /** Their `Requester.id`s, each once. */
  get requesters(): readonly string[] {
    return [...new Set(this.#contenders.map(({ right }) => right.requester.id))];
  }

  /** Whether upstream's answer about some is pending. */
  get areWaiting(): boolean {
    return this.#contenders.some(({ state }) => state === 'waiting');
  }

  /**
   * Upstream sends the blob to another replica for these repositories (`repositoryText`): admits those with a right to the
   * whole of one of them.
   */
  givenElsewhere(repositories: readonly string[]): void {
    for (const repository of repositories) this.#givenElsewhere.add(repository);
    for (const contender of this.#contenders) {
      const { repository, right } = contender;
      if (right.proved && this.#givenElsewhere.has(repositoryText(repository)))
        contender.admit({ isEarlier: true });
    }
  }

  /** The repositories for which a contender was admitted by upstream's bytes or an earlier right, as text. */
  get provedRepositories(): readonly string[] {
    const proved = this.#contenders.filter(({ state, isProved }) => state === 'admitted' && isProved);
    return [...new Set(proved.map(({ repository }) => repositoryText(repository)))];
  }

  /** Adds a contender. `isSettled`: its right to this blob was proved before, so upstream need not be asked. */
  add(repository: Repository, right: Right, isSettled: boolean): Contender {
    const contender = new Contender(repository, right, isSettled, this.#clock);
    this.#areSettled &&= isSettled;
    if (this.#contenders.length < MAX_CONTENDERS) this.#contenders = [...this.#contenders, contender];
    return contender;
  }

  /**
   * The contender whose admission also covers this requester, because it has the same credentials, or a new one,
   * because the requester has a right to the whole of a repository for which another was admitted, here or in another
   * replica; otherwise `undefined`. `isTrueNow` tells whether upstream would still answer the same about a contender, as
   * far as is known in any process: a requester without a proved right depends on it.
   */
  async joining(
    repository: Repository,
    right: Right,
    isTrueNow: (contender: Contender) => Promise<boolean>,
  ): Promise<Contender | undefined> {
    const speakers = this.#contenders.filter(contender => contender.speaksFor(repository, right));
    if (!right.proved) {
      for (const speaker of speakers) if (await isTrueNow(speaker)) return speaker;
      return undefined;
    }
    if (speakers.length > 0 || !this.#isAdmitted(repository)) return speakers[0];
    const contender = this.add(repository, right, false);
    contender.admit({ isEarlier: true });
    return contender;
  }

  refuse(contender: Contender, reason: unknown): void {
    contender.refuse(clientErrorOf(reason, contender));
    this.#contenders = this.#contenders.filter(other => other !== contender);
  }

  /** For readers that each receive what upstream sends to them alone. */
  admitAll(): void {
    for (const contender of this.#contenders) contender.admit({ byStatus: true });
  }

  refuseAll(reason: unknown): void {
    for (const contender of this.#contenders) contender.refuse(clientErrorOf(reason, contender));
  }

  /**
   * Asks upstream by HEAD about each waiting contender, which finds those that it refuses; and, while the size is
   * needed, also about admitted ones. Returns the size if upstream announced it. Rejects when upstream has refused all.
   */
  async ask({ needsSize }: { readonly needsSize: boolean }): Promise<number | undefined> {
    let size: number | undefined;
    await this.#each(
      ({ state }) => state === 'waiting' || (needsSize && size === undefined),
      async ({ repository, right }) => {
        size ??= (await this.#links.size(repository, this.#digest, right)).size;
      },
    );
    return size;
  }

  /**
   * Makes upstream prove to each waiting contender that it has the stored bytes, and admits those for which it does.
   * Returns them. Rejects when upstream has refused all. Those to whose repository the blob was found to belong meanwhile,
   * and whose right covers it, are admitted without.
   */
  async show(held: HeldBytes): Promise<readonly Contender[]> {
    const shown: Contender[] = [];
    await this.#each(
      ({ state }) => state === 'waiting',
      async contender => {
        const { repository, right } = contender;
        const isSettled = held.isVerified && (await this.#links.isSettled(repository, this.#digest, right));
        if (!isSettled) {
          await this.#links.confirm(repository, this.#digest, right, held);
          shown.push(contender);
        }
        contender.admit({ isEarlier: isSettled });
      },
    );
    return shown;
  }

  async #each(
    isMeant: (contender: Contender) => boolean,
    ask: (contender: Contender) => Promise<void>,
  ): Promise<void> {
    let failure: UpstreamFailure | undefined;
    for (const contender of this.#contenders) {
      if (!isMeant(contender)) continue;
      try {
        await ask(contender);
      } catch (error) {
        if (!(error instanceof UpstreamFailure)) throw error;
        failure = error;
        if (contender.state === 'waiting') this.refuse(contender, error);
      }
    }
    if (failure !== undefined && this.#contenders.length === 0) throw failure;
  }

  #isAdmitted(repository: Repository): boolean {
    const text = repositoryText(repository);
    return (
      this.#givenElsewhere.has(text) ||
      this.#contenders.some(other => other.state === 'admitted' && repositoryText(other.repository) === text)
    );
  }
}

/** Names the contender's own upstream: that of others is not its business. */
function clientErrorOf(reason: unknown, { repository }: Contender): unknown {
  return reason instanceof UpstreamFailure ? ociErrorOf(reason, 'BLOB_UNKNOWN', repository.upstream) : reason;
}

/** The error when no contender is left. */
export function nobodyLeft(): UpstreamFailure {
  return new UpstreamFailure('denied', 'no client is allowed to request this blob from upstream');
}
