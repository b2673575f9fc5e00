import type { BlobReader } from '../lib/blob-reader.ts';
import type { Clock } from '../lib/clock.ts';
import type { Presence } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import { LATE, within } from '../lib/within.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { documents } from '../oci/documents.ts';
import { OciError } from '../oci/errors.ts';
import { type Manifest, type ManifestView } from '../oci/manifest.ts';
import { isIndexType, isManifestType } from '../oci/media-types.ts';
import { isNarrowed, narrowToPlatform } from '../oci/platform-choice.ts';
import type { ManifestWant, Outcome, ServedManifest } from '../oci/pull-source.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { ociErrorOf, UpstreamFailure } from '../upstream/failures.ts';
import type { Answer, Ask, ManifestHead, Upstream } from '../upstream/upstream.ts';
import { type UpstreamRequests, forbidsHeld } from './upstream-requests.ts';
import { admits, unproved } from './links.ts';
import { logUnstored } from './log-unstored.ts';
import { type ContentRight, rightTo, withoutPreload } from './preloads.ts';
import { maySpare, type PlanParts, planPull, type PullPlan } from './pull-plan.ts';
import type { Packing } from './shared-flights.ts';
import { notHeld, type PullRuleOf, STALE_AFTER_MS } from './freshness.ts';

export interface ManifestSourceOptions {
  readonly asking: UpstreamRequests;
  readonly metadata: MetadataStore;
  readonly pullRuleOf: PullRuleOf;
  /** The caller closes the reader. */
  readonly openBlob: (repository: Repository, digest: Digest, right: Right) => Promise<BlobReader>;
  readonly log: Log;
}

interface Found {
  readonly manifest: Manifest;
  readonly outcome: Outcome;
  readonly stored: boolean;
  readonly upstreamMs: number;
  /** Set if an import alone lets this requester have it, which may not be true of what it names. */
  readonly isPreload: boolean;
}

interface BringQuestion {
  readonly repository: Repository;
  readonly reference: string;
  /** Whether the response has to prove the requester's right. */
  readonly needsProof: boolean;
  /** In which upstream is asked: later another process may have asked it, too, and know better. */
  readonly during: Presence;
}

/** The result of one question to upstream, shared by all who asked it. */
interface Brought extends Answer {
  readonly manifest: Manifest;
  /** Whether the repository's stored manifest is current. */
  readonly isCurrent: boolean;
  readonly stored: boolean;
}

/** A tag that means what upstream sends, as of then. */
interface TaggedDuring {
  readonly tag: string;
  readonly during: Presence;
}

/** What another process needs of the answer; the manifest is in the index. */
interface PackedAnswer extends Pick<Brought, 'proof' | 'isCurrent'> {
  readonly digest: Digest;
}

/** Serves manifests of mirrored repositories: a digest never changes, a tag follows its pull policy. */
export class ManifestSource {
  readonly #asking: UpstreamRequests;
  readonly #flights = new SingleFlight<Brought>();
  readonly #proofs = new SingleFlight<Brought>();
  readonly #metadata: MetadataStore;
  readonly #planParts: PlanParts;
  readonly #openBlob: ManifestSourceOptions['openBlob'];
  readonly #clock: Clock;
  readonly #log: Log;

  constructor({ asking, metadata, pullRuleOf, openBlob, log }: ManifestSourceOptions) {
    this.#asking = asking;
    this.#metadata = metadata;
    this.#planParts = { metadata, pullRuleOf, clock: asking.clock };
    this.#openBlob = openBlob;
    this.#clock = asking.clock;
    this.#log = log;
  }

  /**
   * The manifest: from the store if that is fresh enough, or if upstream does not answer in time and the right allows
   * it; otherwise from upstream.
   */
  async open(
    repository: Repository,
    reference: string,
    right: Right,
    want: ManifestWant,
  ): Promise<ServedManifest> {
    const whole = await this.#byReference(repository, reference, right);
    const isSettled = isDigest(reference) || !isNarrowed(whole.manifest, want);
    const found = isSettled ? whole : await this.#forPlatform(repository, whole, right, want);
    const { digest, mediaType, bytes } = found.manifest;
    const { outcome, stored, upstreamMs } = found;
    this.#metadata.noteUse(digest);
    return { descriptor: { mediaType, digest, size: bytes.byteLength }, bytes, outcome, stored, upstreamMs };
  }

  /** Asks upstream regardless of what is stored and how fresh it is. Never serves stale content. */
  async refresh(repository: Repository, reference: string, right: Right): Promise<Digest> {
    const { manifest } = await this.#ask(repository, reference, right, {});
    return manifest.digest;
  }

