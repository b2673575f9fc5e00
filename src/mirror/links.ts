import type { Log } from '../lib/log.ts';
import { Lru } from '../lib/lru.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type Credential, credentialId } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { Answer, BlobHead } from '../upstream/upstream.ts';
import { type UpstreamRequests, blobReference, headOfBlob } from './upstream-requests.ts';
import { type HeldBytes, proveBlob, type Shown } from './blob-proof.ts';
import { logUnstored } from './log-unstored.ts';

/** Manifests of artifacts name the digests of an empty blob and of `{}`, which a server may return for any request. */
const TELLING_BYTES = 256;
/** Few requesters ask for blobs that no manifest names, or without having asked for a manifest. */
const MAX_GIVEN = 10_000;

/** The result of asking upstream about a blob. */
export interface Confirmed<Size = number> {
  /** The size of the whole blob in bytes. */
  readonly size: Size;
  readonly joined: boolean;
}

/** A blob that upstream has sent completely. */
export interface Given {
  /** The size of the whole blob in bytes. */
  readonly size: number;
  readonly credential: Credential | undefined;
  /** By `UpstreamRequests.clock`. */
  readonly sinceMs: number;
}

/** When upstream began to send something, by `clock.monotonicMs()`, and when that was noted, by the wall clock. */
interface GivenTime {
  readonly sinceMs: number;
  readonly atMs: number;
}

export interface LinkRules {
  /** For how long a proof is valid; read each time. */
  readonly verifyForMs: number;
}

export interface LinksOptions {
  readonly rules: LinkRules;
  readonly log: Log;
}

/**
 * Which blobs belong to which mirrored repository. Only a response of upstream for that repository creates a Link,
 * never a manifest that names the blob or equal content elsewhere: those save the transfer, not the proof.
 */
export class Links {
  readonly #metadata: MetadataStore;
  readonly #asking: UpstreamRequests;
  readonly #flights = new SingleFlight<BlobHead>();
  readonly #proofs = new SingleFlight<Shown>();
  /**
   * Blobs that upstream sent to a credential, if that proves no right to anything else: when the transfer began and
   * ended.
   */
  readonly #given = new Lru<GivenTime>({ maxEntries: MAX_GIVEN });
  /** The same for blobs of which upstream has sent parts. */
  readonly #partGiven = new Lru<GivenTime>({ maxEntries: MAX_GIVEN });
  readonly #rules: LinkRules;
  readonly #log: Log;

  constructor(metadata: MetadataStore, asking: UpstreamRequests, { rules, log }: LinksOptions) {
    this.#metadata = metadata;
    this.#asking = asking;
    this.#rules = rules;
    this.#log = log;
  }

