import { SingleFlight } from '../lib/single-flight.ts';
import { LATE, within } from '../lib/within.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Page, ServedTags } from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { ociErrorOf, UpstreamFailure } from '../upstream/failures.ts';
import type { FetchedTags } from '../upstream/upstream.ts';
import { type UpstreamRequests, forbidsHeld } from './upstream-requests.ts';
import { admits, unproved } from './links.ts';
import { preloadsOnly } from './preloads.ts';
import { notHeld, type PullRuleOf, STALE_AFTER_MS } from './freshness.ts';

export interface TagListOptions {
  readonly asking: UpstreamRequests;
  readonly metadata: MetadataStore;
  readonly pullRuleOf: PullRuleOf;
}

/**
 * Tag lists of mirrored repositories: upstream's, page by page; the stored tags if upstream cannot be asked. A list
 * proves no right to content, so it creates no Grant.
 */
export class TagList {
  readonly #asking: UpstreamRequests;
  readonly #flights = new SingleFlight<FetchedTags>();
  readonly #metadata: MetadataStore;
  readonly #pullRuleOf: PullRuleOf;

  constructor({ asking, metadata, pullRuleOf }: TagListOptions) {
    this.#asking = asking;
    this.#metadata = metadata;
    this.#pullRuleOf = pullRuleOf;
  }

  async open(repository: Repository, page: Page, right: Right): Promise<ServedTags> {
    const startedMs = this.#asking.clock.monotonicMs();
    const known = await this.#metadata.hasRepository(repository);
    const isPreloads = preloadsOnly(right) !== undefined && (await this.#hasPreloadedTag(repository, right));
    const mayServeHeld = known && (right.proved || right.provedIfUnreachable || isPreloads);
    if (this.#pullRuleOf(repository, right).pullPolicy === 'Never') {
      if (mayServeHeld) return this.#held(repository, page, right, 'hit', 0);
      throw notHeld('NAME_UNKNOWN', repository, undefined);
    }
    const question = {
      repository,
      reference: `tags ${page.limit} ${page.after ?? ''}`,
      shared: this.#flights,
      proves: false,
      known,
    };
    try {
      const asking = this.#asking.ask(question, right, (upstream, ask) =>
        upstream.fetchTags(repository.name, page, ask),
      );
      const asked = mayServeHeld ? await within(asking, STALE_AFTER_MS, this.#asking.clock) : await asking;
      if (asked !== LATE) {
        const { answer, joined } = asked;
        if (!admits(answer, right)) throw unproved();
        const { tags, next } = answer;
        const upstreamMs = this.#asking.clock.monotonicMs() - startedMs;
        return { tags, next, outcome: joined ? 'joined' : 'miss', stored: false, upstreamMs };
      }
    } catch (error) {
      if (!(error instanceof UpstreamFailure)) throw error;
      if (!mayServeHeld || forbidsHeld(error)) throw ociErrorOf(error, 'NAME_UNKNOWN', repository.upstream);
    }
    return this.#held(repository, page, right, 'stale', this.#asking.clock.monotonicMs() - startedMs);
  }

  async #hasPreloadedTag(repository: Repository, right: Right): Promise<boolean> {
    const { entries } = await this.#metadata.listTags(
      repository,
      { limit: 1, after: undefined },
      preloadsOnly(right),
    );
    return entries.length > 0;
  }

  /** The stored tags; only imported ones for a requester that may read nothing else. */
  async #held(
    repository: Repository,
    page: Page,
    right: Right,
    outcome: 'hit' | 'stale',
    upstreamMs: number,
  ): Promise<ServedTags> {
    const { entries, more } = await this.#metadata.listTags(repository, page, preloadsOnly(right));
    return { tags: entries, next: more ? entries.at(-1) : undefined, outcome, stored: true, upstreamMs };
  }
}
