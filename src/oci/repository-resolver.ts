import { type Digest, isDigest } from './digest.ts';
import { OciError } from './errors.ts';
import { DOCKER_HUB, MAX_REPOSITORY_LENGTH, parseNormalizedReference } from './reference.ts';
import { type Repository, repositoryText } from './repository.ts';

/** The properties of an upstream that decide which names mean it. */
export interface NamedUpstream {
  /** The name under which its repositories are stored and shown: `docker.io`, `registry.example:5000`. */
  readonly name: string;
  readonly aliases: readonly string[];
  /** Host headers that mean this upstream. */
  readonly hostAliases: readonly string[];
}

export interface RepositoryResolverOptions {
  readonly upstreams: readonly NamedUpstream[];
  /** The names by which clients reach this server. */
  readonly serverNames: readonly string[];
  /**
   * First components of hosted repositories, which take precedence over the default upstream. Looked up for each
   * request, since tenants come and go.
   */
  readonly hostedPrefixes: { has(prefix: string): boolean };
  /** The upstream of paths that begin with no upstream. */
  readonly defaultUpstream?: string | undefined;
}

/** The parts of a request that decide which repository it means. */
export interface NameRequest {
  /** As it is in the path. */
  readonly name: string;
  /** `?ns=` */
  readonly ns: string | undefined;
  /** The `Host` header. */
  readonly host: string | undefined;
  /** The upstream that the listener belongs to, if any. */
  readonly listenerUpstream: string | undefined;
}

/** The repository, tag and digest that an image reference means here. */
export interface NamedRepository {
  readonly repository: Repository;
  readonly tag?: string;
  readonly digest?: Digest;
}

/** A host is only looked up, never contacted, so its length matters only for the error message. */
const MAX_HOST_LENGTH = 260;

const HUB_HOSTS: ReadonlySet<string> = new Set([DOCKER_HUB, 'index.docker.io', 'registry-1.docker.io']);
const HUB_OFFICIAL = 'library';

/**
 * Finds the repository that a request means. Names are only looked up among what is configured: a host that a client
 * names is never contacted or resolved.
 */
export class RepositoryResolver {
  readonly #options: RepositoryResolverOptions;
  /** Upstream names by name and alias, in the form of `hostKey`. */
  readonly #upstreams = new Map<string, string>();
  readonly #hostAliases = new Map<string, string>();
  readonly #serverNames = new Set<string>();
  /** Upstreams that are Docker Hub, under whatever name. */
  readonly #hubs = new Set<string>();

  constructor(options: RepositoryResolverOptions) {
    this.#options = options;
    this.setUpstreams(options.upstreams);
    for (const name of options.serverNames) this.#serverNames.add(hostKey(name));
  }

