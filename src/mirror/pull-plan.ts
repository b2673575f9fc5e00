import type { Clock } from '../lib/clock.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import type { Manifest } from '../oci/manifest.ts';
import type { TimedPullRead } from '../oci/pull-read.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { type ContentRight, granteesOf, withPreload } from './preloads.ts';
import { type Freshness, freshnessOf, type PullRuleOf } from './freshness.ts';

/** What to do about a pull of a tag or digest, before upstream is asked. */
export interface PullPlan {
  /** The stored manifest of the reference. */
  readonly held: Manifest | undefined;
  /** The right to `held`; to the repository if nothing is stored. */
  readonly right: ContentRight;
  /** How long ago upstream confirmed a stored tag, ms; `undefined` for a digest, and if nothing is stored. */
  readonly ageMs: number | undefined;
  /** When the read of the index began that told all this, by `Clock.monotonicMs`. */
  readonly sinceMs: number;
  /**
   * `serve`: serve `held`. `serve-and-ask`: serve it, and ask upstream in the background. `ask`: ask upstream first.
   * `refuse`: upstream may not be asked, and nothing may be served.
   */
  readonly step: 'serve' | 'serve-and-ask' | 'ask' | 'refuse';
}

export interface PlanParts {
  readonly metadata: MetadataStore;
  readonly pullRuleOf: PullRuleOf;
  readonly clock: Pick<Clock, 'nowMs' | 'monotonicMs'>;
}

/** The decision that pulls follow and `explain` describes. Only reads the index. */
export function planPull(
  repository: Repository,
  reference: string,
  right: Right,
  parts: PlanParts,
): Promise<PullPlan> {
  return isDigest(reference)
    ? planOfDigest(repository, reference, right, parts)
    : planOfTag(repository, reference, right, parts);
}

/** Whether `held` may be served if upstream does not answer. */
export function maySpare({ held, right }: Pick<PullPlan, 'held' | 'right'>): boolean {
  return held !== undefined && (right.proved || right.provedIfUnreachable);
}

async function planOfTag(
  repository: Repository,
  tag: string,
  given: Right,
  { metadata, pullRuleOf, clock }: PlanParts,
): Promise<PullPlan> {
  const asked = given.forceAlways === true ? { ...given, ...UNPROVED } : given;
  const read = await readAhead(repository, tag, asked, { metadata, clock });
  const { manifest: held, sinceMs } = read;
  const right = withPreload(asked, read.isPreloaded);
  const ageMs = held && read.tag && clock.nowMs() - read.tag.checkedAtMs;
  const freshness = freshnessOf(tag, ageMs, pullRuleOf(repository, right));
  return { held, right, ageMs, sinceMs, step: stepOf(freshness, held, right) };
}

async function planOfDigest(
  repository: Repository,
  digest: Digest,
  given: Right,
  { metadata, pullRuleOf, clock }: PlanParts,
): Promise<PullPlan> {
  const read = await readAhead(repository, digest, given, { metadata, clock });
  const { manifest: held, isPreloaded, sinceMs } = read;
  const right = withPreload(given, isPreloaded);
  const isNever = pullRuleOf(repository, right).pullPolicy === 'Never';
  const step = stepOf(isNever ? 'never' : 'serve', held, right);
  return { held, right, ageMs: undefined, sinceMs, step };
}

/** What the index says of the reference; it may have been asked when the right was. */
async function readAhead(
  repository: Repository,
  reference: string,
  right: Right,
  { metadata, clock }: Pick<PlanParts, 'metadata' | 'clock'>,
): Promise<TimedPullRead> {
  const grantees = granteesOf(right);
  const read = right.ahead?.takeManifest(repository, reference);
  if (read === undefined) {
    const sinceMs = clock.monotonicMs();
    return { ...(await metadata.readForPull(repository, reference, { grantees })), sinceMs };
  }
  return read.isPreloaded && grantees.length === 0 ? { ...read, isPreloaded: false } : read;
}

/** If upstream may not be asked, a right that depends on its answer counts as while upstream is unreachable. */
function stepOf(freshness: Freshness, held: Manifest | undefined, right: ContentRight): PullPlan['step'] {
  if (freshness === 'never') return maySpare({ held, right }) ? 'serve' : 'refuse';
  return held !== undefined && right.proved ? freshness : 'ask';
}

/** Without a proof: upstream's own answer has to give the right. */
const UNPROVED = { proved: false, provedIfUnreachable: false, preloadedFor: [] };
