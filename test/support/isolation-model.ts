// Who may read what, as the README promises it: a plain model that knows nothing of how the product decides.
//
// It bounds from above: what it forbids is never served, by whatever way it is asked for. Where a proof may have been
// made, since a request met an upstream that grants it, it counts as made. `mustRead` bounds from below, and says only
// what is certain.

export const ONE = 'one.example';
/** Entrepot has a login of its own there, which serves tenants. */
export const TWO = 'two.example';
export const NAMES = ['acme/a', 'acme/b', 'acme/c'] as const;
/** What `openToAll` lets anybody read with that login. */
export const OPEN_TO_ALL = 'acme/c';

export const TENANTS = ['team-a', 'team-b', 'team-c'] as const;
export type Tenant = (typeof TENANTS)[number];
export const HOSTED = ['team-a/x', 'team-a/base', 'team-b/y', 'team-c/z'] as const;
const SHARED = 'team-a/base';

/** Logins for upstreams, which stand in tenants' Secrets. */
export const USERS = ['alice', 'bob', 'dora'] as const;
export type User = (typeof USERS)[number];
/** Entrepot's own. */
export const OWN = 'mirror';
export type Login = User | typeof OWN;
/** What upstream is asked with; `''` is nothing. */
type Attempt = Login | '';

/** Nobody in particular, one with a login for an upstream, or one with the login of a tenant here. */
export const ASKERS = ['nobody', ...USERS, 'a', 'b', 'c'] as const;
export type Asker = (typeof ASKERS)[number];

export const VERIFY_FOR_MS = 3_600_000;
const STALE_FOR_MS = 3_600_000;
/** A clock that goes back by less is one that is kept right. */
const CLOCK_SLACK_MS = 60_000;
/** A proof is written a moment after its client has had the answer. */
const LATE_MS = 10_000;
/** The longest back-off: until it is over, an upstream may count as away though it answers again. */
const BACK_OFF_MS = 300_000;
/** For how long an upstream counts as away after a slow answer: others may be as slow. */
const SLOW_MS = 1_000;
export interface Mirrored {
  readonly upstream: string;
  readonly name: string;
}

interface Imports {
  readonly digests: Set<string>;
  readonly tags: Set<string>;
}

interface MirroredState {
  /** By digest, the media types that it ever had there, upstream or by an import. */
  readonly types: Map<string, Set<string>>;
  /** What upstream has now. */
  readonly now: Set<string>;
  /** What each tag ever meant. */
  readonly tags: Map<string, Set<string>>;
  readonly imports: Map<Tenant | 'all', Imports>;
  /** When upstream last granted it to whom, by the servers' clock. */
  readonly proofs: Map<Attempt, number>;
  readonly granted: Set<Login | '*'>;
}

interface HostedState {
  /** By digest, the media types that it was pushed as, or may have been. */
  readonly types: Map<string, Set<string>>;
  /** By manifest, as it was acknowledged last, what has to be there with it. */
  readonly acknowledged: Map<string, readonly string[]>;
  readonly tags: Map<string, string>;
}

export interface Typed {
  readonly digest: string;
  readonly mediaType: string;
}

export class IsolationModel {
  /** By tenant, whose logins its Secrets hold. */
  readonly held: Readonly<Record<Tenant, Set<User>>> = {
    'team-a': new Set(['alice']),
    'team-b': new Set(['bob', 'dora']),
    'team-c': new Set(['dora']),
  };
  isOffline = false;
  /** How far the clock of the servers is from ours, ms. */
  clockOffsetMs = 0;
  /** By upstream, until when it may count as away. */
  readonly #awayUntilMs = new Map<string, number>();
  readonly #mirrored = new Map<string, MirroredState>();
  readonly #hosted = new Map<string, HostedState>();

  // What happens.

  setGranted(login: Login | '*', repository: Mirrored, isGranted: boolean): void {
    const { granted } = this.#of(repository);
    if (isGranted) granted.add(login);
    else granted.delete(login);
  }

  added(repository: Mirrored, contents: readonly Typed[], tag: string): void {
    this.#brought(repository, contents, tag);
    for (const { digest } of contents) this.#of(repository).now.add(digest);
  }

  withdrawn(repository: Mirrored, digest: string): void {
    this.#of(repository).now.delete(digest);
  }

  imported(grantee: Tenant | 'all', repository: Mirrored, contents: readonly Typed[], tag: string): void {
    this.#brought(repository, contents, tag);
    const empty = (): Imports => ({ digests: new Set(), tags: new Set() });
    const imports = getOrMake(this.#of(repository).imports, grantee, empty);
    for (const { digest } of contents) imports.digests.add(digest);
    imports.tags.add(tag);
  }

  forgotten(repository: Mirrored): void {
    this.#of(repository).imports.clear();
  }

  #brought(repository: Mirrored, contents: readonly Typed[], tag: string): void {
    const { types, tags } = this.#of(repository);
    for (const { digest, mediaType } of contents) getOrMake(types, digest, newSet).add(mediaType);
    const [manifest] = contents;
    if (manifest !== undefined) getOrMake(tags, tag, newSet).add(manifest.digest);
  }

