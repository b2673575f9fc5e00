import type { Config } from '../config/config.ts';
import { mayNameArch } from '../config/repository-options.ts';
import { BodyMemory } from '../http/body-memory.ts';
import type { Listener } from '../http/listen.ts';
import type { Refusal } from '../http/refusal.ts';
import { createRegistryServer, type RegistryServer } from '../http/server.ts';
import { tokenHandler } from '../http/token.ts';
import type { Audit } from '../ops/audit.ts';
import type { TlsMaterial } from '../ops/tls-files.ts';
import { deedsTo } from './audit.ts';
import type { Observers, Parts } from './parts.ts';

export interface RegistryServerNeeds extends Observers {
  readonly audit: Audit | undefined;
  readonly tls: TlsMaterial | undefined;
  /** As in `RegistryServerOptions`. */
  readonly onRefusal: (refusal: Refusal) => void;
  /** Set if this is one of so many processes that serve: another binds the ports. */
  readonly processes?: number;
}

/** The ports for clients, as `config` says, in front of `parts`. */
export function openRegistryServer(
  config: Config,
  parts: Parts,
  { audit, tls, processes, onRefusal, ...observers }: RegistryServerNeeds,
): Promise<RegistryServer> {
  return createRegistryServer({
    ...observers,
    ...parts,
    ...(processes !== undefined && { isHanded: true, bodyMemory: BodyMemory.ofOne(processes) }),
    waitingFor: () => parts.tenants.waitingFor,
    presence: () => parts.metadata.presence,
    token: tokenHandler(parts.access, parts.resolver),
    recordDeed: deedsTo(audit),
    noteEvent: parts.events.note,
    onRefusal,
    listeners: listenersOf(config, tls),
    mayNameArch: repository => mayNameArch(config, repository),
    trustedProxies: config.server.trustedProxies,
    externalUrl: config.server.externalUrl,
    serverNames: config.server.serverNames,
    hostAliases: hostAliasesOf(config),
  });
}

/** The ports of `config`. */
export function listenersOf({ server }: Config, tls: TlsMaterial | undefined): readonly Listener[] {
  return server.listen.map(({ address, upstream }) => ({ ...address, upstream, tls }));
}

/** Further host names that mean an upstream. */
export function hostAliasesOf({ upstreams }: Config): readonly string[] {
  return [...upstreams.values()].flatMap(({ hostAliases }) => hostAliases);
}
