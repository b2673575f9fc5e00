/** The part of the composition root for a Kubernetes cluster. */
import { join } from 'node:path';
import { ServiceAccountTokens } from '../access/service-account-tokens.ts';
import type { ServiceAccounts } from '../access/authenticator.ts';
import type { Config } from '../config/config.ts';
import { ConfigError } from '../config/problems.ts';
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import {
  type ClusterAccess,
  inClusterAccess,
  InvalidClusterAccess,
} from '../tenants/kubernetes/cluster-access.ts';
import { IssuerWatch } from '../tenants/kubernetes/issuer-watch.ts';
import { KubeClient } from '../tenants/kubernetes/kube-client.ts';
import { readKubeconfig } from '../tenants/kubernetes/kubeconfig.ts';
import { SeenCluster } from '../tenants/kubernetes/seen-cluster.ts';
import { KubernetesSource } from '../tenants/kubernetes/kubernetes-source.ts';
import { KnownNamespaces } from '../tenants/known-namespaces.ts';
import type { SecretSource } from '../tenants/secret-source.ts';
import { SEEN_CLUSTER_FOLDER } from './storage.ts';

/** A Kubernetes cluster as a source of Secrets and ServiceAccounts. */
export interface Cluster {
  readonly source: SecretSource;
  readonly serviceAccounts: ServiceAccounts | undefined;
}

export interface ClusterNeeds {
  readonly metadata: Pick<MetadataStore, 'listKnownTenants'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly meter: Meter;
}

/**
 * The namespaces that are recorded in the store: for commands, which run beside the server that watches the cluster.
 */
export function knownCluster(
  { kubernetes }: Config,
  { metadata }: Pick<ClusterNeeds, 'metadata'>,
): Cluster | undefined {
  if (kubernetes === undefined) return undefined;
  return {
    source: new KnownNamespaces(() => metadata.listKnownTenants()),
    serviceAccounts: undefined,
  };
}

/** The cluster of `config`, if configured. Throws ConfigError if its access cannot be read. */
export async function openCluster(config: Config, needs: ClusterNeeds): Promise<Cluster | undefined> {
  const { kubernetes } = config;
  if (kubernetes === undefined) return undefined;
  const { metadata, clock, meter } = needs;
  const access = await clusterAccess(config);
  const log = needs.log.child({ cluster: access.server.host });
  const client = clientOf(access, config, log);
  const { namespaces, namespaceSelector } = kubernetes;
  const audiences = audiencesOf(config);
  const seen = await SeenCluster.open({ folder: join(config.storage.path, SEEN_CLUSTER_FOLDER), log });
  const issuer = new IssuerWatch({ client, clock, log, seen });
  const source = new KubernetesSource({
    client,
    issuer: audiences.length > 0 ? issuer : undefined,
    namespaces: namespaces.length > 0 ? { names: namespaces } : { labelSelector: namespaceSelector },
    accountsMayPush: kubernetes.push === 'serviceAccounts',
    listKnownTenants: () => metadata.listKnownTenants(),
    seen,
    get recallForMs() {
      return config.staleGrantForMs;
    },
    clock,
    log,
    meter,
  });
  if (audiences.length === 0) {
    log.warn(
      {},
      'service accounts cannot log in: set server.serverNames, which are the audiences of their tokens',
    );
  }
  const tokens = new ServiceAccountTokens({ audiences, issuer, accounts: source, clock });
  const serviceAccounts: ServiceAccounts = {
    verify: token => tokens.verify(token),
    has: (namespace, uid) => source.hasAccount(namespace, uid),
    onChange: listener => {
      source.onAccounts(listener);
      issuer.onChange(listener);
    },
  };
  return { source, serviceAccounts };
}

/** A client of the cluster's API server. Throws ConfigError if its access cannot be read. */
export async function kubeClient(config: Config, log: Log): Promise<KubeClient> {
  return clientOf(await clusterAccess(config), config, log);
}

function clientOf(access: ClusterAccess, { proxy }: Config, log: Log): KubeClient {
  return new KubeClient(access, {
    proxy: { http: proxy.httpProxy, https: proxy.httpsProxy, no: proxy.noProxy },
    log,
  });
}

/** Throws ConfigError if it cannot be read. */
export async function clusterAccess({ kubernetes, environment, origin }: Config): Promise<ClusterAccess> {
  try {
    const file = kubernetes?.kubeconfig;
    return file === undefined ? await inClusterAccess(environment) : await readKubeconfig(file);
  } catch (error) {
    if (!(error instanceof InvalidClusterAccess)) throw error;
    const { message } = error;
    const path = ['kubernetes', 'kubeconfig'];
    throw new ConfigError([{ path, value: undefined, message, source: origin.sourceOf(path) }]);
  }
}

/** All names of this registry: a token's audience may be any of them. */
function audiencesOf({ server: { serverNames, externalUrl } }: Config): readonly string[] {
  const external = externalUrl === undefined ? [] : [externalUrl, new URL(externalUrl).host];
  return [...new Set([...serverNames, ...external])];
}
