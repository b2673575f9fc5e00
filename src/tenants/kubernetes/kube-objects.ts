import { isJsonObject } from '../../lib/json.ts';
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
