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

/** Manifests of artifacts name the digests of nothing and of `{}`, which a server may well answer to everything. */
const TELLING_BYTES = 256;
/** For who asks for blobs that no manifest names, or for no manifest: few do. */
const MAX_GIVEN = 10_000;

export interface Confirmed<Size = number> {
  /** Bytes of the whole blob. */
  readonly size: Size;
  readonly joined: boolean;
}

export interface Given {
  /** Bytes of the whole blob. */
  readonly size: number;
  readonly credential: Credential | undefined;
  /** On `performance.now()`'s clock. */
  readonly sinceMs: number;
}

export interface LinkRules {
  /** How long what upstream has given is given from here without asking it again; read each time. */
  readonly verifyForMs: number;
}

export interface LinksOptions {
  readonly rules: LinkRules;
  readonly nowMs: () => number;
  readonly log: Log;
}

/**
 * Which blobs belong to which mirrored repository. A Link is made by an upstream answer for that repository, never
 * by a manifest that names the blob, nor by equal content elsewhere: those save the transfer, not the proof.
 */
export class Links {
  readonly #metadata: MetadataStore;
  readonly #asking: UpstreamRequests;
  readonly #flights = new SingleFlight<BlobHead>();
  readonly #proofs = new SingleFlight<Shown>();
  /** Blobs that upstream gave to a credential and that entitle it to nothing else, and when it began and had done so. */
  readonly #given = new Lru<{ readonly sinceMs: number; readonly atMs: number }>({ maxEntries: MAX_GIVEN });
  readonly #rules: LinkRules;
  readonly #nowMs: () => number;
  readonly #log: Log;

  constructor(metadata: MetadataStore, asking: UpstreamRequests, { rules, nowMs, log }: LinksOptions) {
    this.#metadata = metadata;
    this.#asking = asking;
    this.#rules = rules;
    this.#nowMs = nowMs;
    this.#log = log;
  }

  /** Whether the blob may be served from here to this requester without asking upstream. */
  async isSettled(repository: Repository, digest: Digest, right: Right): Promise<boolean> {
    if (!(await this.#metadata.isLinked(repository, digest))) return false;
    return (
      right.proved || right.credentials.some(credential => this.#isGiven(repository, digest, credential))
    );
  }

  /**
   * Asks upstream once, by HEAD, how big the blob is; `undefined` when it does not say. A status proves nothing: no Link
   * comes of it, and no Grant.
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
   * Has upstream show that the repository has these bytes for this requester. When they are verified that makes the Link;
   * those of a download under way let only this requester read along.
   */
  async confirm(repository: Repository, digest: Digest, right: Right, held: HeldBytes): Promise<Confirmed> {
    const known = await this.#metadata.isLinked(repository, digest);
    const { isVerified, length } = held;
    const isTelling = isVerified && (await this.#isTelling(repository, digest, length));
    const sinceMs = performance.now();
    const { answer, credential, joined } = await this.#asking.ask(
      {
        repository,
        // That other bytes are here says nothing of whether upstream has the blob.
        reference: `proof of ${blobReference(digest)}`,
        // Unverified bytes may be wrong, and what agrees with them says nothing to anybody else.
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

  /** `url` has given all of the blob, whose digest is right, to the credential. `sinceMs`: when it began to. */
  async noteGiven(
    repository: Repository,
    digest: Digest,
    { size, credential, sinceMs }: Given,
  ): Promise<void> {
    if (await this.#isTelling(repository, digest, size)) {
      await this.#asking.granted(repository, credential, sinceMs);
    } else this.#remember(repository, digest, credential, sinceMs);
  }

  /** Secrets have changed: who still knows the password of one that is gone is asked about again. */
  forgetGiven(): void {
    this.#given.clear();
  }

  #remember(
    repository: Repository,
    digest: Digest,
    credential: Credential | undefined,
    sinceMs: number,
  ): void {
    const given = { sinceMs, atMs: this.#nowMs() };
    this.#given.set(givenText(repository, digest, credential), given, this.#rules.verifyForMs);
  }

  #isGiven(repository: Repository, digest: Digest, credential: Credential | undefined): boolean {
    const given = this.#given.get(givenText(repository, digest, credential));
    if (given === undefined) return false;
    // The machine may have slept since, which only this clock knows. Where it has been set back, nobody knows how old it is.
    const ageMs = this.#nowMs() - given.atMs;
    if (ageMs < 0 || ageMs >= this.#rules.verifyForMs) return false;
    return !this.#asking.hasEndedSince(given.sinceMs, repository, credential);
  }

  /**
   * Whether who is given the blob by upstream may read all of the repository. A digest that no manifest there names was
   * chosen by who asks for it: it may be that of an answer that upstream gives to everything.
   */
  async #isTelling(repository: Repository, digest: Digest, size: number): Promise<boolean> {
    return size >= TELLING_BYTES && (await this.#metadata.isNamed(repository, digest));
  }

  /** An index that takes no write costs the Link, so that the next one asks again; this one has its answer. */
  async #keep(repository: Repository, digest: Digest, size: number): Promise<void> {
    try {
      await this.#metadata.linkBlob(repository, digest, size);
    } catch (error) {
      this.#log.error({ err: error, digest }, 'a link could not be stored');
    }
  }

  /** Makes the Link in the background, for who comes later: whoever is served now has the proof itself. */
  add(repository: Repository, digest: Digest, size: number): void {
    this.#metadata.linkBlob(repository, digest, size).catch((error: unknown) => {
      this.#log.error({ err: error, digest }, 'a link could not be stored');
    });
  }
}

function givenText(repository: Repository, digest: Digest, credential: Credential | undefined): string {
  return [repositoryText(repository), digest, credentialId(credential)].join(' ');
}

/**
 * Whether a good answer lets this requester have the content. An answer of `url` to his credential does; one of a
 * mirror, which may have a credential of its own, only if his right is known without it.
 */
export function admits(answer: Answer, right: Right): boolean {
  return answer.proof || right.proved || right.provedIfUnreachable;
}

/** What a requester hears whose right only `url` could have proved. */
export function unproved(): UpstreamFailure {
  return new UpstreamFailure(
    'unavailable',
    'only a mirror answered, and only upstream itself can say who may read this',
  );
}
