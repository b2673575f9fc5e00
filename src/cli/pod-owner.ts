import { KubeClient, KubeRefusal } from '../tenants/kubernetes/kube-client.ts';
import {
  ACCOUNT_FOLDER,
  inClusterAccess,
  readAccessFile,
  type ServiceVariables,
} from '../tenants/kubernetes/cluster-access.ts';

/** Whether the DaemonSet of this pod is removed; `undefined` if the API server did not say. */
export interface OwnerState {
  readonly goes: boolean | undefined;
  readonly why: string;
}

/** Within the half minute that a pod has to end. */
const ANSWER_MS = 10_000;

/**
 * Asks the API server whether the DaemonSet `name` in the namespace of this pod, or the namespace, is gone or going. When
 * a whole namespace is deleted, the right to ask may go first: who may not ask any more, was removed with the rest. Never
 * rejects.
 */
export async function ownerState(
  name: string,
  env: ServiceVariables,
  accountFolder: string = ACCOUNT_FOLDER,
): Promise<OwnerState> {
  let client: KubeClient | undefined;
  try {
    const namespace = (await readAccessFile(`${accountFolder}/namespace`)).trim();
    client = new KubeClient(await inClusterAccess(env, accountFolder));
    const daemonSet = `/apis/apps/v1/namespaces/${namespace}/daemonsets/${encodeURIComponent(name)}`;
    for (const path of [daemonSet, `/api/v1/namespaces/${namespace}`]) {
      const { metadata } = await client.read(path, AbortSignal.timeout(ANSWER_MS));
      const isGoing = Object(metadata).deletionTimestamp !== undefined;
      if (isGoing) return { goes: true, why: `${path} is being deleted` };
    }
    return { goes: false, why: `the DaemonSet ${name} stays` };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const isGone = error instanceof KubeRefusal && [401, 403, 404].includes(error.status);
    return { goes: isGone ? true : undefined, why };
  } finally {
    await client?.close();
  }
}
