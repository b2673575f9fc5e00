import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { parseYaml, type YamlDocument, YamlError } from '../lib/yaml.ts';
import type { Config } from './config.ts';
import {
  CONFIG_FILE_VARIABLE,
  type Environment,
  type EnvironmentOverride,
  readEnvironment,
  readProxy,
} from './environment.ts';
import { ConfigError, messageOf, type Problem, schemaProblems } from './problems.ts';
import { ruleProblems } from './rules.ts';
import { fileJsonSchema, fileSchema, type ParsedFile } from './schema.ts';
import { SecretReader } from './secrets.ts';
import {
  isTree,
  mergeTrees,
  type Tree,
  valueAt,
  withAbsolutePaths,
  withoutNulls,
  withPresets,
} from './tree.ts';

/** A configuration for thousands of tenants fits well. */
const MAX_CONFIG_BYTES = 4 * 2 ** 20;

/**
 * From what is written (file, environment, command line) to a `Config`: lay them over each other and over the
 * presets, check the whole against the schema and the rules, read what it names. Every step adds to one list of
 * problems, so that whoever writes a configuration hears of all its faults at once.
 */
export interface LoadOptions {
  /** Path of the YAML file; ENTREPOT_CONFIG otherwise, and defaults alone if neither is given. */
  readonly file?: string | undefined;
  readonly env?: Environment;
  /** Relative paths that stand in no file are seen from here; the current folder otherwise. */
  readonly folder?: string;
  /** What the command line says; over everything else. */
  readonly overrides?: Tree;
}

const STORAGE_PATH = ['storage', 'path'];

/** The configuration, or a ConfigError with every problem. */
export async function loadConfig({
  file,
  env = process.env,
  folder = process.cwd(),
  overrides = {},
}: LoadOptions = {}): Promise<Config> {
  const written = await readConfigFile(file ?? env[CONFIG_FILE_VARIABLE], folder);
  const fromFile = written.document.value ?? {};
  const passwords = passwordVariables([fromFile, overrides]);
  const environment = readEnvironment(env, fileJsonSchema, name => passwords.has(name));
  const here = withAbsolutePaths(mergeTrees(environment.tree, overrides), folder);
  const there = withAbsolutePaths(fromFile, written.path === undefined ? folder : dirname(written.path));
  const tree = withoutNulls(withPresets(mergeTrees(there, here)));

  const problems: Problem[] = [];
  const parsed = parseTree(tree, problem => problems.push(problem));
  const upstreams = await readUpstreams(parsed, env, problem => problems.push(problem));
  const all = [
    ...environment.problems,
    ...problems.map(problem => withSource(problem, environment.overrides, written)),
  ];
  if (all.length > 0) {
    throw new ConfigError(all.toSorted(inOrderOfSource));
  }
  const storage = { ...parsed.storage, path: resolve(folder, parsed.storage.path) };
  const origin = {
    file: written.path,
    folder,
    overrides,
    isDefaultPath: valueAt(tree, STORAGE_PATH) === undefined,
    isSilent:
      written.path === undefined && environment.overrides.every(({ path }) => isSame(path, STORAGE_PATH)),
  };
  return { ...parsed, storage, upstreams, proxy: readProxy(env), environment: env, origin };
}

function isSame(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((key, at) => key === other[at]);
}

/** As somebody goes through the file to put them right. */
function inOrderOfSource(one: Problem, other: Problem): number {
  return (one.source ?? '').localeCompare(other.source ?? '', 'en', { numeric: true });
}

interface ConfigFile {
  /** As it was named, for messages. */
  readonly file: string | undefined;
  readonly path: string | undefined;
  readonly document: YamlDocument;
}

async function readConfigFile(file: string | undefined, folder: string): Promise<ConfigFile> {
  if (file === undefined || file === '') {
    return { file: undefined, path: undefined, document: { value: null, lineOf: () => undefined } };
  }
  try {
    const path = resolve(folder, file);
    const document = parseYaml(await readFile(path, 'utf8'), { maxBytes: MAX_CONFIG_BYTES });
    if (document.value === null || isTree(document.value)) {
      return { file, path, document };
    }
    throw new YamlError('expected a map of keys and values', 1);
  } catch (error) {
    const message = messageOf(error);
    if (error instanceof YamlError) {
      const source = error.line === undefined ? file : `${file}:${error.line}`;
      throw new ConfigError([
        { path: [], value: undefined, message: `is not a configuration: ${message}`, source },
      ]);
    }
    throw new ConfigError([
      { path: [], value: undefined, message: `cannot be read: ${message}`, source: file },
    ]);
  }
}

/**
 * The parsed tree; whatever the schema or a rule finds wrong goes to `report`. Sections that do not fit the schema
 * come out as their defaults, so that the rest can still be checked.
 */
function parseTree(tree: unknown, report: (problem: Problem) => void): ParsedFile {
  const whole = fileSchema.safeParse(tree);
  const issues = whole.error?.issues ?? [];
  for (const problem of schemaProblems(issues, tree, fileJsonSchema())) {
    report(problem);
  }
  const unreadable = new Set(
    issues.flatMap(issue =>
      issue.code === 'unrecognized_keys' && issue.path.length === 0 ? issue.keys : [String(issue.path[0])],
    ),
  );
  const parsed = whole.data ?? fileSchema.parse(withoutKeys(tree, unreadable));
  for (const problem of ruleProblems(parsed, unreadable)) {
    report(problem);
  }
  return parsed;
}

async function readUpstreams(
  { upstreams }: ParsedFile,
  env: Environment,
  report: (problem: Problem) => void,
): Promise<Config['upstreams']> {
  const secrets = new SecretReader(env, report);
  const read = Object.entries(upstreams).map(
    async ([name, upstream]) => [name, await secrets.upstream(name, upstream)] as const,
  );
  return new Map(await Promise.all(read));
}

function withSource(
  problem: Problem,
  overrides: readonly EnvironmentOverride[],
  { file, document }: ConfigFile,
): Problem {
  const { path } = problem;
  const override = overrides.findLast(({ path: at }) => at.every((key, index) => path[index] === key));
  if (override !== undefined) {
    return { ...problem, source: override.variable };
  }
  if (file === undefined) {
    return problem;
  }
  // What is missing has no line: then that of the map it is missing from.
  const line = path
    .map((_, index) => document.lineOf(path.slice(0, path.length - index)))
    .find(found => found !== undefined);
  return { ...problem, source: line === undefined ? file : `${file}:${line}` };
}

/** Every variable that a `passwordEnv` names, whatever else may be wrong with the tree. */
function passwordVariables(tree: unknown): Set<string> {
  if (typeof tree !== 'object' || tree === null) {
    return new Set();
  }
  const own = isTree(tree) && typeof tree['passwordEnv'] === 'string' ? [tree['passwordEnv']] : [];
  return new Set([...own, ...Object.values(tree).flatMap(value => [...passwordVariables(value)])]);
}

function withoutKeys(tree: unknown, keys: ReadonlySet<string>): unknown {
  return isTree(tree) ? Object.fromEntries(Object.entries(tree).filter(([key]) => !keys.has(key))) : {};
}
