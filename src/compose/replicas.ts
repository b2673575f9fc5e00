/** The part of the composition root for other replicas. Loads nothing of them unless `cluster` is configured. */
import type { Config } from '../config/config.ts';
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { ClusterTls } from '../replicas/cluster-tls.ts';
import type { ReplicaClient } from '../replicas/replica-client.ts';
import type { ReplicaFlights } from '../replicas/replica-flights.ts';
import type { ReplicaServer, ReplicaServerOptions } from '../replicas/replica-server.ts';
import type { ReplicaWatch } from '../replicas/replica-watch.ts';
import type { Storage } from './storage.ts';

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
  tls: ClusterTls | undefined,
  {
    metadata,
    replica,
    clock,
    log,
  }: Pick<Storage, 'metadata' | 'replica'> & { readonly clock: Clock; readonly log: Log },
): Promise<OtherReplicas | undefined> {
  if (tls === undefined || replica === undefined) return undefined;
  const { ReplicaClient } = await import('../replicas/replica-client.ts');
  const { ReplicaFlights } = await import('../replicas/replica-flights.ts');
  const { ReplicaWatch } = await import('../replicas/replica-watch.ts');
  const listReplicas = () => metadata.listReplicas();
  const client = new ReplicaClient(tls, { clock, noteAway: address => watch.noteAway(address) });
  const watch = new ReplicaWatch({
    replica,
    listReplicas,
    listGoneReplicas: () => metadata.listGoneReplicas(),
    ask: async address => {
      const about = await client.about(address);
      void client.prepare(address);
      return about;
    },
    clock,
    log,
  });
  const flights = new ReplicaFlights({
    replica,
    listReplicas,
    flyAt: (address, key, agoMs) => client.fly(address, key, agoMs),
  });
  const close = () => {
    watch.close();
    client.close();
  };
  return { client, flights, watch, close };
}

/** The port on which others ask this one. */
export async function openReplicaServer(
  { cluster }: Pick<Config, 'cluster'>,
  tls: ClusterTls | undefined,
  needs: Omit<ReplicaServerOptions, 'address' | 'tls'>,
): Promise<ReplicaServer | undefined> {
  if (cluster === undefined || tls === undefined) return undefined;
  const { ReplicaServer } = await import('../replicas/replica-server.ts');
  return ReplicaServer.open({ ...needs, address: cluster.listen, tls });
}
