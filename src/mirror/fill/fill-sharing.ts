import type { Log } from '../../lib/log.ts';
import { unlessAborted } from '../../lib/single-flight.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import type { Right } from '../../oci/requester.ts';
import { UpstreamFailure } from '../../upstream/failures.ts';
import type { HeldBytes } from '../blob-proof.ts';
import { admits, type Links } from '../links.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import type { Contender } from './contender.ts';
import { Contenders } from './contenders.ts';
import { type Delivery, OVERLAP_BYTES } from './download.ts';
import { FillProofs } from './fill-proofs.ts';
import type { Fill } from './fill.ts';
import { type PullPlace, waiterOf } from './pull-queue.ts';

/** How much of a larger blob must be there before upstream's bytes are compared with it. */
const SHOWABLE_BYTES = 64 * 1024;
/** At most this much is compared of a blob in progress: an upstream without ranges sends all of it each time. */
const MAX_SHOWN_BYTES = 1024 * 1024;

/** A requester of a Fill. */
export interface FillRequest {
  readonly repository: Repository;
  readonly right: Right;
  /** The size in bytes according to a Link or a manifest of the repository. */
  readonly namedSize: number | undefined;
  /** Whether the right to this blob was proved before. */
  readonly settled: boolean;
}

export interface FillSharingOptions {
  readonly fill: Fill;
  readonly asking: UpstreamRequests;
  readonly links: Links;
  /** Where the Fill waits for its turn. */
  readonly place: PullPlace;
  readonly log: Log;
  /** Ends what is asked of upstream, when the Fill is stopped. */
  readonly signal: AbortSignal;
}

/**
 * How several requesters share one Fill: in whose name it is downloaded, who may read it, and which size they expect.
 * A requester that has not proved its right waits until upstream sends the blob in its name, or proves to it that it
 * has the bytes that are there.
 */
export class FillSharing {
  /** The contender for which the Fill was started. */
  readonly starter: Contender;
  readonly #options: FillSharingOptions;
  readonly #contenders: Contenders;
  readonly #proofs: FillProofs;
  /** The sizes that were declared for the blob; `undefined` for requesters without one. */
  readonly #namedSizes = new Set<number | undefined>();
  /** The same by repository, as `repositoryText`. */
  readonly #namedSizesIn = new Map<string, number>();

  constructor(options: FillSharingOptions, { repository, right, settled, namedSize }: FillRequest) {
    const { fill, asking, links, log } = options;
    this.#options = options;
    this.#contenders = new Contenders(fill.digest, links, asking.clock);
    this.#proofs = new FillProofs({ digest: fill.digest, asking, links, log });
    this.starter = this.#contenders.add(repository, right, settled);
    this.#noteSize(repository, namedSize);
  }

  /**
   * Joins as a reader. Returns the contender whose admission the reader depends on; `undefined` if the requester's
   * right is not known yet. It can then `wait` for upstream to prove what is `shown`.
   */
  async join({ repository, right, settled, namedSize }: FillRequest): Promise<Contender | undefined> {
    const contender = settled
      ? this.#contenders.add(repository, right, true)
      : await this.#contenders.joining(repository, right, other => this.#isTrueNow(other));
    return contender && this.#joined(contender, namedSize);
  }

  /**
   * Joins as a contender that reads nothing before it is admitted: by the caller, or when the download continues in its
   * name.
   */
  wait({ repository, right, namedSize }: Omit<FillRequest, 'settled'>): Contender {
    return this.#joined(this.#contenders.add(repository, right, false), namedSize);
  }

