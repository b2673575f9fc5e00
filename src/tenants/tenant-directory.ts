import { backoffMs, jittered } from '../lib/backoff.ts';
import { type Clock, systemClock, type Timer } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { KnownTenant } from '../oci/issued-credential.ts';
import { CredentialIndex } from './credential-index.ts';
import type { CredentialPlugins } from './credential-plugins.ts';
import { CredentialUses } from './credential-usage.ts';
import { IssuedCredentials } from './issued-credentials.ts';
import { type NoteSecret, SecretChanges } from './secret-changes.ts';
import type { PassedOver, SecretSource, TenantReading } from './secret-source.ts';
import { SharedCredentials } from './shared-credentials.ts';
import type {
  ConfiguredTenant,
  Holder,
  RefusedTenant,
  SecretState,
  Tenant,
  TenantOptions,
  Tenants,
  TenantsChange,
} from './tenant.ts';
import { TenantEntry } from './tenant-entry.ts';
import { ADOPT_NEXT_UID, type TenantStore } from './tenant-store.ts';

export interface TenantsParts {
  /** In order of precedence if several have Secrets of one tenant. */
  readonly sources: readonly SecretSource[];
  /** The tenants of the configuration, which exist whatever the sources say. */
  readonly configured: readonly ConfiguredTenant[];
  /** Files or folders of Docker configs, as in `NodeConfig`. */
  readonly nodeConfig: readonly string[];
  readonly plugins: Pick<CredentialPlugins, 'configsFor' | 'close'> | undefined;
  readonly store: TenantStore;
  /** The store's secret for credential ids. */
  readonly credentialKey: string;
  /** Why no tenant may have a name (because it means something else); `undefined` if one may. */
  readonly nameProblem: (name: string) => string | undefined;
  /** If set, does not wait for a source that reports what its start waits for. */
  readonly startsMeanwhile?: boolean;
  /** Whose unusable Secrets are logged; `undefined` stands for `nodeConfig`. By default everybody's. */
  readonly reportsSecretsOf?: (tenant: string | undefined) => boolean;
  /** Called with each Secret that was read anew, is missing or malformed. */
  readonly noteSecret?: NoteSecret | undefined;
  readonly log: Log;
  readonly meter: Meter;
  /** Default: the system's. */
  readonly clock?: Clock;
}

/** After a failure. The change that could not be read may end a login, and is not announced again. */
const RELOAD_AGAIN_MS = 1_000;

/** After bindings to namespaces could not be stored: the index may be unreachable, or its disk full, for a long time. */
const BIND_AGAIN = { firstMs: 1_000, maxMs: 60_000 } as const;

/**
 * Opens all tenants; resolves when everything that has to be waited for was read. Rejects if a source can never work.
 */
export async function openTenants(parts: TenantsParts): Promise<Tenants> {
  const directory = new TenantDirectory(parts);
  try {
    await directory.start();
    return directory;
  } catch (error) {
    await directory.close();
    throw error;
  }
}

/**
 * All tenants, from the configuration, the store and the sources, and where each credential is found. Everything is in
 * memory. Changes are reported once per turn of the event loop, so that a Secret that is moved is not reported as gone.
 */
export class TenantDirectory implements Tenants {
  readonly #parts: TenantsParts;
  readonly #clock: Clock;
  readonly #nowMs: () => number;
  #configured: ReadonlyMap<string, TenantOptions>;
  readonly #tenants = new Map<string, TenantEntry>();
  readonly #index = new CredentialIndex();
  readonly #issued: IssuedCredentials;
  readonly #shared: SharedCredentials;
  readonly #uses: CredentialUses;
  readonly #listeners = new Set<(change: TenantsChange) => void>();
  /** By name: the reason, and the sources that have such a tenant. */
  readonly #refused = new Map<string, { readonly problem: string; readonly places: Set<number> }>();
  readonly #counts = new StateCounts();
  readonly #changes: SecretChanges;
  #known = new Map<string, KnownTenant>();
  /** Bindings that are not stored yet. */
  #bound: KnownTenant[] = [];
  /** How often in a row they could not be stored. */
  #bindFailures = 0;
  #sorted: readonly Tenant[] | undefined;
  #pending: { readonly credentialIds: Set<string>; readonly tenants: Set<string> } | undefined;
  #stopListening = () => {};
  #reloading: Promise<void> = Promise.resolve();
  #reloadingAgain: Timer | undefined;
  #isClosed = false;
  #storing: Promise<void> = Promise.resolve();

