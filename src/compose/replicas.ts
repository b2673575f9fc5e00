/** The part of the composition root for other replicas. Loads nothing of them unless `cluster` is configured. */
import { readFile } from 'node:fs/promises';
import type { Config } from '../config/config.ts';
import { ConfigError } from '../config/problems.ts';
import type { Clock } from '../lib/clock.ts';
import { fileTrouble } from '../lib/file-trouble.ts';
import type { Log } from '../lib/log.ts';
import type { ClusterKeys } from '../replicas/cluster-keys.ts';
import type { ReplicaClient } from '../replicas/replica-client.ts';
import type { ReplicaFlights } from '../replicas/replica-flights.ts';
import type { ReplicaServer, ReplicaServerOptions } from '../replicas/replica-server.ts';
import type { ReplicaWatch } from '../replicas/replica-watch.ts';
import type { Storage } from './storage.ts';

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

/** The other replicas, as this process asks them. */
export interface OtherReplicas {
  readonly client: ReplicaClient;
  readonly flights: ReplicaFlights;
  /** Which of them can be asked, once it has begun. */
  readonly watch: ReplicaWatch;
  close(): void;
}

/** How this process asks other replicas; `undefined` if there are none. */
export async function openOtherReplicas(
  config: Pick<Config, 'cluster' | 'origin'>,
  {
    metadata,
    replica,
    clock,
    log,
  }: Pick<Storage, 'metadata' | 'replica'> & { readonly clock: Clock; readonly log: Log },
): Promise<OtherReplicas | undefined> {
  const keys = await clusterKeysOf(config);
  if (keys === undefined || replica === undefined) return undefined;
  const { ReplicaClient } = await import('../replicas/replica-client.ts');
  const { ReplicaFlights } = await import('../replicas/replica-flights.ts');
  const { ReplicaWatch } = await import('../replicas/replica-watch.ts');
  const listReplicas = () => metadata.listReplicas();
  const client = new ReplicaClient(keys, { clock, noteAway: address => watch.noteAway(address) });
  const watch = new ReplicaWatch({
    replica,
    listReplicas,
    ask: address => client.about(address),
    clock,
    log,
  });
  const flights = new ReplicaFlights({
    replica,
    listReplicas,
    flyAt: (address, key) => client.fly(address, key),
  });
  const close = () => {
    watch.close();
    client.close();
  };
  return { client, flights, watch, close };
}

/** The port on which others ask this one. */
export async function openReplicaServer(
  config: Pick<Config, 'cluster' | 'origin'>,
  needs: Omit<ReplicaServerOptions, 'address' | 'keys'>,
): Promise<ReplicaServer | undefined> {
  const keys = await clusterKeysOf(config);
  if (config.cluster === undefined || keys === undefined) return undefined;
  const { ReplicaServer } = await import('../replicas/replica-server.ts');
  return ReplicaServer.open({ ...needs, address: config.cluster.listen, keys });
}
