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
  /** Why upstream is not asked although it is its turn: it has failed too recently. */
  readonly failure: UpstreamFailure | undefined;
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
  const isAsked = plan.step === 'ask' || plan.step === 'serve-and-ask';
  const failure = isAsked ? await parts.asking.foresee(repository, reference, plan.right) : undefined;
  const asked = askedText(right);
  const prospect = { upstream, reference, plan, rule, isOffline: parts.isOffline, asked, failure };
  if (plan.step === 'refuse') return [heldLine(prospect)];
  if (failure !== undefined && !isServedDespite(failure, plan))
    return [heldLine(prospect), failureLine(prospect, failure)];
  return [
    ...rightLines(plan),
    heldLine(prospect),
    ...askLines(prospect),
    await restLine(prospect, parts.lack, await limitOf(repository, prospect, parts)),
  ];
}

/** Whether a pull gets what is stored although upstream has failed. */
function isServedDespite(failure: UpstreamFailure, plan: PullPlan): boolean {
  return plan.step === 'serve-and-ask' || (maySpare(plan) && !forbidsHeld(failure));
}

/** The failure if upstream wants no requests for now, whatever they are for. */
async function limitOf(
  repository: Repository,
  { plan, rule, failure }: Prospect,
  { asking }: OutlookParts,
): Promise<UpstreamFailure | undefined> {
  if (rule.pullPolicy === 'Never') return undefined;
  return failure?.kind === 'limited' ? failure : asking.foresee(repository, undefined, plan.right);
}

/** Why stored content may be served. */
function rightLines({ held, right, step }: PullPlan): readonly string[] {
  if (held === undefined) return [];
  if (right.isPreload === true)
    return ['it was imported, and is served without asking upstream who may pull it'];
  if (right.proved) return ['stored content is served without asking upstream who may pull it'];
  return step === 'serve' ? ['an earlier proof counts, since upstream is not asked who may pull it'] : [];
}

function heldLine(prospect: Prospect): string {
  const { reference, plan, rule, failure } = prospect;
  const { held, ageMs, step } = plan;
  if (held === undefined) {
    if (step === 'refuse') return `${reference} is not stored, and ${notAsked(prospect)}: the pull fails`;
    const known = `${reference} is not stored`;
    return failure === undefined ? `${known}: the next pull asks upstream for it` : known;
  }
  const known =
    ageMs === undefined
      ? `${reference} is stored`
      : `${reference} is stored as ${held.digest}, ${agoText(ageMs)}`;
  switch (step) {
    case 'refuse':
      return `${known}, but no right to pull it is proved, and ${notAsked(prospect)}: the pull fails`;
    case 'ask':
      return failure === undefined
        ? `${known}; the next pull asks upstream ${questionOf(prospect)}`
        : `${known}; upstream has to say ${questionOf(prospect)}`;
    case 'serve-and-ask':
      return failure === undefined
        ? `${known}; it is served as is, and upstream is asked in the background (staleWhileRevalidate)`
        : `${known}; it is served as is (staleWhileRevalidate)`;
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

/** The outcome of a pull that needs upstream. */
function askLines(prospect: Prospect): readonly string[] {
  const { plan, asked, failure } = prospect;
  if (failure !== undefined) return [failureLine(prospect, failure)];
  if (plan.step !== 'ask') return [];
  return [
    maySpare(plan)
      ? `upstream is asked ${asked}; while it cannot be reached, stored content is served`
      : `upstream is asked ${asked}; its answer decides, and no stored content is served without it`,
  ];
}

/** The outcome while upstream, which has failed too recently, is not asked. */
function failureLine({ upstream, plan }: Prospect, failure: UpstreamFailure): string {
  const { code, message } = ociErrorOf(failure, 'MANIFEST_UNKNOWN', upstream);
  const why = message === HIDDEN ? `${code}: ${message}` : code;
  const end = isServedDespite(failure, plan) ? 'stored content is served' : `the pull fails (${why})`;
  return `${notAskedText(failure, upstream)}; until then ${end}`;
}

/** What the client is told of the failure, with what only the operator may know. */
function notAskedText(failure: UpstreamFailure, upstream: string): string {
  const isHidden = ociErrorOf(failure, 'MANIFEST_UNKNOWN', upstream).message === HIDDEN;
  const told = isHidden ? '' : toldOf(failure, upstream);
  const reason = failure.message.includes(told) ? failure.message : `${told} (${failure.message})`;
  return notAskedAgain(failure.retryAfterMs ?? 0, reason);
}

/** About blobs, and the children of an index. */
async function restLine(
  prospect: Prospect,
  lackOf: OutlookParts['lack'],
  limit: UpstreamFailure | undefined,
): Promise<string> {
  const { upstream, rule, asked, failure } = prospect;
  const isNever = rule.pullPolicy === 'Never';
  if (!isNever && limit === undefined && failure === undefined) return `missing content is fetched ${asked}`;
  const lack = await lackOf();
  if (lack === undefined) return 'nothing is missing';
  if (isNever) return `${lack}, and ${notAsked(prospect)}: a pull that needs it fails`;
  return limit === undefined
    ? `${lack}: a pull that needs it may fail, too`
    : `${lack}: a pull that needs it fails, since ${notAskedText(limit, upstream)}`;
}

function notAsked({ isOffline }: Prospect): string {
  return `upstream is not asked (${isOffline ? 'offline' : 'Never'})`;
}

function askedText({ credentials, requester }: Right): string {
  const [first, ...others] = credentials;
  if (others.length > 0)
    return 'with the listed credentials in order, starting with the one that last worked';
  if (first !== undefined) return 'with the listed credential';
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
