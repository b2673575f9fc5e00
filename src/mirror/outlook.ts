import { formatDuration } from '../lib/units.ts';
import { defaultPullPolicy } from '../oci/pull-policy.ts';
import { HIDDEN, notAskedAgain } from '../oci/reasons.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { ociErrorOf, toldOf, type UpstreamFailure } from '../upstream/failures.ts';
import { type UpstreamRequests, forbidsHeld } from './upstream-requests.ts';
import { maySpare, type PlanParts, planPull, type PullPlan } from './pull-plan.ts';
import type { PullRule } from './freshness.ts';

export interface OutlookParts extends PlanParts {
  readonly asking: Pick<UpstreamRequests, 'foresee'>;
  readonly isOffline: boolean;
  /** Returns what is missing of the stored image; `undefined` if nothing is. */
  readonly lack: () => Promise<string | undefined>;
}

/** What is known about one pull. */
interface Prospect {
  readonly upstream: string;
  readonly reference: string;
  readonly plan: PullPlan;
  readonly rule: PullRule;
  readonly isOffline: boolean;
  /** With which credentials upstream is asked, if it is. */
  readonly asked: string;
}

/**
 * For `entrepot explain`: what a pull of the tag or digest with this right would do, in sentences; first about the
 * manifest, by the plan that serving follows, then about what else it names.
 */
export async function outlook(
  repository: Repository,
  reference: string,
  right: Right,
  parts: OutlookParts,
): Promise<readonly string[]> {
  const plan = await planPull(repository, reference, right, parts);
  const rule = parts.pullRuleOf(repository, right);
  const { upstream } = repository;
  const prospect = { upstream, reference, plan, rule, isOffline: parts.isOffline, asked: askedText(right) };
  const failure =
    plan.step === 'ask' ? await parts.asking.foresee(repository, reference, plan.right) : undefined;
  return [
    ...rightLines(plan),
    heldLine(prospect),
    ...(plan.step === 'ask' ? [askLine(prospect, failure)] : []),
    ...(await restLines(prospect, parts.lack)),
  ];
}

/** Why stored content may be served. */
function rightLines({ right, step }: PullPlan): readonly string[] {
  if (right.isPreload === true)
    return ['it was imported, and is served without asking upstream who may pull it'];
  if (right.proved) return ['stored content is served without asking upstream who may pull it'];
  return step === 'serve' ? ['an earlier proof counts, since upstream is not asked who may pull it'] : [];
}

function heldLine(prospect: Prospect): string {
  const { reference, plan, rule } = prospect;
  const { held, ageMs, step } = plan;
  if (held === undefined) {
    return step === 'refuse'
      ? `${reference} is not stored, and ${notAsked(prospect)}: the pull fails`
      : `${reference} is not stored: the next pull asks upstream for it`;
  }
  const known =
    ageMs === undefined
      ? `${reference} is stored`
      : `${reference} is stored as ${held.digest}, ${agoText(ageMs)}`;
  switch (step) {
    case 'refuse':
      return `${known}, but no right to pull it is proved, and ${notAsked(prospect)}: the pull fails`;
    case 'ask':
      return `${known}; the next pull asks upstream ${questionOf(prospect)}`;
    case 'serve-and-ask':
      return `${known}; it is served as is, and upstream is asked in the background (staleWhileRevalidate)`;
    case 'serve':
      break;
  }
  if (rule.pullPolicy === 'Never') return `${known}; it is served as is, and ${notAsked(prospect)}`;
  return ageMs === undefined
    ? `${known}, and served as is`
    : `${known}; it is served as is ${restText(rule, ageMs)}`;
}

function questionOf({ reference, plan: { right }, rule }: Prospect): string {
  if (!right.proved) return 'who may pull it';
  const policy = rule.pullPolicy ?? defaultPullPolicy({ tag: reference });
  return `what it refers to now (${policy === 'Always' ? policy : 'freshFor is over'})`;
}

/** The outcome of a pull that needs upstream, which may have failed too recently to be asked again. */
function askLine({ upstream, plan, asked }: Prospect, failure: UpstreamFailure | undefined): string {
  const isSpared = maySpare(plan);
  if (failure !== undefined) {
    const isServed = isSpared && !forbidsHeld(failure);
    const { code, message } = ociErrorOf(failure, 'MANIFEST_UNKNOWN', upstream);
    const isHidden = message === HIDDEN;
    const why = isHidden ? `${code}: ${message}` : code;
    const told = isHidden ? '' : toldOf(failure, upstream);
    const reason = failure.message.includes(told) ? failure.message : `${told} (${failure.message})`;
    const end = isServed ? 'stored content is served' : `the pull fails (${why})`;
    return `${notAskedAgain(failure.retryAfterMs ?? 0, reason)}; until then ${end}`;
  }
  return isSpared
    ? `upstream is asked ${asked}; while it cannot be reached, stored content is served`
    : `upstream is asked ${asked}; its answer decides, and no stored content is served without it`;
}

/** About blobs, and the children of an index. */
async function restLines(prospect: Prospect, lackOf: OutlookParts['lack']): Promise<readonly string[]> {
  const { plan, rule, asked } = prospect;
  if (plan.step === 'refuse') return [];
  if (rule.pullPolicy !== 'Never') return [`missing content is fetched ${asked}`];
  const lack = await lackOf();
  return lack === undefined
    ? ['nothing is missing']
    : [`${lack}, and ${notAsked(prospect)}: a pull that needs it fails`];
}

function notAsked({ isOffline }: Prospect): string {
  return `upstream is not asked (${isOffline ? 'offline' : 'Never'})`;
}

function askedText({ credentials, requester }: Right): string {
  const [first, ...others] = credentials;
  if (others.length > 0) return 'with those above in order, starting with the one that last worked';
  if (first !== undefined) return 'with the one above';
  const isTenant = requester.tenant !== undefined;
  return isTenant ? 'without credentials, since the tenant has none for it' : 'without credentials';
}

function restText({ pullPolicy, freshForMs }: PullRule, ageMs: number): string {
  if (pullPolicy !== undefined) return `(${pullPolicy})`;
  const isForEver = freshForMs === Number.POSITIVE_INFINITY;
  return isForEver ? '(freshFor: forever)' : `for another ${durationText(freshForMs - ageMs)} (freshFor)`;
}

function agoText(ageMs: number): string {
  return ageMs < 0 ? 'as of a time in the future' : `as of ${durationText(ageMs)} ago`;
}

function durationText(ms: number): string {
  return formatDuration(Math.ceil(ms / 1000) * 1000);
}
