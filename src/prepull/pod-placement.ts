import { isJsonObject, type JsonObject } from '../lib/json.ts';
import { DEFAULT_PLATFORM, type Platform } from '../oci/platform.ts';

/** A requirement on a node's label for its operating system or architecture. */
export interface NodeRequirement {
  readonly field: 'os' | 'architecture';
  readonly operator: 'In' | 'NotIn';
  readonly values: readonly string[];
}

/** On which nodes a pod may run, as far as that decides which platform of an image it gets. */
export interface PodPlacement {
  /** `undefined` for the cluster's default. */
  readonly runtimeClass: string | undefined;
  /** All of these must hold. */
  readonly requirements: readonly NodeRequirement[];
}

/** For a pod without constraints on its nodes. */
export const ANY_NODE: PodPlacement = { runtimeClass: undefined, requirements: [] };

/** The well-known labels of nodes, including their names before Kubernetes 1.14. */
const LABELS: Readonly<Record<string, NodeRequirement['field']>> = {
  'kubernetes.io/os': 'os',
  'kubernetes.io/arch': 'architecture',
  'beta.kubernetes.io/os': 'os',
  'beta.kubernetes.io/arch': 'architecture',
};

/**
 * Where a pod with this spec may run: by `spec.os`, its nodeSelector, and its required node affinity, of which one term
 * is enough, so there may be several placements. Preferences and tolerations exclude no node.
 */
export function placementsOf(spec: JsonObject): readonly PodPlacement[] {
  const { runtimeClassName, os, nodeSelector, affinity } = spec;
  const runtimeClass = typeof runtimeClassName === 'string' ? runtimeClassName : undefined;
  const selected = Object.entries(isJsonObject(nodeSelector) ? nodeSelector : {}).flatMap(([label, value]) =>
    requirementOf(label, 'In', [value]),
  );
  const system = isJsonObject(os) ? requirementOf('kubernetes.io/os', 'In', [os['name']]) : [];
  const always = [...system, ...selected];
  const terms = requiredTerms(affinity);
  return (terms.length === 0 ? [[]] : terms).map(term => ({
    runtimeClass,
    requirements: [...always, ...term],
  }));
}

function requiredTerms(affinity: unknown): readonly (readonly NodeRequirement[])[] {
  const required = memberOf(
    memberOf(affinity, 'nodeAffinity'),
    'requiredDuringSchedulingIgnoredDuringExecution',
  );
  const terms = memberOf(required, 'nodeSelectorTerms');
  return (Array.isArray(terms) ? terms : []).map(term => {
    const expressions = memberOf(term, 'matchExpressions');
    return (Array.isArray(expressions) ? expressions : []).flatMap(expression => {
      const operator = memberOf(expression, 'operator');
      const values = memberOf(expression, 'values');
      if ((operator !== 'In' && operator !== 'NotIn') || !Array.isArray(values)) return [];
      return requirementOf(memberOf(expression, 'key'), operator, values);
    });
  });
}

function memberOf(value: unknown, key: string): unknown {
  return isJsonObject(value) ? value[key] : undefined;
}

function requirementOf(
  label: unknown,
  operator: NodeRequirement['operator'],
  values: readonly unknown[],
): readonly NodeRequirement[] {
  const field = typeof label === 'string' && Object.hasOwn(LABELS, label) ? LABELS[label] : undefined;
  const texts = values.filter(value => typeof value === 'string');
  return field === undefined || texts.length === 0 ? [] : [{ field, operator, values: texts }];
}

/**
 * The platforms that a pod with this placement can get: those of `usual` on whose nodes it may run or, if there are
 * none, those that the placement names. A placement that no node can meet has none.
 */
export function platformsOf({ requirements }: PodPlacement, usual: readonly Platform[]): readonly Platform[] {
  const isMet = (platform: Platform) =>
    requirements.every(
      ({ field, operator, values }) => values.includes(platform[field]) === (operator === 'In'),
    );
  const met = usual.filter(isMet);
  if (met.length > 0) return met;
  const valuesOf = (field: NodeRequirement['field']) =>
    requirements.find(one => one.field === field && one.operator === 'In')?.values;
  const systems = valuesOf('os') ?? [...new Set([...usual, DEFAULT_PLATFORM].map(({ os }) => os))];
  // If nothing is known about nodes with this system: the architecture that nearly all of them have.
  const architectures = valuesOf('architecture') ?? [DEFAULT_PLATFORM.architecture];
  const all = systems.flatMap(os => architectures.map(architecture => ({ os, architecture })));
  const possible = all.filter(isMet);
  return possible.length > 0 ? possible : usual;
}
