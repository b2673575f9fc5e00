import { isJsonObject, type JsonObject, parseJsonObject } from '../../lib/json.ts';
import { MalformedSecret, parseSecretObject } from '../secret.ts';
import { MAX_SECRETS_PER_TENANT } from '../tenant-secrets.ts';
import type { SecretReading } from '../secret-source.ts';
import type { KubeObject } from './kube-client.ts';
import type { Account } from './pull-secret-order.ts';

/**
 * 1 MiB of data in base64, with annotations of their maximum size (256 KiB, with escapes) and what clients record
 * beside them. Kubernetes accepts objects of 9 MB, in which owner names are a megabyte long.
 */
export const MAX_SECRET_OBJECT_BYTES = 2 * 2 ** 20;

/** A thousand of the longest names. */
export const MAX_ACCOUNT_OBJECT_BYTES = 320 * 1024;

/** Annotations of their maximum size, with escapes. */
export const MAX_NAMESPACE_OBJECT_BYTES = 2 * 2 ** 20;

/** `undefined` for a Secret that the kubelet ignores, such as an empty one. */
export function readSecret({
  name,
  bytes,
  problem,
}: Pick<KubeObject, 'name' | 'bytes' | 'problem'>): SecretReading | undefined {
  try {
    if (bytes === undefined) throw new MalformedSecret(problem ?? 'it was not read');
    const secret = parseSecretObject(parseJsonObject(bytes));
    return secret && { name, source: 'kubernetes', result: { state: 'loaded', secret } };
  } catch (error) {
    if (!(error instanceof MalformedSecret)) throw error;
    return malformedSecret(name, error.message);
  }
}

/** The reading of a Secret whose content is not available. */
export function malformedSecret(name: string, reason: string): SecretReading {
  return { name, source: 'kubernetes', result: { state: 'malformed', reason } };
}

/** The relevant parts of a Namespace. */
export interface Namespace {
  readonly uid: string;
  /** Whether it has the annotation that lets the tokens of its ServiceAccounts push. */
  readonly accountsMayPush: boolean;
}

/**
 * On the Namespace, not on the ServiceAccount: admins of a namespace can write everything in it, but not the Namespace.
 */
const PUSH_ANNOTATION = 'entrepot-push';
const OF_ACCOUNTS = 'serviceAccounts';

/** `undefined` for an object without a UID. */
export function readNamespace({ metadata }: JsonObject): Namespace | undefined {
  const { uid, annotations } = isJsonObject(metadata) ? metadata : {};
  if (typeof uid !== 'string') return undefined;
  const accountsMayPush = isJsonObject(annotations) && annotations[PUSH_ANNOTATION] === OF_ACCOUNTS;
  return { uid, accountsMayPush };
}

/** As `readNamespace`; if the content was not read, only the UID is known. */
export function keepNamespace({ uid, bytes }: Pick<KubeObject, 'uid' | 'bytes'>): Namespace {
  return readNamespace(parseJsonObject(bytes ?? '') ?? {}) ?? { uid, accountsMayPush: false };
}

/** The pull secrets that a ServiceAccount names; none if its content was not read. */
export function readAccount({ name, uid, bytes }: Pick<KubeObject, 'name' | 'uid' | 'bytes'>): Account {
  const references = parseJsonObject(bytes ?? '')?.['imagePullSecrets'];
  const names = Array.isArray(references)
    ? references.map((reference: unknown) => (isJsonObject(reference) ? reference['name'] : undefined))
    : [];
  const named = names.filter((text): text is string => typeof text === 'string' && text !== '');
  return { name, uid, imagePullSecrets: [...new Set(named)].slice(0, MAX_SECRETS_PER_TENANT) };
}