  /** Replaces all upstreams. */
  setUpstreams(upstreams: readonly NamedUpstream[]): void {
    for (const names of [this.#upstreams, this.#hostAliases, this.#hubs]) names.clear();
    for (const { name, aliases, hostAliases } of upstreams) {
      const keys = [name, ...aliases].map(hostKey);
      const isHub = keys.some(key => HUB_HOSTS.has(key));
      if (isHub) this.#hubs.add(name);
      for (const key of isHub ? [...keys, ...HUB_HOSTS] : keys) this.#upstreams.set(key, name);
      for (const alias of hostAliases) this.#hostAliases.set(hostKey(alias), name);
    }
  }

  /**
   * The repository that a request means, by the first rule that applies. If none applies, it is a hosted repository
   * that does not exist, so that the response for a name without a tenant equals that for another tenant's repository.
   * NAME_UNKNOWN for a host that is not configured.
   */
  resolve({ name, ns, host, listenerUpstream }: NameRequest): Repository {
    if (ns !== undefined) return this.#resolveNamespace(ns, name);
    const bound = listenerUpstream ?? this.boundUpstream(host);
    if (bound !== undefined) return this.#mirrored(bound, this.#withoutPrefix(bound, name));
    const prefixed = this.#resolvePrefix(name);
    if (prefixed !== undefined) return prefixed;
    if (this.#options.hostedPrefixes.has(firstComponent(name))) return hosted(name);
    if (this.#options.defaultUpstream !== undefined)
      return this.#mirrored(this.#options.defaultUpstream, name);
    const first = firstComponent(name);
    // Not a hosted name: only a host can have a port.
    if (first.includes(':')) throw unknownHost(first);
    return hosted(name);
  }

  /** The upstream that a Host header belongs to; `undefined` if none. The port is ignored unless the alias has one. */
  boundUpstream(host: string | undefined): string | undefined {
    if (host === undefined || this.#hostAliases.size === 0) return undefined;
    const key = hostKey(host);
    return this.#hostAliases.get(key) ?? this.#hostAliases.get(key.replace(/:\d+$/, ''));
  }

  /** `ns` as returned in `OCI-Namespace`; `undefined` if it is not known here. */
  knownNamespace(ns: string): string | undefined {
    const key = hostKey(ns);
    return this.#upstreamOf(key) !== undefined || this.#isServerName(key) ? key : undefined;
  }

  /**
   * The repository that an image reference on a command line or in a pod means: `nginx`, `ghcr.io/org/app:1`,
   * `team-a/app`. Throws InvalidReference, NAME_UNKNOWN for a registry that is not configured, and DIGEST_INVALID for
   * an unsupported digest.
   */
  repositoryOf(reference: string): NamedRepository {
    const { registry, repository, tag, digest } = parseNormalizedReference(reference);
    if (digest !== undefined && !isDigest(digest)) {
      throw new OciError('DIGEST_INVALID', { message: `unsupported digest: ${digest}` });
    }
    return {
      repository: this.#repositoryNamed(registry, repository, reference),
      ...(tag !== undefined && { tag }),
      ...(digest !== undefined && { digest }),
    };
  }

  /**
   * As `repositoryOf`, for a name under which content is to be stored. Also throws NAME_UNKNOWN for a repository that
   * belongs to nobody here, and for a short name that only Docker's default assigns to Docker Hub: elsewhere the name
   * may be private.
   */
  destinationOf(reference: string): NamedRepository {
    const named = this.repositoryOf(reference);
    const { upstream, name } = named.repository;
    const first = hostKey(firstComponent(reference));
    const isFound =
      upstream === ''
        ? this.#options.hostedPrefixes.has(firstComponent(name))
        : this.#upstreamOf(first) !== undefined || this.#isServerName(first);
    if (isFound) return named;
    const hub = upstream === '' ? '' : `; for Docker Hub, use ${repositoryText(named.repository)}`;
    throw new OciError('NAME_UNKNOWN', {
      message:
        `${quote(reference)} begins with neither a configured registry nor a hosted prefix ` +
        `(hosted.prefixes, tenants)${hub}`,
    });
  }

  #repositoryNamed(registry: string, path: string, reference: string): Repository {
    const key = hostKey(registry);
    if (this.#isServerName(key)) return this.#resolvePrefix(path) ?? hosted(path);
    // `team-a/app` and `hub-alias/app` have no domain, so normalization assigned them to Docker Hub.
    if (key === DOCKER_HUB && !HUB_HOSTS.has(firstComponent(reference))) {
      const prefixed = this.#resolvePrefix(path);
      if (prefixed !== undefined) return prefixed;
      if (this.#options.hostedPrefixes.has(firstComponent(path))) return hosted(path);
    }
    const upstream = this.#upstreamOf(key);
    if (upstream === undefined) throw unknownHost(registry);
    return this.#mirrored(upstream, path);
  }

  /** For `ns` with our own name: as the path without `ns`, but never the default upstream. */
  #resolveNamespace(ns: string, name: string): Repository {
    const key = hostKey(ns);
    const upstream = this.#upstreamOf(key);
    if (upstream !== undefined) return this.#mirrored(upstream, this.#withoutPrefix(upstream, name));
    if (this.#isServerName(key)) return this.#resolvePrefix(name) ?? hosted(name);
    throw unknownHost(ns);
  }

  /** The repository of a name whose first component is an upstream; `undefined` otherwise. */
  #resolvePrefix(name: string): Repository | undefined {
    const first = firstComponent(name);
    const upstream = first === name ? undefined : this.#upstreams.get(first);
    return upstream === undefined ? undefined : this.#mirrored(upstream, name.slice(first.length + 1));
  }

  /** The name without a repeated `upstream` as its first component, which containerd's `override_path` produces. */
  #withoutPrefix(upstream: string, name: string): string {
    const first = firstComponent(name);
    return first !== name && this.#upstreams.get(first) === upstream ? name.slice(first.length + 1) : name;
  }

  #mirrored(upstream: string, name: string): Repository {
    const full = this.#hubs.has(upstream) && !name.includes('/') ? `${HUB_OFFICIAL}/${name}` : name;
    return { upstream, name: bounded(full) };
  }

  #upstreamOf(key: string): string | undefined {
    return this.#upstreams.get(key) ?? this.#upstreams.get(withoutDefaultPort(key));
  }

  #isServerName(key: string): boolean {
    return this.#serverNames.has(key) || this.#serverNames.has(withoutDefaultPort(key));
  }
}

function hosted(name: string): Repository {
  return { upstream: '', name: bounded(name) };
}

/** Throws NAME_INVALID for a name that is too long or contains a colon, which only a host may have. */
function bounded(name: string): string {
  if (name.length > MAX_REPOSITORY_LENGTH || name.includes(':')) {
    throw new OciError('NAME_INVALID', { detail: { name: name.slice(0, MAX_REPOSITORY_LENGTH) } });
  }
  return name;
}

function firstComponent(name: string): string {
  const slash = name.indexOf('/');
  return slash === -1 ? name : name.slice(0, slash);
}

/** The form in which hosts are compared: in lower case, and without a trailing dot. */
function hostKey(host: string): string {
  return host.toLowerCase().replace(/\.(?=:\d+$|$)/, '');
}

/** `registry.example:443` and `registry.example` are the same registry; so are they with port 80, for plain HTTP. */
function withoutDefaultPort(key: string): string {
  return key.replace(/:(?:443|80)$/, '');
}

function unknownHost(host: string): OciError {
  return new OciError('NAME_UNKNOWN', {
    message: `${quote(host)} is not a configured upstream of this registry`,
    detail: { upstream: host.slice(0, MAX_HOST_LENGTH) },
  });
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, MAX_HOST_LENGTH));
}