  /** Whether the blob may be served to this requester without asking upstream. */
  async isSettled(repository: Repository, digest: Digest, right: Right): Promise<boolean> {
    if (!(await this.#metadata.isLinked(repository, digest))) return false;
    await this.forgetEnded(repository, digest, right);
    return this.covers(repository, digest, right);
  }

  /**
   * Forgets what upstream has sent of the blob to credentials whose right another process on the index has seen end since.
   * Call before `covers` and `isPartGiven` decide about a request. Asks nothing if the right is proved, or nothing was
   * sent.
   */
  async forgetEnded(repository: Repository, digest: Digest, { proved, credentials }: Right): Promise<void> {
    if (proved) return;
    for (const credential of credentials) {
      const key = givenText(repository, digest, credential);
      for (const times of [this.#given, this.#partGiven]) {
        const given = times.get(key);
        if (given === undefined) continue;
        const hasEnded = await this.#asking.hasEndedAnywhereSince(given.sinceMs, repository, credential);
        if (hasEnded && times.get(key) === given) times.delete(key);
      }
    }
  }

  /** Whether the right covers the blob, provided that it is linked in the repository. */
  covers(repository: Repository, digest: Digest, right: Right): boolean {
    return (
      right.proved ||
      right.credentials.some(credential => this.#isGiven(this.#given, repository, digest, credential))
    );
  }

  /**
   * Whether `url` has sent a part of the blob to one of the credentials. What it sent to requesters with the same
   * credentials may then be served without asking it again; as long as that is not known to be the blob, nothing else.
   */
  isPartGiven(repository: Repository, digest: Digest, { credentials, isLent }: Right): boolean {
    const isGiven = (credential: Credential | undefined): boolean =>
      this.#isGiven(this.#partGiven, repository, digest, credential);
    // What lent credentials were given is not for those to whom they are lent.
    return isLent !== true && credentials.some(isGiven);
  }

  /**
   * Asks upstream for the size of the blob by HEAD, once for concurrent callers; `undefined` if upstream does not
   * announce it. A status code proves nothing, so this creates neither a Link nor a Grant.
   */
  async size(repository: Repository, digest: Digest, right: Right): Promise<Confirmed<number | undefined>> {
    const known = await this.#metadata.isLinked(repository, digest);
    const head = headOfBlob(repository, digest);
    const { answer, joined } = await this.#asking.ask(
      {
        repository,
        reference: blobReference(digest),
        shared: this.#flights,
        proves: false,
        known,
        head,
      },
      right,
      head,
    );
    if (!admits(answer, right)) throw unproved();
    return { size: answer.size, joined };
  }

  /**
   * Makes upstream prove to this requester that the repository has these bytes. If they are verified, this creates the
   * Link. If they are a download in progress, it only lets this requester read that.
   */
  async confirm(repository: Repository, digest: Digest, right: Right, held: HeldBytes): Promise<Confirmed> {
    const known = await this.#metadata.isLinked(repository, digest);
    const { isVerified, length } = held;
    const isTelling = isVerified && (await this.#isTelling(repository, digest, length));
    const sinceMs = this.#asking.clock.monotonicMs();
    const { answer, credential, joined } = await this.#asking.ask(
      {
        repository,
        // A failed comparison says nothing about whether upstream has the blob, so it is remembered separately.
        reference: `proof of ${blobReference(digest)}`,
        // Not shared if the bytes are unverified: they may be wrong, so a match proves nothing for others.
        shared: isVerified ? this.#proofs : undefined,
        proves: isTelling,
        known,
        head: headOfBlob(repository, digest),
      },
      right,
      (upstream, ask) =>
        proveBlob(digest, held, part => upstream.fetchBlob(repository.name, digest, { ...ask, ...part })),
    );
    if (!admits(answer, right)) throw unproved();
    if (isVerified && !known) await this.#keep(repository, digest, answer.size);
    if (isVerified && !isTelling && answer.proof) this.#remember(repository, digest, credential, sinceMs);
    return { size: answer.size, joined };
  }

  /** `url` has sent the whole blob to the credential, and the digest is right. `sinceMs`: when it began. */
  async noteGiven(
    repository: Repository,
    digest: Digest,
    { size, credential, sinceMs }: Given,
  ): Promise<void> {
    if (await this.#isTelling(repository, digest, size)) {
      await this.#asking.granted(repository, credential, sinceMs);
    } else this.#remember(repository, digest, credential, sinceMs);
  }

  /** `url` sends a part of the blob, and its size, to the credential. `sinceMs`: when it began. */
  notePartGiven(
    repository: Repository,
    digest: Digest,
    { credential, sinceMs }: Pick<Given, 'credential' | 'sinceMs'>,
  ): void {
    const given = { sinceMs, atMs: this.#asking.clock.nowMs() };
    this.#partGiven.set(givenText(repository, digest, credential), given, this.#rules.verifyForMs);
  }

  /**
   * Call when Secrets have changed: somebody may still know the password of one that is gone, so upstream is asked
   * again.
   */
  forgetGiven(): void {
    this.#given.clear();
    this.#partGiven.clear();
  }

  #remember(
    repository: Repository,
    digest: Digest,
    credential: Credential | undefined,
    sinceMs: number,
  ): void {
    const given = { sinceMs, atMs: this.#asking.clock.nowMs() };
    this.#given.set(givenText(repository, digest, credential), given, this.#rules.verifyForMs);
  }

  #isGiven(
    times: Lru<GivenTime>,
    repository: Repository,
    digest: Digest,
    credential: Credential | undefined,
  ): boolean {
    const given = times.get(givenText(repository, digest, credential));
    if (given === undefined) return false;
    // The wall clock, since the machine may have been suspended. If it was set back, the age is unknown.
    const ageMs = this.#asking.clock.nowMs() - given.atMs;
    if (ageMs < 0 || ageMs >= this.#rules.verifyForMs) return false;
    return !this.#asking.hasEndedSince(given.sinceMs, repository, credential);
  }

  /**
   * Whether a requester that gets the blob from upstream may read the whole repository. The digest must be in one of
   * its manifests: any other was chosen by the requester, and may be that of a response that upstream gives to every
   * request.
   */
  async #isTelling(repository: Repository, digest: Digest, size: number): Promise<boolean> {
    return size >= TELLING_BYTES && (await this.#metadata.isNamed(repository, digest));
  }

  /** If the index accepts no write, the Link is lost and the next requester asks again; this one gets its answer. */
  async #keep(repository: Repository, digest: Digest, size: number): Promise<void> {
    try {
      await this.#metadata.linkBlob(repository, digest, size);
    } catch (error) {
      logUnstored(this.#log, error, { digest }, 'a link could not be stored');
    }
  }

  /** Creates the Link in the background: the current requester does not need it. */
  add(repository: Repository, digest: Digest, size: number): void {
    this.#metadata.linkBlob(repository, digest, size).catch((error: unknown) => {
      logUnstored(this.#log, error, { digest }, 'a link could not be stored');
    });
  }
}

function givenText(repository: Repository, digest: Digest, credential: Credential | undefined): string {
  return [repositoryText(repository), digest, credentialId(credential)].join(' ');
}

/**
 * Whether a successful response lets this requester have the content. A response of `url` to its credential does. A
 * mirror may have used a credential of its own, so its response does only if the right is known otherwise.
 */
export function admits(answer: Answer, right: Right): boolean {
  return answer.proof || right.proved || right.provedIfUnreachable;
}

/** The error for a requester whose right only `url` could have proved, when a mirror answered. */
export function unproved(): UpstreamFailure {
  return new UpstreamFailure(
    'unavailable',
    'only a mirror answered, and only upstream itself can say who may read this',
  );
}
