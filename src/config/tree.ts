import { isAbsolute, resolve } from 'node:path';
import { PRESETS } from './presets.ts';

/** Configuration as it was written, before the schema has seen it: merging, and what merging needs. */
export type Tree = { readonly [key: string]: unknown };

/** Keys of paths whose names do not say so. */
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

/** `over` laid over `under`: maps merge key by key, anything else is replaced. */
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

/** The value at `path`, or `undefined`. */
export function valueAt(tree: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((value, step) => {
    const isInside = typeof value === 'object' && value !== null && Object.hasOwn(value, step);
    return isInside ? Reflect.get(value, step) : undefined;
  }, tree);
}

/** A key without a value (`storage:`) is a key that was not written. */
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

/** Every relative path in `tree` (keys ending in File or Dir, and those of PATH_KEYS) seen from `folder`. */
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

/** The presets under what the file says of them; an upstream that is `false` is left out. */
export function withPresets(tree: unknown): unknown {
  if (!isTree(tree)) {
    return tree;
  }
  const written = tree['upstreams'] ?? {};
  if (!isTree(written)) {
    return tree;
  }
  // An upstream's name with nothing behind it is an upstream with the defaults, not an absent one.
  const named = Object.entries(written).map(([name, upstream]) => [name, upstream ?? {}] as const);
  const upstreams = mergeTrees(PRESETS, Object.fromEntries(named));
  const wanted = Object.entries(upstreams).filter(([, upstream]) => upstream !== false);
  return { ...tree, upstreams: Object.fromEntries(wanted) };
}
