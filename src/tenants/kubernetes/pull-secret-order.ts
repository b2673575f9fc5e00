import type { SecretReading } from '../secret-source.ts';

/** The relevant parts of a ServiceAccount. */
export interface Account {
  readonly name: string;
  readonly uid: string;
  /** Names of Secrets, in the order in which pods get them. */
  readonly imagePullSecrets: readonly string[];
}

/** Missing Secrets are only reported; this many are enough to see a mistake. */
const MAX_MISSING = 100;

/** The account of pods that name none. */
const DEFAULT_ACCOUNT = 'default';

/**
 * The Secrets of a namespace in order of precedence. The kubelet tries a pod's own `imagePullSecrets` in order, and a
 * pod without any gets those of its ServiceAccount. A tenant stands for all pods of its namespace, so first come the
 * Secrets that the `default` account names, then those of the other accounts (by account name), then the Secrets that
 * only pods can name (by name), marked as unnamed. A Secret that an account names but that does not exist is skipped by
 * the kubelet; here it is reported as missing.
 */
export function orderPullSecrets(
  accounts: Iterable<Account>,
  secrets: ReadonlyMap<string, SecretReading>,
): readonly SecretReading[] {
  const inOrder = [...accounts].sort((a, b) => rank(a, b));
  const named = new Set(inOrder.flatMap(({ imagePullSecrets }) => imagePullSecrets));
  const absent = [...named].filter(name => !secrets.has(name));
  const told = new Set(absent.slice(0, MAX_MISSING));
  const others = [...secrets.values()].filter(({ name }) => !named.has(name)).sort((a, b) => byName(a, b));
  return [
    ...[...named].flatMap(name => secrets.get(name) ?? (told.has(name) ? missing(name) : [])),
    ...(absent.length > MAX_MISSING ? [missing('(others)', absent.length - MAX_MISSING)] : []),
    ...others.map(reading => ({ ...reading, isUnnamed: true })),
  ];
}

function rank(a: Account, b: Account): number {
  if (a.name === b.name) return 0;
  if (a.name === DEFAULT_ACCOUNT) return -1;
  if (b.name === DEFAULT_ACCOUNT) return 1;
  return byName(a, b);
}

/** In ASCII order; names are unique within a namespace. */
function byName(a: { readonly name: string }, b: { readonly name: string }): number {
  return a.name < b.name ? -1 : 1;
}

function missing(name: string, count = 1): SecretReading {
  const reason =
    count === 1
      ? 'a ServiceAccount names it, but there is no pull secret of that name'
      : `ServiceAccounts name ${count} more for which there is no pull secret`;
  return { name, source: 'kubernetes', result: { state: 'missing', reason } };
}
