import type { Credential } from '../oci/credential.ts';

/** The name of the Secret if nobody chooses another. */
const DEFAULT_NAME = 'entrepot';

/** A Secret as kubectl accepts it. */
export interface IssuedSecret {
  readonly apiVersion: 'v1';
  readonly kind: 'Secret';
  readonly type: 'kubernetes.io/dockerconfigjson';
  readonly metadata: { readonly name: string; readonly namespace: string };
  readonly stringData: { readonly '.dockerconfigjson': string };
}

/** The Secret with which the pods of a tenant log in to `server` by a credential that was just issued to it. */
export function issuedSecret(
  { username, password }: Pick<Credential, 'username' | 'password'>,
  {
    tenant,
    server,
    name = DEFAULT_NAME,
  }: {
    readonly tenant: string;
    readonly server: string;
    readonly name?: string | undefined;
  },
): IssuedSecret {
  const auth = Buffer.from(`${username}:${password}`).toString('base64');
  const config = JSON.stringify({ auths: { [server]: { username, password, auth } } });
  return {
    apiVersion: 'v1',
    kind: 'Secret',
    type: 'kubernetes.io/dockerconfigjson',
    metadata: { name, namespace: tenant },
    stringData: { '.dockerconfigjson': config },
  };
}
