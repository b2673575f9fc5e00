import { readTextFile, UnreadableFile } from '../../lib/text-file.ts';

/**
 * How to reach a cluster's API server, and with which credentials. Both functions read their files again each time,
 * since they are renewed.
 */
export interface ClusterAccess {
  /** With the path below which the API is, if any. */
  readonly server: URL;
  /** The certificates to use now; absent for the system's CAs. */
  readonly trust?: () => Promise<ClusterTrust>;
  /** The current bearer token; `undefined` for none. */
  readonly token: () => Promise<string | undefined>;
}

/** The certificates of both ends of a connection. */
export interface ClusterTrust {
  /** PEM of the CAs that sign the server's certificate; `undefined` for those of the system. */
  readonly ca?: string | undefined;
  readonly insecure?: boolean | undefined;
  readonly clientCertificate?: { readonly cert: string; readonly key: string } | undefined;
}

/** The access is not usable as configured. The message names the file, and shows no secret. */
export class InvalidClusterAccess extends Error {
  override readonly name = 'InvalidClusterAccess';
}

/** Where the kubelet mounts a pod's own ServiceAccount. */
export const ACCOUNT_FOLDER = '/var/run/secrets/kubernetes.io/serviceaccount';

/** Certificates with their chains, and tokens, have some KiB. */
export const MAX_ACCESS_FILE_BYTES = 256 * 1024;

/** The variables by which Kubernetes tells every container where the API server is. */
export interface ServiceVariables {
  readonly KUBERNETES_SERVICE_HOST?: string | undefined;
  readonly KUBERNETES_SERVICE_PORT?: string | undefined;
}

/** The access of a pod by its own ServiceAccount. Throws InvalidClusterAccess if it has none. */
export async function inClusterAccess(
  { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port }: ServiceVariables,
  folder: string = ACCOUNT_FOLDER,
): Promise<ClusterAccess> {
  if (!host || !port) {
    throw new InvalidClusterAccess('not running in a pod of a cluster: set kubernetes.kubeconfig');
  }
  const address = host.includes(':') ? `[${host}]` : host;
  const trust = async () => ({ ca: await readAccessFile(`${folder}/ca.crt`) });
  await trust();
  return { server: new URL(`https://${address}:${port}`), trust, token: tokenIn(`${folder}/token`) };
}

/** A token in a file that is renewed, as the kubelet does; read for each request, since requests are rare. */
export function tokenIn(file: string): ClusterAccess['token'] {
  return async () => (await readAccessFile(file)).trim();
}

/** The text of a certificate or token. Throws InvalidClusterAccess if there is none. */
export async function readAccessFile(path: string): Promise<string> {
  try {
    const text = await readTextFile(path, MAX_ACCESS_FILE_BYTES);
    if (text !== undefined) return text;
  } catch (cause) {
    if (!(cause instanceof UnreadableFile)) throw cause;
    throw new InvalidClusterAccess(cause.message, { cause });
  }
  throw new InvalidClusterAccess(`there is no file ${path}`);
}
