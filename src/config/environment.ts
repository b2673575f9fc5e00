import { parseYaml, YamlError } from '../lib/yaml.ts';
import { nearest } from './nearest.ts';
import type { Problem } from './problems.ts';
import type { JsonSchema } from './schema.ts';
import { isTree, mergeTrees, type Tree } from './tree.ts';

/** Environment variables by name. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** The proxies for requests to upstreams. */
export interface ProxyConfig {
  readonly httpProxy: string | undefined;
  readonly httpsProxy: string | undefined;
  readonly noProxy: string | undefined;
}

/** The environment of this process. */
export function ownEnvironment(): Environment {
  return process.env;
}

/** Names the configuration file if the command line does not. */
export const CONFIG_FILE_VARIABLE = 'ENTREPOT_CONFIG';

const PREFIX = 'ENTREPOT_';

/**
 * Variables that Kubernetes sets in every container for a Service named `entrepot` or `entrepot-…` ("Docker links"
 * variables). They are not misspelled options, and no option is like them: the name of a Service ends with a letter or a
 * digit, so only one underscore follows it.
 */
const SERVICE_LINK =
  /^ENTREPOT_(?:[A-Z0-9_]*[A-Z0-9]_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)?)$/;

/** The value of a variable, for the key at `path`. */
export interface EnvironmentOverride {
  readonly variable: string;
  readonly path: readonly string[];
}

export interface EnvironmentOverrides {
  readonly tree: Tree;
  readonly overrides: readonly EnvironmentOverride[];
  readonly problems: readonly Problem[];
}

/**
 * The environment variable of each key with a fixed name: that of `server.opsListen` is ENTREPOT_SERVER__OPS_LISTEN.
 * Two underscores separate levels, one precedes a capital letter. A map with arbitrary keys (`upstreams`) has one
 * variable.
 */
export function environmentVariables(schema: JsonSchema): Map<string, readonly string[]> {
  const variables = new Map<string, readonly string[]>();
  const walk = (at: JsonSchema, path: readonly string[]) => {
    for (const [key, child] of Object.entries(at.properties ?? {})) {
      const below = [...path, key];
      variables.set(PREFIX + below.map(upperSnake).join('__'), below);
      walk(child, below);
    }
  };
  walk(schema, []);
  return variables;
}

/**
 * The options in the environment, as a tree to merge over the file. Values are YAML: `[a, b]` is a list and
 * `{docker.io: {openToAll: true}}` a map; maps are merged, anything else replaces. Variables that a `passwordEnv` names
 * are not options: `passwordsIn` returns those of the file and of these options.
 */
export function readEnvironment(
  env: Environment,
  schema: () => JsonSchema,
  passwordsIn: (options: Tree) => ReadonlySet<string>,
): EnvironmentOverrides {
  const overrides: EnvironmentOverride[] = [];
  const problems: Problem[] = [];
  const others: string[] = [];
  let tree: unknown = {};
  // Shorter paths first, so that ENTREPOT_SERVER does not override ENTREPOT_SERVER__LISTEN.
  const names = Object.keys(env).filter(isOurs).sort();
  // Most commands have none, and making the schema takes as long as half of what they do.
  const known: ReadonlyMap<string, readonly string[]> =
    names.length === 0 ? new Map() : environmentVariables(schema());
  for (const variable of names) {
    const path = known.get(variable);
    if (path === undefined) {
      others.push(variable);
      continue;
    }
    try {
      tree = mergeTrees(tree, nest(path, parseYaml(env[variable] ?? '').value));
      overrides.push({ variable, path });
    } catch (error) {
      if (!(error instanceof YamlError)) {
        throw error;
      }
      problems.push({ path, value: undefined, message: `is not YAML: ${error.message}`, source: variable });
    }
  }
  const options = isTree(tree) ? tree : {};
  const passwords = passwordsIn(options);
  const unknown = others.filter(variable => !passwords.has(variable));
  problems.push(...unknown.map(variable => unknownVariable(variable, known.keys())));
  return { tree: options, overrides, problems };
}

/** The usual proxy variables, lower case first, as in curl. */
export function readProxy(env: Environment): ProxyConfig {
  const read = (name: string) => env[name.toLowerCase()] || env[name] || undefined;
  return { httpProxy: read('HTTP_PROXY'), httpsProxy: read('HTTPS_PROXY'), noProxy: read('NO_PROXY') };
}

function isOurs(name: string): boolean {
  return name.startsWith(PREFIX) && name !== CONFIG_FILE_VARIABLE && !SERVICE_LINK.test(name);
}

function unknownVariable(variable: string, known: Iterable<string>): Problem {
  const meant = nearest(variable, known);
  const hint = meant === undefined ? 'see entrepot config variables' : `did you mean ${meant}?`;
  return { path: [], value: undefined, message: `is not an option; ${hint}`, source: variable };
}

function upperSnake(key: string): string {
  return key.replace(/[A-Z]/g, letter => `_${letter}`).toUpperCase();
}

function nest(path: readonly string[], value: unknown): unknown {
  return path.reduceRight<unknown>((inner, key) => ({ [key]: inner }), value);
}
