/** The part of the composition root that is about repositories that live upstream. */
import type { FileBlobStore } from './blobs/file-blob-store.ts';
import type { Config } from './config/config.ts';
import { repositoryOptions } from './config/repository-options.ts';
import type { Log } from './lib/log.ts';
import type { Meter } from './lib/meter.ts';
import type { MetadataStore } from './metadata/metadata-store.ts';
import type { MemoryBudget } from './lib/memory-budget.ts';
import { Mirror } from './mirror/mirror.ts';
import { strictestPullPolicy } from './oci/pull-policy.ts';
import type { Repository } from './oci/repository.ts';
import type { Proof, Right } from './oci/requester.ts';
import { Upstream } from './upstream/upstream.ts';
import { type UpstreamCredentials, upstreamOf } from './wire-access.ts';

export interface MirrorNeeds {
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly metadata: MetadataStore;
  readonly blobs: FileBlobStore;
  readonly recordProof: (proof: Proof) => Promise<void>;
  readonly log: Log;
  readonly meter: Meter;
}

/** Of what the configuration says of the upstreams and of pulls from them. */
export function openMirror(config: Config, needs: MirrorNeeds): Mirror {
  return new Mirror({
    ...needs,
    isOffline: config.offline,
    prefetchRuleOf: repository => repositoryOptions(upstreamOf(config, repository), repository.name),
    pullRuleOf: (repository, right) => pullRuleOf(config, repository, right),
    verifyForMs: config.verifyForMs,
    maxBytes: config.storage.maxBytes,
    limits: { ...config.pulls, maxParallelImagePulls: config.pulls.maxParallelImagePulls },
  });
}

/** By name. Each keeps connections until it is closed. */
export function openUpstreams(
  config: Config,
  credentials: UpstreamCredentials,
  memory: MemoryBudget,
): ReadonlyMap<string, Upstream> {
  const { httpProxy, httpsProxy, noProxy } = config.proxy;
  return new Map(
    [...config.upstreams].map(([name, upstream]) => [
      name,
      new Upstream({
        ...upstream,
        memory,
        mirrors: upstream.mirrors.map(({ url, credentials: login }) => ({
          url,
          credential: credentials.get(login),
        })),
        proxy: { http: httpProxy, https: httpsProxy, no: noProxy },
      }),
    ]),
  );
}

function pullRuleOf(config: Config, repository: Repository, right: Pick<Right, 'pullPolicy'>) {
  const options = repositoryOptions(upstreamOf(config, repository), repository.name);
  const policies = [config.offline ? ('Never' as const) : undefined, options.pullPolicy, right.pullPolicy];
  return { ...options, pullPolicy: strictestPullPolicy(policies) };
}