  /** Begins or ends a time in which an upstream answers otherwise than it should. */
  setMisbehaving(upstream: string, isMisbehaving: boolean): void {
    const untilMs = isMisbehaving ? Number.POSITIVE_INFINITY : performance.now() + BACK_OFF_MS;
    this.#awayUntilMs.set(upstream, untilMs);
  }

  /** An answer took so long that what is stored may have been served in place of upstream's. */
  wasSlow(upstream: string): void {
    const untilMs = this.#awayUntilMs.get(upstream) ?? 0;
    this.#awayUntilMs.set(upstream, Math.max(untilMs, performance.now() + SLOW_MS));
  }

  /** No server remembers a failure any more. */
  forgetFailures(): void {
    for (const [upstream, untilMs] of this.#awayUntilMs) {
      if (Number.isFinite(untilMs)) this.#awayUntilMs.delete(upstream);
    }
  }

  hold(tenant: Tenant, user: User, isHeld: boolean): void {
    if (isHeld) this.held[tenant].add(user);
    else this.held[tenant].delete(user);
    if (TENANTS.some(one => this.held[one].has(user))) return;
    for (const { proofs } of this.#mirrored.values()) proofs.delete(user);
  }

  /** Upstream may grant now what the asker asks it for. */
  mayProve(asker: Asker | 'operator', repository: Mirrored): void {
    if (this.isOffline) return;
    const isLent = repository.upstream === TWO && !this.#isSomebody(asker, repository);
    const attempts = [...this.attempts(asker, repository), ...(isLent ? ([OWN, ''] as const) : [])];
    for (const attempt of attempts) {
      if (this.isGranted(attempt, repository)) this.#of(repository).proofs.set(attempt, this.#clockMs());
    }
  }

  /** Upstream has refused all that the asker has, and the servers have heard it. */
  ended(asker: Asker, repository: Mirrored): void {
    for (const attempt of this.attempts(asker, repository)) this.#of(repository).proofs.delete(attempt);
  }

  // Who is who.

  /** Whether a user's login is for this upstream: else it is nobody's there. */
  isFor(user: User, upstream: string): boolean {
    return user !== 'dora' || upstream === ONE;
  }

  /** Whether a login counts: any other is worth at most what none is. */
  #isSomebody(asker: Asker | 'operator', { upstream }: Mirrored): boolean {
    if (asker === 'nobody') return false;
    if (!isUser(asker)) return true;
    return this.isFor(asker, upstream) && TENANTS.some(tenant => this.held[tenant].has(asker));
  }

  isNobody(asker: Asker, repository: Mirrored): boolean {
    return !this.#isSomebody(asker, repository);
  }

