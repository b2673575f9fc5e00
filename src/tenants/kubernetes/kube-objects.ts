import { isJsonObject, type JsonObject } from '../../lib/json.ts';
import { MalformedSecret, parseSecretObject } from '../secret.ts';
import type { SecretReading } from '../secret-source.ts';
import type { KubeObject } from './kube-client.ts';
import type { Account } from './pull-secret-order.ts';

/** `undefined` for a Secret that the kubelet passes over, as an empty one. */
export function readSecret({ name, fields }: KubeObject): SecretReading | undefined {
  try {
    const secret = parseSecretObject(fields);
    return secret && { name, source: 'kubernetes', result: { state: 'loaded', secret } };
  } catch (error) {
    if (!(error instanceof MalformedSecret)) throw error;
    return { name, source: 'kubernetes', result: { state: 'malformed', reason: error.message } };
  }
}

/** What is kept of a Namespace. */
export interface Namespace {
  readonly uid: string;
  /** It carries the annotation that lets the tokens of its ServiceAccounts push. */
  readonly accountsMayPush: boolean;
}

/**
 * On the Namespace, and not on the ServiceAccount: who administers a namespace may write all that lies in it, and not
 * the Namespace itself.
 */
const PUSH_ANNOTATION = 'entrepot-push';
const OF_ACCOUNTS = 'serviceAccounts';

/** `undefined` for what has no UID. */
export function readNamespace({ metadata }: JsonObject): Namespace | undefined {
  const { uid, annotations } = isJsonObject(metadata) ? metadata : {};
  if (typeof uid !== 'string') return undefined;
  const accountsMayPush = isJsonObject(annotations) && annotations[PUSH_ANNOTATION] === OF_ACCOUNTS;
  return { uid, accountsMayPush };
}

/** What a ServiceAccount says of pulls. */
export function readAccount({ name, uid, fields }: KubeObject): Account {
  const references = fields['imagePullSecrets'];
  const names = Array.isArray(references)
    ? references.map((reference: unknown) => (isJsonObject(reference) ? reference['name'] : undefined))
    : [];
  return {
    name,
    uid,
    imagePullSecrets: names.filter((text): text is string => typeof text === 'string' && text !== ''),
  };
}
