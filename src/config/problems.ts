import type { z } from './fields.ts';
import { nearest } from './nearest.ts';
import type { JsonSchema } from './schema.ts';
import { valueAt } from './tree.ts';

/** A mistake in a configuration. */
export interface Problem {
  /** Keys and list positions; empty if it concerns no key. */
  readonly path: readonly PropertyKey[];
  /** The value, for messages; `undefined` if there is none, or if it may be a secret. */
  readonly value: unknown;
  /** What is wrong or was expected: `expected true or false`. */
  readonly message: string;
  /** `entrepot.yaml:12`, or the environment variable. */
  readonly source?: string | undefined;
}

/** The configuration cannot be used. `problems` are all that were found; the message lists them for people. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly problems: readonly Problem[];

  constructor(problems: readonly Problem[]) {
    const count = problems.length === 1 ? 'a problem' : `${problems.length} problems`;
    super(
      [`the configuration has ${count}:`, ...problems.map(problem => `  ${problemText(problem)}`)].join('\n'),
    );
    this.problems = problems;
  }
}

/** `entrepot.yaml:3: server.listen: "nope": expected an address …` */
export function problemText({ path, value, message, source }: Problem): string {
  const shown = value === undefined ? undefined : shortText(value);
  return [source, path.length === 0 ? undefined : pathText(path), shown, message].filter(Boolean).join(': ');
}

/** `upstreams.docker.io.mirrors[0].url` */
export function pathText(path: readonly PropertyKey[]): string {
  return path
    .map((step, index) =>
      typeof step === 'number' ? `[${step}]` : `${index === 0 ? '' : '.'}${String(step)}`,
    )
    .join('');
}

/** The message of a thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** All mistakes that the schema finds in `tree`, one for each key or value. */
export function schemaProblems(
  issues: readonly z.core.$ZodIssue[],
  tree: unknown,
  schema: JsonSchema,
): Problem[] {
  return issues.flatMap(issue => issueProblems(issue, [], tree, schema));
}

function issueProblems(
  issue: z.core.$ZodIssue,
  above: readonly PropertyKey[],
  tree: unknown,
  schema: JsonSchema,
): Problem[] {
  const path = [...above, ...issue.path];
  if (issue.code === 'unrecognized_keys') {
    const known = keysAt(schema, path);
    return issue.keys.map(key => ({
      path: [...path, key],
      value: undefined,
      message: unknownKey(key, known, () => placesOf(key, schema)),
    }));
  }
  if (issue.code === 'invalid_union') {
    return meantBranch(issue.errors).flatMap(inner => issueProblems(inner, path, tree, schema));
  }
  if (issue.code === 'invalid_key') {
    const [first] = issue.issues;
    return [{ path, value: undefined, message: first?.message ?? issue.message }];
  }
  const value = valueAt(tree, path);
  const isMissing = value === undefined && issue.code === 'invalid_type';
  const message = isMissing ? `is missing: ${expected(issue)}` : expected(issue);
  return [{ path, value: mayBeSecret(path, value) ? undefined : value, message }];
}

/** For a value that matches no branch of a union: the issues of the branch that fits its type. */
function meantBranch(branches: readonly (readonly z.core.$ZodIssue[])[]): readonly z.core.$ZodIssue[] {
  return branches.find(issues => issues.every(issue => !isTypeMismatch(issue))) ?? branches[0] ?? [];
}

function isTypeMismatch(issue: z.core.$ZodIssue): boolean {
  const isHere = issue.path.length === 0;
  if (issue.code === 'invalid_union') {
    return isHere && issue.errors.every(issues => issues.some(isTypeMismatch));
  }
  return isHere && (issue.code === 'invalid_type' || issue.code === 'invalid_value');
}

const TYPE_FORM: Readonly<Record<string, string>> = {
  object: 'expected a map of keys and values',
  record: 'expected a map of names and values',
  array: 'expected a list',
};

function expected(issue: z.core.$ZodIssue): string {
  return (issue.code === 'invalid_type' ? TYPE_FORM[issue.expected] : undefined) ?? issue.message;
}

/** `known`: the keys that may be there; `places` returns where else there is an option of that name. */
function unknownKey(key: string, known: readonly string[], places: () => readonly string[]): string {
  if (/^password$/i.test(key)) {
    return 'passwords are not allowed here: use passwordFile or passwordEnv';
  }
  const meant = nearest(key, known);
  if (meant !== undefined) return `is not an option; did you mean ${meant}?`;
  const elsewhere = places();
  return elsewhere.length > 0 && elsewhere.length <= MOST_PLACES
    ? `is not an option here; did you mean ${elsewhere.join(' or ')}?`
    : `is not an option; the options here are ${known.join(', ')}`;
}

/** Of an option that is in more places, none is likely to be the one that is meant. */
const MOST_PLACES = 3;

/** Where options of the name `key` are, as in the documentation: `upstreams.NAME.url`. */
function placesOf(key: string, schema: JsonSchema): string[] {
  const below = (one: JsonSchema, at: string): string[] => [
    ...Object.entries(one.properties ?? {}).flatMap(([name, child]) => {
      const place = at === '' ? name : `${at}.${name}`;
      return [...(name === key ? [place] : []), ...within(child, place)];
    }),
    ...(one.items === undefined ? [] : within(one.items, `${at}[]`)),
    ...(typeof one.additionalProperties === 'object' ? within(one.additionalProperties, `${at}.NAME`) : []),
  ];
  const within = (one: JsonSchema, at: string): string[] =>
    alternatives(one).flatMap(each => below(each, at));
  return [...new Set(within(schema, ''))];
}

/** The fixed keys that a map at `path` may have. */
function keysAt(schema: JsonSchema, path: readonly PropertyKey[]): string[] {
  const reached = path.reduce<JsonSchema[]>(
    (at, step) => at.flatMap(alternatives).flatMap(one => childrenOf(one, step)),
    [schema],
  );
  return [...new Set(reached.flatMap(alternatives).flatMap(one => Object.keys(one.properties ?? {})))];
}

function alternatives(schema: JsonSchema): JsonSchema[] {
  return [schema, ...(schema.anyOf ?? []).flatMap(alternatives)];
}

function childrenOf(schema: JsonSchema, step: PropertyKey): JsonSchema[] {
  const own = typeof step === 'number' ? schema.items : schema.properties?.[String(step)];
  const other = typeof schema.additionalProperties === 'object' ? schema.additionalProperties : undefined;
  return [own ?? other].filter(child => child !== undefined);
}

const SECRET_NAME = /password|secret|token|credentials/i;

/** By the key of the value, or of one within it; or because it has a URL with a user name or a query. */
function mayBeSecret(path: readonly PropertyKey[], value: unknown): boolean {
  if (path.some(step => SECRET_NAME.test(String(step)))) return true;
  if (typeof value === 'string') return /@|\?.*=/s.test(value);
  if (typeof value !== 'object' || value === null) return false;
  return Object.entries(value).some(([key, inner]) => mayBeSecret([key], inner));
}

/** Enough to recognize a value. */
const LONGEST_SHOWN = 80;

/** The value, or the beginning of its text if that is long. */
export function shortValue(value: unknown): unknown {
  const text = shortText(value);
  return text.length > LONGEST_SHOWN ? text : value;
}

function shortText(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN)}…` : text;
}