  /** Admits a waiting contender to which upstream has proved that it has the bytes of `held`. */
  admit(contender: Contender, held: HeldBytes): void {
    contender.admit();
    if (held.isVerified) return;
    this.#proofs.noteShown(contender);
    if (this.#options.fill.state === 'verified') void this.linkShown();
  }

  /** Refuses a contender that is still waiting. */
  refuse(contender: Contender, reason: unknown): void {
    if (contender.state === 'waiting') this.#contenders.refuse(contender, reason);
  }

  /** For readers that each receive what upstream sends to them alone. */
  admitAll(): void {
    this.#contenders.admitAll();
  }

  refuseAll(reason: unknown): void {
    this.#contenders.refuseAll(reason);
  }

  /** Whether there are enough bytes to make upstream prove the same to another requester. */
  get isShowable(): boolean {
    const { state, length, size } = this.#options.fill;
    if (state === 'verified') return true;
    return state !== 'failed' && length > 0 && length >= Math.min(SHOWABLE_BYTES, size ?? SHOWABLE_BYTES);
  }

  /** The bytes, once there are enough of them for another requester's proof; `undefined` if the Fill fails before. */
  async shown(): Promise<HeldBytes | undefined> {
    const { fill } = this.#options;
    // Without a known size the bytes would prove nothing, so wait for it.
    await fill.until(() => (this.isShowable && fill.size !== undefined) || undefined).catch(() => {});
    return this.isShowable ? this.#held() : undefined;
  }

  /** Asks upstream which waiting contenders it refuses, and for the size. Rejects when it has refused all. */
  async ask(): Promise<void> {
    const { fill, signal } = this.#options;
    const asking = this.#contenders.ask({ needsSize: fill.size === undefined });
    const size = await unlessAborted(asking, signal);
    if (size !== undefined && fill.size === undefined) fill.learnSize(size);
  }

  /**
   * Makes upstream prove to each waiting contender that it has the bytes that are there, and admits those for which it
   * does. `isVerified`: they have the blob's digest. Rejects when upstream has refused all.
   */
  async show({ isVerified }: { readonly isVerified: boolean }): Promise<void> {
    const held = this.#held(isVerified);
    const showing = this.#contenders.show(held);
    for (const contender of await unlessAborted(showing, this.#options.signal)) this.admit(contender, held);
  }

  /** Whether upstream has still to be asked about somebody. */
  get isAwaited(): boolean {
    return this.#contenders.areWaiting;
  }

  /** As in `Contenders`. */
  givenElsewhere(repositories: readonly string[]): void {
    this.#contenders.givenElsewhere(repositories);
  }

  /** As in `Contenders`. */
  get provedRepositories(): readonly string[] {
    return this.#contenders.provedRepositories;
  }

  /** The contender in whose name upstream is currently asked. */
  get current(): Contender | undefined {
    return this.#contenders.current;
  }

  /** Their `Requester.id`s, each once. */
  get requesters(): readonly string[] {
    return this.#contenders.requesters;
  }

  /** The size that all requesters agree on. Upstream's has to be the same, or nobody could read the blob. */
  get agreedSize(): number | undefined {
    const [size] = this.#namedSizes;
    return this.#namedSizes.size === 1 ? size : undefined;
  }

  /** The size that requesters of this repository have declared, if any. */
  namedSizeIn(repository: Repository): number | undefined {
    return this.#namedSizesIn.get(repositoryText(repository));
  }

  /** The maximum size: upstream's, else the largest that was declared; `undefined` if unknown. */
  get limitBytes(): number | undefined {
    const { size: given } = this.#options.fill;
    if (given !== undefined) return given;
    const named = [...this.#namedSizes].filter(size => size !== undefined);
    return named.length === 0 ? undefined : Math.max(...named);
  }

  /**
   * Whether the Fill may have what upstream sent before to requesters like the starter: only if its right to that is
   * proved, and upstream has not refused it since.
   */
  get mayTakePieces(): boolean {
    const { starter } = this;
    if (this.current !== starter) return false;
    const { repository, right, settled } = starter;
    const { links, fill } = this.#options;
    return settled || right.proved || links.isPartGiven(repository, fill.digest, right);
  }

  /** The bytes from `position` on were copied from what upstream sent for the starter's repository before. */
  copied(position: number): void {
    this.#proofs.noteEarlier(this.starter, position);
    this.starter.admit({ isEarlier: true });
  }

  /** Whether upstream has begun to send the blob to anybody. */
  get isGiven(): boolean {
    return !this.#proofs.isEmpty;
  }

  /** Whether there are readers that upstream has sent too little to be sure that it is the blob. */
  get isDoubtful(): boolean {
    const { fill } = this.#options;
    return fill.length < OVERLAP_BYTES && this.#proofs.hasAny && !this.#contenders.areSettled;
  }

  /** Upstream begins to send to a contender. False if that does not let the contender have the blob. */
  given(delivery: Delivery): boolean {
    const { fill } = this.#options;
    const { contender, answer, from, shownBytes } = delivery;
    // Bytes that were downloaded for others are no proof for a response that continues them without an overlap.
    const isProof = from === 0 || shownBytes > 0;
    if (contender.state === 'waiting' && !(isProof && admits(answer, contender.right))) return false;
    if (fill.size === undefined && answer.size !== undefined) fill.learnSize(answer.size);
    this.#proofs.noteGiven(delivery);
    contender.admit();
    return true;
  }

  /**
   * Continues in the next contender's name, whose bytes also go to the readers of the refused one. If upstream began to
   * answer the refused one with something else than the blob, the overlap will differ; throws if there is too little to
   * compare.
   */
  refused(contender: Contender, failure: UpstreamFailure): void {
    this.#contenders.refuse(contender, failure);
    if (this.#contenders.current !== undefined && this.isDoubtful) throw nothingShown();
  }

  /**
   * All bytes are verified: records the rights of those to whom enough of them were sent. Returns their repositories,
   * to which the blob belongs.
   */
  verified(): Promise<readonly Repository[]> {
    return this.#proofs.verified(this.#options.fill.length);
  }

  /** Links the verified blob for those to whom upstream proved parts of it before. Never rejects. */
  async linkShown(): Promise<void> {
    const linking = this.#proofs.linkShown(this.#held(true));
    await unlessAborted(linking, this.#options.signal).catch(() => {});
  }

  /**
   * Whether upstream's answer about the contender, which may be pending, is also one about equal requesters that come now: it
   * is not if the right has ended since upstream was asked, whichever process has noticed that.
   */
  async #isTrueNow(contender: Contender): Promise<boolean> {
    if (contender.isFresh && !(await this.#hasEndedSince(contender))) return true;
    return this.#proofs.isGivenTo(contender);
  }

  /** Whether the right of any of its credentials has ended since it came, or may have. */
  async #hasEndedSince({ repository, right, sinceMs }: Contender): Promise<boolean> {
    for (const credential of right.credentials)
      if (await this.#options.asking.hasEndedAnywhereSince(sinceMs, repository, credential)) return true;
    return false;
  }

  /** The Fill may now also begin in the turn of this requester, if it comes first. */
  #joined(contender: Contender, namedSize: number | undefined): Contender {
    this.#options.place.join(waiterOf(contender.right.requester));
    this.#noteSize(contender.repository, namedSize);
    return contender;
  }

  #noteSize(repository: Repository, namedSize: number | undefined): void {
    this.#namedSizes.add(namedSize);
    if (namedSize !== undefined) this.#namedSizesIn.set(repositoryText(repository), namedSize);
  }

  /** What is there, to be compared with what upstream sends to another requester. */
  #held(isVerified = this.#options.fill.state === 'verified'): HeldBytes {
    const { fill } = this.#options;
    return {
      size: fill.size,
      length: isVerified ? fill.length : Math.min(fill.length, MAX_SHOWN_BYTES),
      isVerified,
      open: async () => {
        const leave = fill.hold();
        return {
          read: (buffer, position) => fill.read(buffer, position),
          close: async () => leave(),
        };
      },
    };
  }
}

/** The error when a download cannot continue: upstream has sent too little to tell whether it is the blob. */
function nothingShown(): UpstreamFailure {
  return new UpstreamFailure(
    'unavailable',
    'upstream closed the connection before it proved that it has the blob',
    { obstacle: 'broken' },
  );
}
