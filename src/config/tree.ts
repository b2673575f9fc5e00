import { isAbsolute, resolve } from 'node:path';
import { PRESETS } from './presets.ts';

/** A configuration as written, before it is parsed by the schema. */
export type Tree = { readonly [key: string]: unknown };

/** Keys of paths that do not end in File or Dir. */
const PATH_KEYS: ReadonlySet<string> = new Set([
  '.storage.path',
  '.nodeConfig',
  '.prepull.from',
  '.tenants.secrets',
  '.kubernetes.kubeconfig',
]);

/** Whether `value` is a map. */
export function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** `over` merged over `under`: maps are merged key by key, anything else is replaced. */
export function mergeTrees(under: Tree, over: Tree): Tree;
export function mergeTrees(under: unknown, over: unknown): unknown;
export function mergeTrees(under: unknown, over: unknown): unknown {
  if (over === undefined) {
    return under;
  }
  if (!isTree(under) || !isTree(over)) {
    return over;
  }
  const merged = new Map(Object.entries(under));
  for (const [key, value] of Object.entries(over)) {
    merged.set(key, mergeTrees(merged.get(key), value));
  }
  return Object.fromEntries(merged);
}

/** The value at `path`; `undefined` if there is none. */
export function valueAt(tree: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((value, step) => {
    const isInside = typeof value === 'object' && value !== null && Object.hasOwn(value, step);
    return isInside ? Reflect.get(value, step) : undefined;
  }, tree);
}

/** Removes keys without a value (`storage:`). */
export function withoutNulls(tree: unknown): unknown {
  if (Array.isArray(tree)) {
    return tree.map(withoutNulls);
  }
  if (!isTree(tree)) {
    return tree;
  }
  const kept = Object.entries(tree).filter(([, value]) => value !== null);
  return Object.fromEntries(kept.map(([key, value]) => [key, withoutNulls(value)]));
}

/**
 * Makes the relative paths in `tree` absolute, with `folder` as base: values of keys that end in File or Dir, and of
 * PATH_KEYS.
 */
export function withAbsolutePaths(tree: unknown, folder: string): unknown {
  const walk = (value: unknown, trail: string): unknown => {
    if (Array.isArray(value)) {
      return value.map(item => walk(item, trail));
    }
    if (isTree(value)) {
      return Object.fromEntries(
        Object.entries(value).map(([key, entry]) => [key, walk(entry, `${trail}.${key}`)]),
      );
    }
    const isPath = /(File|Dir)$/.test(trail) || PATH_KEYS.has(trail);
    return isPath && typeof value === 'string' && value !== '' && !isAbsolute(value)
      ? resolve(folder, value)
      : value;
  };
  return walk(tree, '');
}

/** Merges the presets under what the file says; an upstream that is `false` is removed. */
export function withPresets(tree: unknown): unknown {
  if (!isTree(tree)) {
    return tree;
  }
  const written = tree['upstreams'] ?? {};
  if (!isTree(written)) {
    return tree;
  }
  // The name of an upstream without a value means the defaults, not an absent upstream.
  const named = Object.entries(written).map(([name, upstream]) => [name, upstream ?? {}] as const);
  const upstreams = mergeTrees(PRESETS, Object.fromEntries(named));
  const wanted = Object.entries(upstreams).filter(([, upstream]) => upstream !== false);
  return { ...tree, upstreams: Object.fromEntries(wanted) };
}
