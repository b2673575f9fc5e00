import type { Budget } from '../upstream/budget.ts';
import type { AdminParts } from './admin-parts.ts';
import { shownCredential } from './backoffs.ts';
import type { BudgetDocument, UpstreamDocument } from './documents/upstreams.ts';
import { firstBytesDocument } from './first-bytes.ts';
import type { ServingReport, UpstreamReport } from './serving-report.ts';
import { optionalTime, timeOf } from './status.ts';

/** Budgets that are shown of an upstream: those of which least remains. */
const SHOWN_BUDGETS = 50;

/** All upstreams, as the processes of the server know them together. */
export function upstreamDocuments(
  { config, mirror }: Pick<AdminParts, 'config' | 'mirror'>,
  reports: readonly Pick<ServingReport, 'upstreams' | 'firstBytes'>[],
  nowMs = Date.now(),
): readonly UpstreamDocument[] {
  const backoffs = new Map<string, number>();
  for (const { key } of mirror.failures) backoffs.set(key.upstream, (backoffs.get(key.upstream) ?? 0) + 1);
  return [...config.upstreams.values()].map(({ name, url, mirrors, credentials }) => {
    const known = reports.flatMap(({ upstreams }) => upstreams.filter(each => each.name === name));
    const answeredAtMs = latest(known.map(each => each.answeredAtMs));
    const failure = known.flatMap(each => each.failure ?? []).sort((one, other) => other.atMs - one.atMs)[0];
    const budgets = budgetsOf(known, nowMs);
    return {
      name,
      url,
      mirrors: mirrors.map(each => each.url),
      state: stateOf({ answeredAtMs, failedAtMs: failure?.atMs, budgets }),
      lastAnswer: optionalTime(answeredAtMs),
      lastError: failure === undefined ? null : { ...withoutTime(failure), at: timeOf(failure.atMs) },
      budgets,
      backoffs: backoffs.get(name) ?? 0,
      firstBytes: firstBytesDocument(reports, name),
      login: credentials === undefined ? null : loginOf(credentials.username, known),
    };
  });
}

function stateOf({
  answeredAtMs = Number.NEGATIVE_INFINITY,
  failedAtMs = Number.NEGATIVE_INFINITY,
  budgets,
}: {
  readonly answeredAtMs: number | undefined;
  readonly failedAtMs: number | undefined;
  readonly budgets: readonly BudgetDocument[];
}): UpstreamDocument['state'] {
  if (budgets.some(({ blockedUntil }) => blockedUntil !== null)) return 'limited';
  if (failedAtMs > answeredAtMs) return 'failing';
  return answeredAtMs === Number.NEGATIVE_INFINITY ? 'unknown' : 'ok';
}

/** Of what processes know of one credential, the least counts. */
function budgetsOf(known: readonly UpstreamReport[], nowMs: number): readonly BudgetDocument[] {
  const byCredential = new Map<string, Budget[]>();
  for (const budget of known.flatMap(({ budgets }) => budgets)) {
    byCredential.set(budget.credentialId, [...(byCredential.get(budget.credentialId) ?? []), budget]);
  }
  const all = [...byCredential].map(([credentialId, budgets]) => {
    const [least] = budgets.toSorted((one, other) => leftOf(one) - leftOf(other));
    const limitedMs = Math.max(...budgets.map(budget => budget.limitedMs));
    return {
      credential: shownCredential(credentialId),
      limit: least?.limit ?? null,
      remaining: least?.remaining ?? null,
      windowSeconds: least?.windowS ?? null,
      blockedUntil: limitedMs === 0 ? null : timeOf(nowMs + limitedMs),
      exhaustedAt: least === undefined ? null : exhaustedAt(least, nowMs),
    };
  });
  return all
    .sort((one, other) => (one.remaining ?? Infinity) - (other.remaining ?? Infinity))
    .slice(0, SHOWN_BUDGETS);
}

function leftOf({ remaining = Number.POSITIVE_INFINITY }: Budget): number {
  return remaining;
}

/** `null` if the budget is refilled before, or nothing is spent. */
function exhaustedAt({ remaining, spentPerS = 0, windowS = Infinity }: Budget, nowMs: number): string | null {
  if (remaining === undefined || spentPerS <= 0) return null;
  const leftS = remaining / spentPerS;
  // Further away than a window nothing can be said.
  return leftS > windowS || leftS > MAX_FORECAST_S ? null : timeOf(nowMs + leftS * 1000);
}

const MAX_FORECAST_S = 7 * 24 * 3600;

function loginOf(username: string, known: readonly UpstreamReport[]): UpstreamDocument['login'] {
  const judged = known.flatMap(({ login }) => (login?.isAccepted === undefined ? [] : login));
  const [last] = judged.toSorted((one, other) => (other.atMs ?? 0) - (one.atMs ?? 0));
  if (last === undefined) return { username, state: 'unknown', at: null };
  return { username, state: last.isAccepted === true ? 'accepted' : 'refused', at: optionalTime(last.atMs) };
}

function latest(times: readonly (number | undefined)[]): number | undefined {
  const known = times.filter(time => time !== undefined);
  return known.length === 0 ? undefined : Math.max(...known);
}

function withoutTime<T extends { readonly atMs: number }>({ atMs: _atMs, ...rest }: T): Omit<T, 'atMs'> {
  return rest;
}
