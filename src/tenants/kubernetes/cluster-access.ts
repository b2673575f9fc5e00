import { readTextFile, UnreadableFile } from '../../lib/text-file.ts';

/** How a cluster's API server is reached, and as whom. Both functions read again what others renew in files. */
export interface ClusterAccess {
  /** Without a path behind it, or with the one below which the API lies. */
  readonly server: URL;
  /** Whom to trust now. Absent: the authorities of the system. */
  readonly trust?: () => Promise<ClusterTrust>;
  /** The bearer token of now; `undefined` for who comes without. */
  readonly token: () => Promise<string | undefined>;
}

/** What the two ends of a connection show each other. */
export interface ClusterTrust {
  /** PEM of the authorities that sign the server's certificate; `undefined`: those of the system. */
  readonly ca?: string | undefined;
  readonly insecure?: boolean | undefined;
  readonly clientCertificate?: { readonly cert: string; readonly key: string } | undefined;
}

/** The access cannot be used as it is written. The message names the file, and shows no secret. */
export class InvalidClusterAccess extends Error {
  override readonly name = 'InvalidClusterAccess';
}

/** Where the kubelet puts a pod's own ServiceAccount. */
export const ACCOUNT_FOLDER = '/var/run/secrets/kubernetes.io/serviceaccount';

/** Certificates with their chain, and tokens, are some KiB. */
export const MAX_ACCESS_FILE_BYTES = 256 * 1024;

/** What Kubernetes puts into every container to say where its API server is. */
export interface ServiceVariables {
  readonly KUBERNETES_SERVICE_HOST?: string | undefined;
  readonly KUBERNETES_SERVICE_PORT?: string | undefined;
}

/** The access of a pod by its own ServiceAccount. Throws InvalidClusterAccess when it has none. */
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

/** A token that others renew in its file, as the kubelet does: read each time, since requests are rare. */
export function tokenIn(file: string): ClusterAccess['token'] {
  return async () => (await readAccessFile(file)).trim();
}

/** The text of a certificate or token. Throws InvalidClusterAccess when there is none. */
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
