import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import type { Manifest } from '../oci/manifest.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { type ContentRight, rightTo } from './preloads.ts';
import { type Freshness, freshnessOf, type PullRuleOf } from './freshness.ts';

/** What is done about a pull of a tag or a digest before upstream has said anything. */
export interface PullPlan {
  /** What the reference means here. */
  readonly held: Manifest | undefined;
  /** To `held`; to the repository where nothing is held. */
  readonly right: ContentRight;
  /** How long ago upstream said what a held tag means, ms; `undefined` for a digest, and where nothing is held. */
  readonly ageMs: number | undefined;
  /**
   * `serve` what is held; `serve-and-ask`: serve it, and ask upstream behind the answer; `ask` before answering;
   * `refuse`: upstream may not be asked, and nothing is held that may be served.
   */
  readonly step: 'serve' | 'serve-and-ask' | 'ask' | 'refuse';
}

export interface PlanParts {
  readonly metadata: MetadataStore;
  readonly pullRuleOf: PullRuleOf;
  readonly nowMs: () => number;
}

/** The one decision that pulls follow, and that `explain` tells of. Asks nobody and changes nothing. */
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

/** Whether what is held may be served where upstream gives no answer. */
export function maySpare({ held, right }: Pick<PullPlan, 'held' | 'right'>): boolean {
  return held !== undefined && (right.proved || right.provedIfUnreachable);
}

async function planOfTag(
  repository: Repository,
  tag: string,
  given: Right,
  { metadata, pullRuleOf, nowMs }: PlanParts,
): Promise<PullPlan> {
  const asked = given.forceAlways === true ? { ...given, ...UNPROVED } : given;
  const tagged = await metadata.readTagged(repository, tag);
  const held = tagged?.manifest;
  const right = held === undefined ? asked : await rightTo(metadata, repository, held.digest, asked);
  const ageMs = held && nowMs() - tagged.tag.checkedAtMs;
  const freshness = freshnessOf(tag, ageMs, pullRuleOf(repository, right));
  return { held, right, ageMs, step: stepOf(freshness, held, right) };
}

async function planOfDigest(
  repository: Repository,
  digest: Digest,
  given: Right,
  { metadata, pullRuleOf }: PlanParts,
): Promise<PullPlan> {
  const held = await metadata.readLinkedManifest(repository, digest);
  const right = held === undefined ? given : await rightTo(metadata, repository, digest, given);
  const isNever = pullRuleOf(repository, right).pullPolicy === 'Never';
  return { held, right, ageMs: undefined, step: stepOf(isNever ? 'never' : 'serve', held, right) };
}

/** Where upstream may not be asked, a right that could be asked about only there counts as if it were unreachable. */
function stepOf(freshness: Freshness, held: Manifest | undefined, right: ContentRight): PullPlan['step'] {
  if (freshness === 'never') return maySpare({ held, right }) ? 'serve' : 'refuse';
  return held !== undefined && right.proved ? freshness : 'ask';
}

/** A right that has to be proved now, by upstream's own answer. */
const UNPROVED = { proved: false, provedIfUnreachable: false, preloadedFor: [] };
