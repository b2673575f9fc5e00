import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { fileTrouble } from '../lib/file-trouble.ts';
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
import { SettingReader } from './secrets.ts';
import {
  isTree,
  mergeTrees,
  type Tree,
  valueAt,
  withAbsolutePaths,
  withoutNulls,
  withPresets,
} from './tree.ts';

/** More than enough for thousands of tenants. */
const MAX_CONFIG_BYTES = 4 * 2 ** 20;

/**
 * Loads a `Config`: merges presets, file, environment and command line, checks the result against the schema and the
 * rules, and reads the files that it names. Every step adds to one list of problems, so that all mistakes are reported
 * at once.
 */
export interface LoadOptions {
  /** Path of the YAML file; ENTREPOT_CONFIG if absent, and only defaults if that is not set either. */
  readonly file?: string | undefined;
  /** Default: the environment of this process. */
  readonly env?: Environment;
  /** The base of relative paths that are not in a file; default: the current folder. */
  readonly folder?: string;
  /** From the command line; overrides everything else. */
  readonly overrides?: Tree;
  /** Whether variables of the environment that override the file are left out. Those that it names count. Default: no. */
  readonly isFileAlone?: boolean;
}

const STORAGE_PATH = ['storage', 'path'];

/** The configuration; throws a ConfigError with all problems. */
export async function loadConfig({
  file,
  env = process.env,
  folder = process.cwd(),
  overrides = {},
  isFileAlone = false,
}: LoadOptions = {}): Promise<Config> {
  const written = await readConfigFile(file ?? env[CONFIG_FILE_VARIABLE], folder);
  const fromFile = written.document.value ?? {};
  const environment = readEnvironment(isFileAlone ? {} : env, fileJsonSchema, options =>
    passwordVariables([fromFile, options, overrides]),
  );
  const here = withAbsolutePaths(mergeTrees(environment.tree, overrides), folder);
  const there = withAbsolutePaths(fromFile, written.path === undefined ? folder : dirname(written.path));
  const tree = withoutNulls(withPresets(mergeTrees(there, here)));

  const sourceOf = (path: readonly PropertyKey[]) => sourceIn(path, environment.overrides, written);
  const problems: Problem[] = [];
  const parsed = parseTree(tree, problem => problems.push(problem));
  const settings = new SettingReader(env, problem => problems.push(problem));
  const [upstreams, admins, endpoints] = await Promise.all([
    readUpstreams(parsed, settings),
    readAdmins(parsed, settings),
    Promise.all(parsed.notifications.endpoints.map((endpoint, index) => settings.endpoint(endpoint, index))),
  ]);
  const all = [
    ...environment.problems,
    ...problems.map(problem => ({ ...problem, source: sourceOf(problem.path) })),
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
    sourceOf: (path: readonly PropertyKey[]) => sourceOf(path) ?? 'the configuration',
  };
  const notifications = { endpoints };
  return {
    ...parsed,
    storage,
    upstreams,
    admins,
    notifications,
    proxy: readProxy(env),
    environment: env,
    origin,
  };
}

function isSame(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((key, at) => key === other[at]);
}

/** In the order in which somebody corrects them in the file. */
function inOrderOfSource(one: Problem, other: Problem): number {
  return (one.source ?? '').localeCompare(other.source ?? '', 'en', { numeric: true });
}

interface ConfigFile {
  /** As named, for messages. */
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
      { path: [], value: undefined, message: `cannot be read: ${fileTrouble(error)}`, source: file },
    ]);
  }
}

/**
 * The parsed tree; calls `report` for everything that the schema or a rule finds wrong. Invalid sections become their
 * defaults, so that the rest can still be checked.
 */
function parseTree(tree: unknown, report: (problem: Problem) => void): ParsedFile {
  const whole = fileSchema.safeParse(tree);
  const issues = whole.error?.issues ?? [];
  // Only if needed: generating the JSON schema takes as long as everything else together.
  if (issues.length > 0) schemaProblems(issues, tree, fileJsonSchema()).forEach(report);
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
  settings: SettingReader,
): Promise<Config['upstreams']> {
  const read = Object.entries(upstreams).map(
    async ([name, upstream]) => [name, await settings.upstream(name, upstream)] as const,
  );
  return new Map(await Promise.all(read));
}

async function readAdmins({ server }: ParsedFile, settings: SettingReader): Promise<Config['admins']> {
  const read = server.admins.map((admin, index) => settings.admin(admin, ['server', 'admins', index]));
  return (await Promise.all(read)).filter(admin => admin !== undefined);
}

/** `undefined` for a default. */
function sourceIn(
  path: readonly PropertyKey[],
  overrides: readonly EnvironmentOverride[],
  { file, document }: ConfigFile,
): string | undefined {
  const override = overrides.findLast(({ path: at }) => at.every((key, index) => path[index] === key));
  if (override !== undefined) return override.variable;
  if (file === undefined) return undefined;
  // A missing key has no line: use that of its map.
  const line = path
    .map((_, index) => document.lineOf(path.slice(0, path.length - index)))
    .find(found => found !== undefined);
  return line === undefined ? file : `${file}:${line}`;
}

/** All variables that a `passwordEnv` names, even if the tree is invalid otherwise. */
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
