import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import { LATE, within } from '../lib/within.ts';
import type { Document, MetadataStore } from '../metadata/metadata-store.ts';
import type { Digest } from '../oci/digest.ts';
import { documents } from '../oci/documents.ts';
import { OciError } from '../oci/errors.ts';
import type { Page, ServedReferrers } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { ociErrorOf, UpstreamFailure } from '../upstream/failures.ts';
import type { FetchedReferrers } from '../upstream/upstream.ts';
import { type UpstreamRequests, forbidsHeld } from './upstream-requests.ts';
import { admits, unproved } from './links.ts';
import { logUnstored } from './log-unstored.ts';
import { preloadsOnly, rightTo } from './preloads.ts';
import { freshnessOf, notHeld, type PullRuleOf, STALE_AFTER_MS } from './freshness.ts';

export interface ReferrersOptions {
  readonly asking: UpstreamRequests;
  readonly metadata: MetadataStore;
  readonly pullRuleOf: PullRuleOf;
  readonly log: Log;
}

/** A request for the referrers of a manifest. */
export interface ReferrersQuery {
  readonly artifactType: string | undefined;
  readonly page: Page;
}

interface Listed {
  readonly document: Pick<Document, 'mediaType' | 'bytes'> | undefined;
  readonly outcome: ServedReferrers['outcome'];
  readonly upstreamMs: number;
}

/**
 * Referrers of manifests in mirrored repositories. Upstream's whole list is stored and refreshed by the rules for tags;
 * filtering and paging are done here. If there is neither an answer nor a stored list, the stored manifests that refer
 * to the subject are returned.
 */
export class Referrers {
  readonly #asking: UpstreamRequests;
  readonly #flights = new SingleFlight<FetchedReferrers>();
  readonly #metadata: MetadataStore;
  readonly #pullRuleOf: PullRuleOf;
  readonly #clock: Clock;
  readonly #log: Log;

  constructor({ asking, metadata, pullRuleOf, log }: ReferrersOptions) {
    this.#asking = asking;
    this.#metadata = metadata;
    this.#pullRuleOf = pullRuleOf;
    this.#clock = asking.clock;
    this.#log = log;
  }

  async open(
    repository: Repository,
    subject: Digest,
    query: ReferrersQuery,
    right: Right,
  ): Promise<ServedReferrers> {
    const { document, outcome, upstreamMs } = await this.#list(repository, subject, right);
    const preloadedFor = preloadsOnly(right);
    const served = {
      outcome,
      stored: document !== undefined,
      upstreamMs,
      filtered: query.artifactType !== undefined,
    };
    if (document === undefined) {
      const { artifactType, page } = query;
      const { entries, more } = await this.#metadata.listReferrers(
        repository,
        subject,
        artifactType,
        page,
        preloadedFor,
      );
      return { ...served, stored: true, manifests: entries, next: more ? entries.at(-1)?.digest : undefined };
    }
    return { ...served, ...(await pageOf(document, query)) };
  }

  /** The stored or fetched list. Without a document, only stored manifests are known. */
  async #list(repository: Repository, subject: Digest, given: Right): Promise<Listed> {
    const startedMs = this.#clock.monotonicMs();
    const name = `referrers ${subject}`;
    const right = await rightTo(this.#metadata, repository, subject, given);
    // A list that upstream sent to somebody names more than an import contained.
    const isPreload = right.isPreload === true;
    const kept = isPreload ? undefined : await this.#metadata.readReferrersList(repository, subject);
    const ageMs = kept && this.#clock.nowMs() - kept.checkedAtMs;
    const freshness = freshnessOf(name, ageMs, this.#pullRuleOf(repository, right));
    const mayServeKept = right.proved || right.provedIfUnreachable;
    if (freshness === 'never') {
      if (mayServeKept) return { document: kept, outcome: 'hit', upstreamMs: 0 };
      throw notHeld('MANIFEST_UNKNOWN', repository, `what refers to ${subject}`);
    }
    if (freshness !== 'ask' && right.proved) return { document: kept, outcome: 'hit', upstreamMs: 0 };
    const question = {
      repository,
      reference: name,
      shared: this.#flights,
      proves: false,
      known: kept !== undefined,
    };
    try {
      const asking = this.#asking.ask(question, right, async (upstream, ask) => {
        const fetched = await upstream.fetchReferrers(repository.name, subject, ask);
        await this.#keep(repository, subject, fetched);
        return fetched;
      });
      const asked = mayServeKept ? await within(asking, STALE_AFTER_MS, this.#clock) : await asking;
      if (asked !== LATE) {
        if (!admits(asked.answer, given)) throw unproved();
        const upstreamMs = this.#clock.monotonicMs() - startedMs;
        return { document: asked.answer, outcome: asked.joined ? 'joined' : 'miss', upstreamMs };
      }
    } catch (error) {
      if (!(error instanceof UpstreamFailure)) throw error;
      // Upstream cannot refuse what was imported.
      if (!mayServeKept || (forbidsHeld(error) && !isPreload))
        throw ociErrorOf(error, 'MANIFEST_UNKNOWN', repository.upstream);
    }
    return { document: kept, outcome: 'stale', upstreamMs: this.#clock.monotonicMs() - startedMs };
  }

  /** Stores the list if its subject is stored. Otherwise clients could fill the store with invented subjects. */
  async #keep(
    repository: Repository,
    subject: Digest,
    { mediaType, bytes }: Pick<Document, 'mediaType' | 'bytes'>,
  ): Promise<void> {
    const list = { mediaType, bytes, checkedAtMs: this.#clock.nowMs() };
    try {
      await this.#metadata.putReferrersList(repository, subject, list);
    } catch (error) {
      logUnstored(this.#log, error, { subject }, 'a list of referrers could not be stored');
    }
  }
}

/**
 * One page. A stored list may be invalid, if an earlier version stored it: that is upstream's fault, not the client's.
 */
async function pageOf(
  { bytes, mediaType }: Pick<Document, 'mediaType' | 'bytes'>,
  { artifactType, page }: ReferrersQuery,
): Promise<Pick<ServedReferrers, 'manifests' | 'next'>> {
  try {
    const { entries, more } = await documents.ask('descriptors', bytes, mediaType, { artifactType, ...page });
    return { manifests: entries, next: more ? entries.at(-1)?.digest : undefined };
  } catch (error) {
    if (!(error instanceof OciError) || error.code === 'UNAVAILABLE') throw error;
    throw new OciError('UPSTREAM_INVALID', {
      message: `upstream sent an invalid list of referrers: ${error.message}`,
      cause: error,
    });
  }
}
