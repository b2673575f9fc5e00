import { parseYamlDocuments, YamlError } from '../lib/yaml.ts';
import { MalformedSecret, parseSecretObject } from './secret.ts';
import type { SecretReading } from './secret-source.ts';

/** More Secrets than a namespace needs for pulls; a file with more is something else. */
export const MAX_SECRETS_PER_FILE = 1_000;

/**
 * The pull secrets in a manifest file: YAML or JSON, several documents, a `List`. Other objects, and Secrets of other
 * types, are skipped. A malformed one is reported as such beside the others; throws MalformedSecret if the file cannot
 * be parsed as a whole.
 */
export function parseSecretManifests(text: string): readonly SecretReading[] {
  if (text.trim() === '') throw new MalformedSecret('the file is empty');
  const objects = parseDocuments(text).flatMap((document, index) => listItems(document, index));
  const secrets = objects.filter(({ kind }) => kind === 'Secret');
  if (secrets.length > MAX_SECRETS_PER_FILE) {
    throw new MalformedSecret(`the file has more than ${MAX_SECRETS_PER_FILE} Secrets`);
  }
  const readings = secrets.flatMap(readSecret);
  if (readings.length === 0) throw new MalformedSecret('the file has no pull secret');
  return readings;
}

const DOCKER_CONFIG =
  "the file is Docker's config.json and not a Secret: name it config.json, or make it one with " +
  'kubectl create secret generic NAME --type kubernetes.io/dockerconfigjson --from-file .dockerconfigjson=FILE ' +
  '--dry-run=client --output yaml';

type KubernetesObject = Readonly<Record<string, unknown>>;

function parseDocuments(text: string): readonly unknown[] {
  // A hundred times faster than YAML, and what kubectl and most generators write.
  if (text.trimStart().startsWith('{')) {
    try {
      return [JSON.parse(text)];
    } catch {
      // Not JSON: a YAML flow map, or a mistake whose line the YAML parser reports.
    }
  }
  try {
    return parseYamlDocuments(text).map(({ value }) => value);
  } catch (cause) {
    if (!(cause instanceof YamlError)) throw cause;
    // The parser's message may quote the text, which may be a password.
    const place = cause.line === undefined ? '' : ` in line ${cause.line}`;
    throw new MalformedSecret(`the file is not YAML, or exceeds a limit${place}`, { cause });
  }
}

/** The objects of a document: the items of a `List`, or the object itself; none for an empty document. */
function listItems(document: unknown, index: number): readonly KubernetesObject[] {
  if (document === null || document === undefined) return [];
  if (!isObject(document) || typeof document['kind'] !== 'string') {
    if (isObject(document) && 'auths' in document) throw new MalformedSecret(DOCKER_CONFIG);
    throw new MalformedSecret(`document ${index + 1} of the file is not a Kubernetes object`);
  }
  const { kind, items } = document;
  if (kind === 'List') return Array.isArray(items) ? items.filter(isObject) : [];
  // In a SecretList, items need not have a kind.
  if (kind === 'SecretList') return Array.isArray(items) ? items.filter(isObject).map(asSecret) : [];
  return [document];
}

function readSecret(object: KubernetesObject, index: number): readonly SecretReading[] {
  const { metadata } = object;
  const given = isObject(metadata) ? metadata['name'] : undefined;
  const name = typeof given === 'string' && given !== '' ? given : `Secret ${index + 1}`;
  try {
    const secret = parseSecretObject(object);
    return secret === undefined ? [] : [{ name, source: 'file', result: { state: 'loaded', secret } }];
  } catch (error) {
    if (!(error instanceof MalformedSecret)) throw error;
    return [{ name, source: 'file', result: { state: 'malformed', reason: error.message } }];
  }
}

function asSecret(object: KubernetesObject): KubernetesObject {
  return { ...object, kind: 'Secret' };
}

function isObject(value: unknown): value is KubernetesObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