  /** Whose imports count for the asker. */
  #tenantOf(asker: Asker, repository: Mirrored): Tenant | undefined {
    if (asker === 'nobody' || this.isNobody(asker, repository)) return undefined;
    if (!isUser(asker)) return `team-${asker}`;
    const holders = TENANTS.filter(tenant => this.held[tenant].has(asker));
    return holders.length === 1 ? holders[0] : undefined;
  }

  /** With what upstream is asked for the asker. */
  attempts(asker: Asker | 'operator', repository: Mirrored): readonly Attempt[] {
    const { upstream, name } = repository;
    const own = upstream === TWO ? ([OWN] as const) : [];
    if (asker === 'operator') return [...own, ''];
    if (asker === 'nobody' || this.isNobody(asker, repository)) {
      return upstream === TWO && name === OPEN_TO_ALL ? own : [''];
    }
    if (isUser(asker)) return [asker];
    const users = [...this.held[`team-${asker}`]].filter(user => this.isFor(user, upstream));
    return users.length + own.length === 0 ? [''] : [...users, ...own];
  }

  isGranted(attempt: Attempt, repository: Mirrored): boolean {
    const { granted } = this.#of(repository);
    return granted.has('*') || (attempt !== '' && granted.has(attempt));
  }

  isMisbehaving(upstream: string): boolean {
    return this.#awayUntilMs.get(upstream) === Number.POSITIVE_INFINITY;
  }

  mayBeAway(upstream: string): boolean {
    return this.isOffline || performance.now() < (this.#awayUntilMs.get(upstream) ?? 0);
  }

  // Mirrored content.

  typesOf(repository: Mirrored, digest: string): ReadonlySet<string> {
    return this.#of(repository).types.get(digest) ?? new Set();
  }

  /** What a tag ever meant. */
  meaningsOf(repository: Mirrored, tag: string): ReadonlySet<string> {
    return this.#of(repository).tags.get(tag) ?? new Set();
  }

  /** Whether the asker may read all that is held of the repository. */
  hasRight(asker: Asker, repository: Mirrored): boolean {
    const { proofs } = this.#of(repository);
    const attempts: readonly Attempt[] = ['', ...this.attempts(asker, repository)];
    return attempts.some(attempt => {
      const provedMs = proofs.get(attempt);
      return provedMs !== undefined && this.#counts(provedMs, repository);
    });
  }

  #counts(provedMs: number, { upstream }: Mirrored): boolean {
    const ageMs = this.#clockMs() - provedMs;
    // Nobody knows how old one of the future is.
    if (ageMs > -CLOCK_SLACK_MS && ageMs < VERIFY_FOR_MS + LATE_MS) return true;
    return ageMs < VERIFY_FOR_MS + STALE_FOR_MS + LATE_MS && this.mayBeAway(upstream);
  }

  mayRead(asker: Asker, repository: Mirrored, digest: string): boolean {
    if (this.typesOf(repository, digest).size === 0) return false;
    return this.#isImported(asker, repository, digest) || this.hasRight(asker, repository);
  }

  #isImported(asker: Asker, repository: Mirrored, digest: string): boolean {
    return this.#importsFor(asker, repository).some(({ digests }) => digests.has(digest));
  }

  #importsFor(asker: Asker, repository: Mirrored): readonly Imports[] {
    const { imports } = this.#of(repository);
    const tenant = this.#tenantOf(asker, repository);
    return [imports.get('all'), tenant && imports.get(tenant)].filter(one => one !== undefined);
  }

  /** The tags that a list may show; `undefined`: there is no list. */
  mayList(asker: Asker, repository: Mirrored): ReadonlySet<string> | undefined {
    if (this.hasRight(asker, repository)) return new Set(this.#of(repository).tags.keys());
    const imports = this.#importsFor(asker, repository);
    return imports.length === 0 ? undefined : new Set(imports.flatMap(({ tags }) => [...tags]));
  }

  /** While the servers have just been started. */
  mustRead(asker: Asker, repository: Mirrored, digest: string): boolean {
    if (asker !== 'nobody' && this.isNobody(asker, repository)) return false;
    if (this.#isImported(asker, repository, digest)) return true;
    if (this.mayBeAway(repository.upstream) || !this.#of(repository).now.has(digest)) return false;
    return this.attempts(asker, repository).every(attempt => this.isGranted(attempt, repository));
  }

  // Content that lives here.

  hosted(name: string): HostedState {
    return getOrMake(this.#hosted, name, () => ({
      types: new Map(),
      acknowledged: new Map(),
      tags: new Map(),
    }));
  }

  /** A push, acknowledged or not, may have brought it. */
  mayBePushed(name: string, { digest, mediaType }: Typed): void {
    getOrMake(this.hosted(name).types, digest, newSet).add(mediaType);
  }

  /** A manifest with what it names. */
  pushed(name: string, manifest: Typed, blobs: readonly Typed[], tag: string): void {
    const { types, acknowledged, tags } = this.hosted(name);
    types.set(manifest.digest, new Set([manifest.mediaType]));
    acknowledged.set(
      manifest.digest,
      [manifest, ...blobs].map(({ digest }) => digest),
    );
    tags.set(tag, manifest.digest);
  }

  maySee(asker: Asker, name: string): boolean {
    if (asker === 'nobody' || isUser(asker)) return false;
    return name === SHARED || name.startsWith(`team-${asker}/`);
  }

  mayReadHosted(asker: Asker, name: string, digest: string): boolean {
    return this.maySee(asker, name) && this.hosted(name).types.has(digest);
  }

  #clockMs(): number {
    return Date.now() + this.clockOffsetMs;
  }

  #of(repository: Mirrored): MirroredState {
    return getOrMake(this.#mirrored, textOf(repository), () => ({
      types: new Map(),
      now: new Set(),
      tags: new Map(),
      imports: new Map(),
      proofs: new Map(),
      granted: new Set(),
    }));
  }
}

export function textOf({ upstream, name }: Mirrored): string {
  return `${upstream}/${name}`;
}

/** Who has the login of the tenant, or of the one that owns the repository. */
export function ownerOf(name: string): 'a' | 'b' | 'c' {
  const owner = /^team-([abc])/.exec(name)?.[1];
  if (owner !== 'a' && owner !== 'b' && owner !== 'c') throw new Error(`nobody owns ${name}`);
  return owner;
}

function isUser(asker: Asker | 'operator'): asker is User {
  return USERS.some(user => user === asker);
}

function newSet(): Set<string> {
  return new Set();
}

function getOrMake<Key, Value>(map: Map<Key, Value>, key: Key, make: () => Value): Value {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}
