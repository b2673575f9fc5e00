/** What replicas say of themselves and of each other: to one another, to the operator, and in metrics. */
import type { ReplicaDocument } from '../admin/documents/replicas.ts';
import { optionalTime, timeOf } from '../admin/status.ts';
import { formatAddress } from '../config/fields.ts';
import type { Meter } from '../lib/meter.ts';
import type { ReplicaAbout } from '../replicas/about-request.ts';
import type { OtherReplica } from '../replicas/replica-watch.ts';
import type { Parts } from './parts.ts';

/** What this process tells other replicas about itself; `undefined` if it is not a replica. */
export function aboutOwn(
  { mirror, replica }: Pick<Parts, 'mirror' | 'replica'>,
  startedAtMs: number,
): ReplicaAbout | undefined {
  if (replica === undefined) return undefined;
  const downloads = mirror.downloads.filter(({ kind, holder }) => kind === 'whole' && holder === undefined);
  return { id: replica, startedAtMs, downloads: downloads.map(({ digest }) => digest) };
}

/** All known replicas, this one first; empty if this process is not a replica. */
export function replicaStatus(
  parts: Pick<Parts, 'config' | 'mirror' | 'replica' | 'replicas'>,
  startedAtMs: number,
): readonly ReplicaDocument[] {
  const { config, replicas } = parts;
  const about = aboutOwn(parts, startedAtMs);
  if (config.cluster === undefined || about === undefined) return [];
  const own = {
    address: formatAddress(config.cluster.advertise),
    state: 'reached' as const,
    sinceMs: startedAtMs,
    trouble: undefined,
    about,
  };
  return [
    { ...statusOf(own), isOwn: true },
    ...(replicas?.watch.others ?? []).map(other => ({ ...statusOf(other), isOwn: false })),
  ];
}

function statusOf({ address, state, sinceMs, trouble, about }: OtherReplica): Omit<ReplicaDocument, 'isOwn'> {
  return {
    address,
    state,
    since: timeOf(sinceMs),
    reason: trouble ?? null,
    started: optionalTime(about?.startedAtMs),
    downloads: about?.downloads ?? [],
  };
}

/** How many other replicas there are, in which state. */
export function reportReplicas({ replicas }: Pick<Parts, 'replicas'>, meter: Meter): void {
  if (replicas === undefined) return;
  const { others } = replicas.watch;
  for (const state of ['reached', 'unreachable', 'gone']) {
    meter.gauge('replicas', others.filter(other => other.state === state).length, { state });
  }
}
