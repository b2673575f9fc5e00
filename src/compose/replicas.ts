/** The part of the composition root for other replicas. Loads nothing of them unless `cluster` is configured. */
import { readFile } from 'node:fs/promises';
import type { Config } from '../config/config.ts';
import { ConfigError } from '../config/problems.ts';
import { fileTrouble } from '../lib/file-trouble.ts';
import type { ClusterKeys } from '../replicas/cluster-keys.ts';
import type { ReplicaClient } from '../replicas/replica-client.ts';
import type { ReplicaServer, ReplicaServerOptions } from '../replicas/replica-server.ts';

/** The key file of a configuration. Throws ConfigError if it cannot be used; `undefined` if there are no replicas. */
export async function clusterKeysOf({
  cluster,
  origin,
}: Pick<Config, 'cluster' | 'origin'>): Promise<ClusterKeys | undefined> {
  if (cluster === undefined) return undefined;
  const { ClusterKeys, UnusableKeys } = await import('../replicas/cluster-keys.ts');
  const { keyFile } = cluster;
  try {
    return new ClusterKeys(await readFile(keyFile, 'utf8'));
  } catch (error) {
    const path = ['cluster', 'keyFile'];
    const message =
      error instanceof UnusableKeys ? `expected ${error.message}` : `cannot be read: ${fileTrouble(error)}`;
    throw new ConfigError([{ path, value: keyFile, message, source: origin.sourceOf(path) }]);
  }
}

/** How this process asks other replicas. */
export async function openReplicaClient(
  config: Pick<Config, 'cluster' | 'origin'>,
): Promise<ReplicaClient | undefined> {
  const keys = await clusterKeysOf(config);
  if (keys === undefined) return undefined;
  const { ReplicaClient } = await import('../replicas/replica-client.ts');
  return new ReplicaClient(keys);
}

/** The port on which others ask this one. */
export async function openReplicaServer(
  config: Pick<Config, 'cluster' | 'origin'>,
  needs: Pick<ReplicaServerOptions, 'ledFill' | 'uploads' | 'log'>,
): Promise<ReplicaServer | undefined> {
  const keys = await clusterKeysOf(config);
  if (config.cluster === undefined || keys === undefined) return undefined;
  const { ReplicaServer } = await import('../replicas/replica-server.ts');
  return ReplicaServer.open({ ...needs, address: config.cluster.listen, keys });
}