  constructor(parts: TenantsParts) {
    this.#parts = parts;
    const { clock = systemClock } = parts;
    this.#clock = clock;
    this.#nowMs = clock.nowMs;
    this.#uses = new CredentialUses(parts.store, parts.log, this.#nowMs);
    this.#changes = new SecretChanges(parts.log, parts.reportsSecretsOf, parts.noteSecret);
    this.#configured = optionsByName(parts.configured);
    this.#issued = new IssuedCredentials(this.#nowMs, ids => this.#noteChange(ids, []));
    this.#shared = new SharedCredentials({
      ...parts,
      clock,
      onChange: ids => this.#noteChange(ids, this.#tenants.keys()),
    });
  }

  async start(): Promise<void> {
    const { sources, startsMeanwhile, store, log } = this.#parts;
    await this.#uses.start();
    for (const name of this.#configured.keys()) this.#entryOf(name);
    this.#stopListening = store.onNotification('secrets', () => {
      this.reload().catch((error: unknown) => log.error({ err: error }, 'tenants could not be reloaded'));
    });
    await this.reload();
    await this.#shared.start();
    const noteFailure = (error: unknown) =>
      log.error({ err: error }, 'a source of Secrets could not be started');
    await Promise.all(
      sources.map(async (source, place) => {
        const isSlow = startsMeanwhile === true && source.waitingFor !== undefined;
        const started = source.start({
          put: (tenant, reading) => this.#put(place, tenant, reading),
          remove: tenant => this.#remove(place, tenant),
        });
        if (isSlow) void started.catch(noteFailure);
        else await started;
      }),
    );
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#reloadingAgain?.cancel();
    this.#stopListening();
    this.#issued.close();
    await Promise.all([...this.#parts.sources.map(source => source.close()), this.#shared.close()]);
    this.#changes.close();
    await this.#reloading.catch(() => {});
    await this.#storing;
    await this.#uses.close();
    this.#listeners.clear();
  }

  get isEmpty(): boolean {
    return this.#tenants.size === 0;
  }

  get node(): readonly SecretState[] {
    const { states, current, credentialIds } = this.#shared;
    return states.map(state =>
      state.name === current ? { ...state, ...this.#uses.lastOf(credentialIds) } : state,
    );
  }

  get recalledAtMs(): number | undefined {
    const times = this.#parts.sources.flatMap(source => source.recalledAtMs ?? []);
    return times.length === 0 ? undefined : Math.min(...times);
  }

  get problems(): readonly string[] {
    return this.#parts.sources.flatMap(source => source.problems ?? []);
  }

  get waitingFor(): string | undefined {
    return this.#parts.sources.find(source => source.waitingFor !== undefined)?.waitingFor;
  }

  get passedOver(): readonly PassedOver[] {
    return this.#parts.sources.flatMap(source => source.passedOver ?? []);
  }

  list(): readonly Tenant[] {
    this.#sorted ??= [...this.#tenants].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, tenant]) => tenant);
    return this.#sorted;
  }

  find(name: string): Tenant | undefined {
    return this.#tenants.get(name);
  }

  get refused(): readonly RefusedTenant[] {
    const names = [...this.#refused.keys()].sort();
    return names.map(name => ({ name, reason: this.#refusalOf(name) }));
  }

  isDisputed(name: string): boolean {
    return this.#refused.has(name) && this.#known.has(name);
  }

  holders(credentialId: string): readonly Holder[] {
    const issued = this.#issued.find(credentialId);
    const places = this.#index.find(credentialId);
    if (issued === undefined) return places;
    const tenant = this.#tenants.get(issued.tenant);
    if (!this.#issued.isLive(issued) || tenant === undefined || tenant.suspended !== undefined) return [];
    const { server, readOnly } = issued;
    const copies = places.filter(place => place.tenant === tenant);
    return [
      { tenant, secret: server, key: server, issued: true, readOnly },
      ...copies.map(copy => ({ ...copy, issued: true, readOnly })),
    ];
  }

  wasIssued(credentialId: string): boolean {
    return this.#issued.find(credentialId) !== undefined;
  }

  isHeld(credentialId: string): boolean {
    return this.holders(credentialId).length > 0 || this.#shared.has(credentialId);
  }

  lookupShared(image: string) {
    return this.#shared.lookup(image);
  }

  noteOutcome(credentialId: string, outcome: 'used' | 'refused'): void {
    if (this.isHeld(credentialId)) this.#uses.note(credentialId, outcome);
  }

  lastUsedAtMs(credentialId: string): number | undefined {
    return this.#uses.of(credentialId)?.usedAtMs;
  }

  /** One after the other, so that an older result cannot overwrite a newer one. */
  reload(): Promise<void> {
    this.#reloading = this.#reloading.catch(() => {}).then(() => this.#reload());
    this.#reloading.catch(() => this.#reloadAgain());
    return this.#reloading;
  }

  #reloadAgain(delayMs = RELOAD_AGAIN_MS): void {
    if (this.#isClosed) return;
    this.#reloadingAgain ??= this.#clock
      .after(delayMs, () => {
        this.#reloadingAgain = undefined;
        this.reload().catch(() => {});
      })
      .unref();
  }

  configure(configured: readonly ConfiguredTenant[]): void {
    const before = this.#configured;
    this.#configured = optionsByName(configured);
    for (const tenant of this.#tenants.values()) {
      const { name } = tenant;
      const isGone = before.has(name) && this.#dropIfNobody(tenant);
      const isRefused = !isGone && this.#parts.nameProblem(name) !== undefined;
      if (isRefused) {
        this.#tenants.delete(name);
        this.#counts.replace(tenant.slots, []);
        this.#sorted = undefined;
        this.#refuse(name);
      }
      if (isGone || isRefused) this.#indexAgain(tenant);
    }
    for (const name of this.#configured.keys()) this.#entryOf(name);
    // Their options, and the names of upstreams, may have changed.
    this.#noteChange(new Set(), this.#tenants.keys());
  }

  async catchUp(): Promise<void> {
    await this.#parts.store.pollNotifications();
    await this.#reloading;
  }

  onChange(listener: (change: TenantsChange) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  async #reload(): Promise<void> {
    const { store } = this.#parts;
    // Otherwise the state of before would be read.
    await this.#storing;
    const [known, issued] = await Promise.all([store.listKnownTenants(), store.listIssuedCredentials()]);
    this.#known = new Map(known.map(tenant => [tenant.name, tenant]));
    const others = this.#issued.set(issued);
    for (const { name, uid } of known) {
      if (!this.#refuse(name) && uid === undefined) this.#entryOf(name);
    }
    for (const [name, { places }] of this.#refused) this.#dropRefused(name, places);
    for (const tenant of this.#tenants.values()) {
      if (tenant.uid !== undefined) this.#bind(tenant, tenant.uid);
      if (this.#dropIfNobody(tenant)) this.#indexAgain(tenant);
    }
    this.#noteChange(new Set(others.map(({ id }) => id)), new Set(others.map(({ tenant }) => tenant)));
  }

  #put(place: number, name: string, reading: TenantReading): void {
    if (this.#refuse(name)) this.#refused.get(name)?.places.add(place);
    const tenant = this.#entryOf(name);
    if (tenant === undefined) return;
    const before = tenant.slots;
    const isOther = tenant.put(place, reading, this.#nowMs());
    if (reading.uid !== undefined) this.#bind(tenant, reading.uid);
    if (!isOther) return;
    this.#counts.replace(before, tenant.slots);
    this.#indexAgain(tenant);
  }

  #remove(place: number, name: string): void {
    const places = this.#refused.get(name)?.places;
    if (places?.delete(place) === true) this.#dropRefused(name, places);
    const tenant = this.#tenants.get(name);
    if (tenant === undefined) return;
    const before = tenant.slots;
    tenant.remove(place);
    this.#counts.replace(before, tenant.slots);
    this.#dropIfNobody(tenant);
    this.#indexAgain(tenant);
  }

  /** Removes a tenant that is in no source, nor the configuration, nor the store. */
  #dropIfNobody(tenant: TenantEntry): boolean {
    const { name, hasSources } = tenant;
    const isAdded = this.#known.has(name) && this.#known.get(name)?.uid === undefined;
    if (hasSources || this.#configured.has(name) || isAdded) return false;
    this.#sorted = undefined;
    return this.#tenants.delete(name);
  }

  /** The tenant with this name, created if necessary; `undefined` if no tenant may have the name. */
  #entryOf(name: string): TenantEntry | undefined {
    const known = this.#tenants.get(name);
    if (known !== undefined) return known;
    if (this.#refuse(name)) return undefined;
    const { credentialKey, log } = this.#parts;
    const tenant = new TenantEntry({
      name,
      optionsOf: one => this.#configured.get(one) ?? NO_OPTIONS,
      credentialKey,
      lookupShared: image => this.#shared.lookup(image, name),
      wasIssued: id => this.wasIssued(id),
      uses: this.#uses,
      changes: this.#changes,
      log: log.child({ tenant: name }),
    });
    this.#tenants.set(name, tenant);
    this.#sorted = undefined;
    this.#noteChange(new Set(), [name]);
    return tenant;
  }

  /** Whether no tenant may have the name; reported once. */
  #refuse(name: string): boolean {
    if (this.#refused.has(name)) return true;
    const problem = this.#tenants.has(name) ? undefined : this.#parts.nameProblem(name);
    if (problem === undefined) return false;
    this.#refused.set(name, { problem, places: new Set() });
    this.#parts.log.warn({ tenant: name, reason: this.#refusalOf(name) }, 'no tenant can have this name');
    this.#noteChange(new Set(), [name]);
    return true;
  }

  #refusalOf(name: string): string {
    const { problem } = this.#refused.get(name) ?? { problem: '' };
    const first = `the name ${problem}`;
    if (!this.isDisputed(name)) return first;
    return `${first}; it was a tenant's name: repositories below it are not served until entrepot tenant remove ${name}`;
  }

  #dropRefused(name: string, places: ReadonlySet<number>): void {
    if (places.size > 0 || this.#known.has(name)) return;
    this.#refused.delete(name);
    this.#noteChange(new Set(), [name]);
  }

  /** The first namespace seen becomes the tenant; a later one with that name has to be adopted. */
  #bind(tenant: TenantEntry, uid: string): void {
    const { name } = tenant;
    const bound = this.#known.get(name);
    if (bound === undefined || bound.uid === ADOPT_NEXT_UID) {
      this.#known.set(name, { name, uid });
      this.#bound.push({ name, uid });
      this.#noteChange(new Set(), [name]);
    }
    const isOther = this.#known.get(name)?.uid !== uid;
    if (tenant.bind(uid, isOther)) this.#indexAgain(tenant);
  }

  #indexAgain(tenant: TenantEntry): void {
    const isThere = this.#tenants.get(tenant.name) === tenant && tenant.suspended === undefined;
    this.#noteChange(this.#index.set(tenant, isThere ? tenant.entries : []), [tenant.name]);
  }

  #noteChange(credentialIds: ReadonlySet<string>, tenants: Iterable<string>): void {
    if (this.#pending === undefined) {
      this.#pending = { credentialIds: new Set(), tenants: new Set() };
      queueMicrotask(() => this.#tellChange());
    }
    for (const id of credentialIds) this.#pending.credentialIds.add(id);
    for (const tenant of tenants) this.#pending.tenants.add(tenant);
  }

  #tellChange(): void {
    const { credentialIds = new Set<string>(), tenants = new Set<string>() } = this.#pending ?? {};
    this.#pending = undefined;
    const gone = [...credentialIds].filter(id => !this.isHeld(id));
    // Not for credentials issued here: people want to know when they were last used, even after their end.
    for (const id of gone) if (!this.wasIssued(id)) this.#uses.forget(id);
    this.#storeBound();
    this.#report();
    if (gone.length === 0 && tenants.size === 0) return;
    const change = { goneCredentialIds: gone, tenants: [...tenants] };
    for (const listener of this.#listeners) {
      try {
        listener(change);
      } catch (error) {
        this.#parts.log.error({ err: error }, 'a listener for tenant changes failed');
      }
    }
  }

  #storeBound(): void {
    const tenants = this.#bound;
    this.#bound = [];
    if (tenants.length === 0) return;
    this.#storing = this.#store(tenants);
  }

  /** Never rejects. */
  async #store(tenants: readonly KnownTenant[]): Promise<void> {
    const { store, log } = this.#parts;
    try {
      await store.putKnownTenants(tenants);
      this.#bindFailures = 0;
    } catch (error) {
      this.#bindFailures += 1;
      const delayMs = Math.round(jittered(backoffMs(BIND_AGAIN, this.#bindFailures)));
      log.error(
        { err: error, tenants, delayMs },
        'binding tenants to their namespaces failed and will be retried',
      );
      // The reload binds those again that nobody else has bound by then.
      this.#reloadAgain(delayMs);
    }
  }

  #report(): void {
    const { meter } = this.#parts;
    meter.gauge('tenants', this.#tenants.size);
    meter.gauge('tenants_refused', this.#refused.size);
    for (const [state, count] of this.#counts.entries()) {
      const ofNode = this.node.filter(one => one.state === state).length;
      meter.gauge('secrets', count + ofNode, { state });
    }
  }
}

const NO_OPTIONS: TenantOptions = {};

function optionsByName(configured: readonly ConfiguredTenant[]): ReadonlyMap<string, TenantOptions> {
  return new Map(configured.map(({ name, options }) => [name, options]));
}

/** Counts the Secrets in each state, incrementally. */
class StateCounts {
  readonly #counts = new Map<SecretState['state'], number>([
    ['loaded', 0],
    ['malformed', 0],
    ['unread', 0],
    ['missing', 0],
  ]);

  replace(before: readonly Pick<SecretState, 'state'>[], after: readonly Pick<SecretState, 'state'>[]): void {
    for (const { state } of before) this.#add(state, -1);
    for (const { state } of after) this.#add(state, 1);
  }

  entries(): Iterable<readonly [SecretState['state'], number]> {
    return this.#counts;
  }

  #add(state: SecretState['state'], change: number): void {
    this.#counts.set(state, (this.#counts.get(state) ?? 0) + change);
  }
}
