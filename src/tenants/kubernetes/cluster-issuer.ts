import { isJsonObject, type JsonObject } from '../../lib/json.ts';
import { type KubeClient, KubeProtocolError } from './kube-client.ts';

/** The issuer of a cluster's ServiceAccount tokens, and its keys (RFC 7517). */
export interface ClusterIssuer {
  readonly issuer: string;
  readonly keys: readonly JsonObject[];
}

/**
 * Asks the API server itself, with our own access: the address of the keys in its discovery document is meant for
 * others, and may not be reachable or trusted from here.
 */
export async function readClusterIssuer(
  client: Pick<KubeClient, 'read'>,
  signal?: AbortSignal,
): Promise<ClusterIssuer> {
  const [{ issuer }, { keys }] = await Promise.all([
    client.read('/.well-known/openid-configuration', signal),
    client.read('/openid/v1/jwks', signal),
  ]);
  if (typeof issuer !== 'string' || issuer === '' || !Array.isArray(keys)) {
    throw new KubeProtocolError('the API server does not publish the issuer of its tokens');
  }
  return { issuer, keys: keys.filter(isJsonObject) };
}
