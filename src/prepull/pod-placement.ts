import { isJsonObject, type JsonObject } from '../lib/json.ts';
import { DEFAULT_PLATFORM, type Platform } from '../oci/platform.ts';

/** What a node's label for its operating system or architecture has to say. */
export interface NodeRequirement {
  readonly field: 'os' | 'architecture';
  readonly operator: 'In' | 'NotIn';
  readonly values: readonly string[];
}

/** On which nodes a pod may run, as far as that decides which platform of an image it gets. */
export interface PodPlacement {
  /** `undefined`: the cluster's usual one. */
  readonly runtimeClass: string | undefined;
  /** All of them hold. */
  readonly requirements: readonly NodeRequirement[];
}

/** Of a pod that says nothing of its nodes. */
export const ANY_NODE: PodPlacement = { runtimeClass: undefined, requirements: [] };

/** The well-known labels of nodes, with the names that they had before Kubernetes 1.14. */
const LABELS: Readonly<Record<string, NodeRequirement['field']>> = {
  'kubernetes.io/os': 'os',
  'kubernetes.io/arch': 'architecture',
  'beta.kubernetes.io/os': 'os',
  'beta.kubernetes.io/arch': 'architecture',
};

/**
 * Where a pod with this spec may run: `spec.os`, its nodeSelector, and its required node affinity, of which one term is
 * enough, so that there may be several placements. Preferences and tolerations keep it from nowhere.
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
 * The platforms that a pod with this placement can get: those of `usual` on whose nodes it may run or, if it may run on
 * none of these, the ones that the placement names. One that nothing can meet has no say.
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
  // Where nothing is known of the nodes with such a system: what nearly all of them have.
  const architectures = valuesOf('architecture') ?? [DEFAULT_PLATFORM.architecture];
  const all = systems.flatMap(os => architectures.map(architecture => ({ os, architecture })));
  const possible = all.filter(isMet);
  return possible.length > 0 ? possible : usual;
}