  async #byReference(repository: Repository, reference: string, given: Right): Promise<Found> {
    const plan = await planPull(repository, reference, given, this.#planParts);
    const { held, right, step } = plan;
    if (step === 'refuse') throw notHeld('MANIFEST_UNKNOWN', repository, reference);
    if (held === undefined || step === 'ask') return this.#ask(repository, reference, right, plan);
    if (step === 'serve-and-ask') this.#askBehind(repository, reference, right, plan);
    return hit(held, right);
  }

  /**
   * Asks upstream in the name of `right`, which also decides the right. If upstream does not answer, `held` is served
   * only if an earlier proof covers the requester; if upstream refuses, it is not served. Without `sinceMs`, an answer
   * that another process has got already is not used.
   */
  async #ask(
    repository: Repository,
    reference: string,
    right: ContentRight,
    { held, sinceMs }: Partial<Pick<PullPlan, 'held' | 'sinceMs'>>,
  ): Promise<Found> {
    const startedMs = this.#clock.monotonicMs();
    const spare = maySpare({ held, right }) ? held : undefined;
    const needsProof = !right.proved;
    const question = {
      repository,
      reference,
      shared: needsProof ? this.#proofs : this.#flights,
      packing: this.#packing(repository, needsProof),
      proves: true,
      known: held !== undefined,
      sinceMs,
      head: (upstream: Upstream, ask: Ask) => upstream.headManifest(repository.name, reference, ask),
    };
    const asking = this.#asking.ask(question, right, (upstream, ask) =>
      this.#bring(upstream, { repository, reference, needsProof, during: this.#metadata.presence }, ask),
    );
    const settle = async ({ answer, joined }: Awaited<typeof asking>): Promise<Found> => {
      // An import gives a right to its own content only, not to other content that a mirror may send.
      const { digest } = answer.manifest;
      const settled = await rightTo(this.#metadata, repository, digest, withoutPreload(right));
      if (!admits(answer, settled)) throw unproved();
      // A requester that had to prove its right first is told the same as for a first fetch, whatever is stored here.
      const isCurrent = answer.isCurrent && (settled.proved || settled.provedIfUnreachable);
      const outcome = joined ? 'joined' : isCurrent ? 'revalidated' : 'miss';
      const upstreamMs = this.#clock.monotonicMs() - startedMs;
      const isPreload = !answer.proof && settled.isPreload === true;
      return { manifest: answer.manifest, outcome, stored: answer.stored, upstreamMs, isPreload };
    };
    // The error for the client.
    const rethrow = (error: unknown): never => {
      if (!(error instanceof UpstreamFailure)) throw error;
      throw ociErrorOf(error, 'MANIFEST_UNKNOWN', repository.upstream);
    };
    if (spare === undefined) return asking.then(settle).catch(rethrow);
    try {
      const asked = await within(asking, STALE_AFTER_MS, this.#clock);
      if (asked !== LATE) return await settle(asked);
    } catch (error) {
      if (!(error instanceof UpstreamFailure) || forbidsHeld(error)) rethrow(error);
    }
    return { ...hit(spare, right), outcome: 'stale', upstreamMs: this.#clock.monotonicMs() - startedMs };
  }

  /** Other processes find the manifest in the index. */
  #packing(repository: Repository, needsProof: boolean): Packing<Brought> {
    return {
      name: needsProof ? 'proof of a manifest' : 'manifest',
      pack: ({ manifest: { digest }, proof, isCurrent, stored }) =>
        stored ? ({ digest, proof, isCurrent } satisfies PackedAnswer) : undefined,
      unpack: async (packed: PackedAnswer) => {
        const manifest = await this.#metadata.readLinkedManifest(repository, packed.digest);
        return manifest && { ...packed, manifest, stored: true };
      },
    };
  }

  #askBehind(repository: Repository, tag: string, right: Right, plan: PullPlan): void {
    this.#ask(repository, tag, right, plan).catch((error: unknown) => {
      this.#log.info(
        { err: error, repository: repositoryText(repository), tag },
        'a served tag could not be revalidated',
      );
    });
  }

  /** One question to upstream with one credential: the digest of `reference`, and the bytes if they are not stored. */
  #bring(upstream: Upstream, question: BringQuestion, ask: Ask): Promise<Brought> {
    return isDigest(question.reference)
      ? this.#bringDigest(upstream, question, question.reference, ask)
      : this.#bringTag(upstream, question, ask);
  }

  async #bringTag(upstream: Upstream, question: BringQuestion, ask: Ask): Promise<Brought> {
    const { repository, reference: tag, during } = question;
    const head = await upstream.headManifest(repository.name, tag, ask);
    const current = await this.#current(question, head.digest, head);
    if (current !== undefined) {
      const { digest } = current.manifest;
      return { ...current, stored: await this.#noteChecked(question, digest) };
    }
    // Fetches the digest that HEAD returned, since the tag may move in between.
    return this.#fetch(upstream, repository, head.digest ?? tag, ask, { tag, during });
  }

  /**
   * Records that upstream confirmed the tag. A failure only costs another question later, unless the tag is new or has
   * moved: then resolves to false.
   */
  async #noteChecked(
    { repository, reference: tag, during }: BringQuestion,
    digest: Digest,
  ): Promise<boolean> {
    try {
      await this.#metadata.putTag(repository, tag, { digest, checkedAtMs: this.#clock.nowMs() }, { during });
      return true;
    } catch (error) {
      logUnstored(this.#log, error, { digest, tag }, 'the state of a tag could not be stored');
      return (await this.#metadata.readTag(repository, tag))?.digest === digest;
    }
  }

  async #bringDigest(
    upstream: Upstream,
    question: BringQuestion,
    digest: Digest,
    ask: Ask,
  ): Promise<Brought> {
    const { repository } = question;
    const isLinked = (await this.#metadata.readLinkedManifest(repository, digest)) !== undefined;
    const head = isLinked ? await upstream.headManifest(repository.name, digest, ask) : undefined;
    const current = head && (await this.#current(question, digest, head));
    return current ?? this.#fetch(upstream, repository, digest, ask);
  }

  /**
   * The stored manifest of the repository, if it is what upstream's HEAD describes. The same digest, size and type
   * prove the right; without `needsProof` the digest is enough. `mediaType` is that of the HEAD; if absent, the stored
   * one. Content that belongs only to other repositories is fetched: a HEAD gives access only to what is already linked
   * in its repository.
   */
  async #current(
    { repository, needsProof }: BringQuestion,
    digest: Digest | undefined,
    head: ManifestHead,
  ): Promise<Brought | undefined> {
    if (digest === undefined || head.digest !== digest) return undefined;
    const manifest = await this.#metadata.readLinkedManifest(repository, digest);
    if (manifest === undefined) return undefined;
    const { mediaType } = head;
    const isSaid = mediaType !== undefined && (isIndexType(mediaType) || isManifestType(mediaType));
    if (isSaid && manifest.mediaType !== mediaType) return undefined;
    const proof = head.proof && head.size === manifest.bytes.byteLength && isSaid;
    return proof || !needsProof ? { proof, manifest, isCurrent: true, stored: true } : undefined;
  }

  async #fetch(
    upstream: Upstream,
    repository: Repository,
    reference: string,
    ask: Ask,
    tagged?: TaggedDuring,
  ): Promise<Brought> {
    const { manifest, proof } = await upstream.fetchManifest(repository.name, reference, ask);
    const stored = await this.#keep(repository, manifest, tagged);
    return { proof, manifest, isCurrent: false, stored };
  }

  /** Stores the manifest. False if that failed: the response is still valid. */
  async #keep(
    repository: Repository,
    manifest: Manifest,
    tagged: TaggedDuring | undefined,
  ): Promise<boolean> {
    const view = await viewOf(manifest);
    const atMs = this.#clock.nowMs();
    try {
      await this.#metadata.putManifest(repository, manifest, view, { ...tagged, atMs });
      return true;
    } catch (error) {
      logUnstored(this.#log, error, { digest: manifest.digest }, 'a manifest could not be stored');
      return false;
    }
  }

  /**
   * For a tag requested by a client that does not accept indexes or asks for a platform: the matching child, with its
   * own digest.
   */
  async #forPlatform(repository: Repository, found: Found, right: Right, want: ManifestWant): Promise<Found> {
    // Upstream or a Grant has just given this requester a right to everything below this manifest; an import only to
    // what it contained.
    const proved = found.isPreload ? right : { ...right, proved: true };
    let served = found;
    const manifest = await narrowToPlatform(found.manifest, want, {
      manifest: async ({ digest }) => {
        const child = await this.#byReference(repository, digest, proved);
        const outcome = child.outcome === 'hit' ? served.outcome : child.outcome;
        served = { ...child, outcome, upstreamMs: served.upstreamMs + child.upstreamMs };
        return child.manifest;
      },
      config: ({ digest }) => this.#openBlob(repository, digest, proved),
    });
    return { ...served, manifest };
  }
}

function hit(manifest: Manifest, right: ContentRight): Found {
  return { manifest, outcome: 'hit', stored: true, upstreamMs: 0, isPreload: right.isPreload === true };
}

/** An invalid manifest is upstream's fault, not the client's. */
async function viewOf(manifest: Manifest): Promise<ManifestView> {
  try {
    return await documents.ask('view', manifest.bytes, manifest.mediaType);
  } catch (error) {
    if (!(error instanceof OciError) || error.code === 'UNAVAILABLE') throw error;
    throw new UpstreamFailure('invalid', `upstream sent an invalid manifest: ${error.message}`, {
      cause: error,
    });
  }
}
