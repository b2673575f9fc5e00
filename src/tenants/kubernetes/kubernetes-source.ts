/**
 * tenants/kubernetes/: namespaces of a cluster as tenants.
 *
 * `kubernetes-source.ts` publishes what `namespace-scope.ts` sees, which keeps copies of the cluster's objects by means
 * of `reflector.ts` and `content-reflector.ts`. These use `kube-client.ts`, with the access given by
 * `cluster-access.ts` or `kubeconfig.ts`.
 *
 * The main idea: a tenant is bound to the UID of its namespace, but the changes of a namespace and those of its content
 * arrive independently. So a change of Secrets or accounts takes effect only after the cluster was asked for the
 * namespace's UID. Otherwise somebody who re-creates a namespace would act as its former tenant until that news
 * arrives.
 */
import { type Clock, systemClock } from '../../lib/clock.ts';
import type { Log } from '../../lib/log.ts';
import type { Meter } from '../../lib/meter.ts';
import type { KnownTenant } from '../../oci/issued-credential.ts';
import type { PassedOver, SecretReading, SecretSink, SecretSource } from '../secret-source.ts';
import { ADOPT_NEXT_UID } from '../tenant-store.ts';
import type { IssuerWatch } from './issuer-watch.ts';
import { type KubeClient, KubeRefusal } from './kube-client.ts';
import { type Namespace, readNamespace } from './kube-objects.ts';
import { NamespaceScope, type ScopeOptions } from './namespace-scope.ts';
import { PassedOverObjects } from './passed-over.ts';
import { orderPullSecrets } from './pull-secret-order.ts';
import { SecretReader } from './secret-reader.ts';
import type { RecalledCluster, SeenCluster } from './seen-cluster.ts';
import { SettleQueue } from './settle-queue.ts';

export interface KubernetesSourceOptions {
  readonly client: KubeClient;
  /** The namespaces that are tenants: by name, or by label. */
  readonly namespaces: { readonly names: readonly string[] } | { readonly labelSelector: string };
  /** Whether the tokens of all ServiceAccounts may push; otherwise only those of annotated namespaces. */
  readonly accountsMayPush?: boolean;
  /** Follows the issuer of ServiceAccount tokens; `undefined` if nobody logs in with them. */
  readonly issuer?: Pick<IssuerWatch, 'start' | 'close' | 'problem' | 'recall'> | undefined;
  /** Where the cluster's state is saved for a start while it is unreachable. */
  readonly seen?: SeenCluster | undefined;
  /** For how long after the cluster was last followed the saved state is used, ms. */
  readonly recallForMs?: number;
  /** Default: the system's. */
  readonly clock?: Clock;
  /** The tenants that were bound to namespaces before, for when the cluster cannot be asked. */
  readonly listKnownTenants: () => Promise<readonly KnownTenant[]>;
  readonly log: Log;
  readonly meter: Meter;
}

/** The precision with which it is recorded when the cluster was last followed. */
const NOTE_FOLLOWED_MS = 60_000;

/** The content of a namespace at one moment. */
interface Content {
  readonly secrets: readonly SecretReading[];
  /** UIDs. */
  readonly accounts: ReadonlySet<string>;
}

/** Follows the Secrets, ServiceAccounts and namespaces of a cluster. */
export class KubernetesSource implements SecretSource {
  readonly #options: KubernetesSourceOptions;
  readonly #clock: Clock;
  /** By the namespace that each follows; under '' the one that follows the whole cluster. */
  readonly #scopes: ReadonlyMap<string, NamespaceScope>;
  readonly #queue: SettleQueue;
  readonly #secretReader = new SecretReader();
  readonly #passedOver: PassedOverObjects;
  readonly #end = new AbortController();
  /** The tenants that were put, with the UIDs of their accounts. */
  readonly #put = new Map<string, ReadonlySet<string>>();
  readonly #listeners = new Set<() => void>();
  /** Namespaces in the state saved before this start, with their UIDs. */
  readonly #recalled = new Map<string, string>();
  #recalledAtMs: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #sink: SecretSink | undefined;
  #isStarted = false;
  #found = 0;
  /** Why namespaces cannot be read now. */
  #unasked: string | undefined;

  constructor(options: KubernetesSourceOptions) {
    const { client, namespaces, clock = systemClock, log, meter } = options;
    this.#options = options;
    this.#clock = clock;
    this.#passedOver = new PassedOverObjects(log, meter);
    this.#queue = new SettleQueue({
      settle: name => this.#settle(name),
      onProblem: reason => this.#noteUnasked(reason),
    });
    const scope = (followed: ScopeOptions['namespaces']) =>
      new NamespaceScope({
        client,
        namespaces: followed,
        secretReader: this.#secretReader,
        passedOver: this.#passedOver,
        onChange: changed => this.#noteChange(changed),
        onState: () => this.#report(),
        clock,
        log,
      });
    this.#scopes =
      'names' in namespaces
        ? new Map(namespaces.names.map(name => [name, scope({ name })]))
        : new Map([['', scope(namespaces)]]);
  }

  async start(sink: SecretSink): Promise<void> {
    this.#sink = sink;
    const issuerAsked = this.#options.issuer?.start(() => this.#report());
    const scopes = [...this.#scopes.values()];
    const { seen } = this.#options;
    const [recalled] = await Promise.all([seen?.recall(), ...scopes.map(scope => scope.start())]);
    if (scopes.some(scope => !scope.isKnown)) await this.#putKnown(recalled);
    for (const name of recalled?.namespaces.keys() ?? []) {
      const scope = this.#scopeOf(name);
      if (scope === undefined || (scope.isKnown && scope.find(name) === undefined)) seen?.forget(name);
    }
    this.#isStarted = true;
    const found = scopes.flatMap(scope => [...scope.namespaces]);
    this.#found = found.length;
    // A list that arrived since the known tenants were put may lack some of them.
    this.#noteChange(new Set());
    await this.#queue.addAtOnce(found);
    await issuerAsked;
    this.#report();
    this.#timer = setInterval(() => void this.#noteTime(), NOTE_FOLLOWED_MS).unref();
    await this.#noteTime();
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
    if (this.#isStarted) await this.#noteTime();
    this.#end.abort();
    const { issuer, client, seen } = this.#options;
    await Promise.all([...[...this.#scopes.values()].map(scope => scope.close()), issuer?.close()]);
    await Promise.all([this.#queue.close(), this.#secretReader.close()]);
    await seen?.flush();
    this.#passedOver.close();
    await client.close();
  }

  get waitingFor(): string | undefined {
    if (!this.#isStarted) return 'the list of namespaces from the cluster';
    const { untried } = this.#queue;
    return untried === 0 ? undefined : `the Secrets of ${untried} of ${this.#found} namespaces`;
  }

  get problems(): readonly string[] {
    const { server } = this.#options.client;
    const problems = [...this.#scopes.values()].flatMap(scope => scope.problems);
    const unsigned = this.#options.issuer?.problem;
    if (unsigned !== undefined) {
      problems.push({ resource: 'the keys of service-account tokens', reason: unsigned });
    }
    if (this.#unasked !== undefined) problems.push({ resource: 'namespaces', reason: this.#unasked });
    return problems.map(({ resource, reason }) => `${resource} of ${server}: ${reason}`);
  }

  get recalledAtMs(): number | undefined {
    return this.#recalled.size === 0 ? undefined : this.#recalledAtMs;
  }

  get passedOver(): readonly PassedOver[] {
    return this.#passedOver.list;
  }

  /**
   * Whether the namespace has an account with this UID. A deleted one ends at once; a new one counts once the namespace
   * is settled.
   */
  hasAccount(namespace: string, uid: string): boolean {
    const accounts = this.#scopeOf(namespace)?.accounts(namespace) ?? [];
    const isThere = this.#recalled.has(namespace) || accounts.some(account => account.uid === uid);
    return isThere && this.#put.get(namespace)?.has(uid) === true;
  }

  /** Whether the namespace is a tenant whose accounts are followed. */
  isFollowed(namespace: string): boolean {
    return this.#put.has(namespace);
  }

  /** Calls `listener` when the accounts of a namespace have changed. Returns a function that stops this. */
  onAccounts(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #scopeOf(namespace: string): NamespaceScope | undefined {
    return this.#scopes.get(namespace) ?? this.#scopes.get('');
  }

  #noteChange(namespaces: ReadonlySet<string>): void {
    // At the start, all namespaces are settled anyway.
    if (!this.#isStarted) return;
    const gone = [...this.#put.keys()].filter(name => this.#scopeOf(name)?.find(name) === undefined);
    this.#queue.add([...namespaces, ...gone]);
  }

  async #settle(name: string): Promise<void> {
    const scope = this.#scopeOf(name);
    if (scope === undefined || !scope.isKnown) return;
    if (scope.find(name) === undefined) {
      scope.drop(name);
      this.#recalled.delete(name);
      this.#options.seen?.forget(name);
      if (this.#put.delete(name)) this.#sink?.remove(name);
      return;
    }
    await scope.read(name);
    // Read before the cluster is asked, so that the answer is at least as new.
    const content = await this.#contentOf(name);
    const namespace = await this.#readNamespace(name);
    // If it is gone, the watch will report it.
    if (namespace === undefined || this.#end.signal.aborted) return;
    this.#recalled.delete(name);
    this.#putTenant(name, namespace, content);
    if (isUnread(content)) return;
    const { secrets, accounts } = content;
    this.#options.seen?.keep(name, { ...namespace, secrets, accounts: [...accounts] });
  }

  #noteUnasked(reason: string | undefined): void {
    if (reason === this.#unasked) return;
    this.#unasked = reason;
    this.#report();
    const { log } = this.#options;
    if (reason === undefined) log.info({}, 'namespaces can be read again');
    else log.error({ reason }, 'namespaces cannot be read: the last known state stays in force');
  }

  async #readNamespace(name: string): Promise<Namespace | undefined> {
    try {
      const path = `/api/v1/namespaces/${encodeURIComponent(name)}`;
      return readNamespace(await this.#options.client.read(path, this.#end.signal));
    } catch (error) {
      if (error instanceof KubeRefusal && error.status === 404) return undefined;
      throw error;
    }
  }

  #putTenant(name: string, namespace: Partial<Namespace>, { secrets, accounts }: Content): void {
    const { uid, accountsMayPush = false } = namespace;
    const before = this.#put.get(name);
    this.#put.set(name, accounts);
    this.#sink?.put(name, {
      secrets,
      ...(uid !== undefined && { uid }),
      accountsMayPush: accountsMayPush || this.#options.accountsMayPush === true,
    });
    if (before === undefined || isOther(before, accounts)) for (const listener of this.#listeners) listener();
  }

  /**
   * While the namespaces cannot be listed: publishes the tenants of before, with their last known content, so that
   * their repositories remain theirs.
   */
  async #putKnown(kept: RecalledCluster | undefined): Promise<void> {
    const { listKnownTenants, log } = this.#options;
    const recalled = kept === undefined || this.#isOver(kept.followedAtMs) ? undefined : kept;
    this.#recalledAtMs = recalled?.followedAtMs;
    let unreadable: Content | undefined;
    let unread = 0;
    for (const { name, uid } of await listKnownTenants()) {
      const scope = this.#scopeOf(name);
      if (uid === undefined || scope === undefined || scope.isKnown || this.#put.has(name)) continue;
      // Read once: with an unreachable cluster each attempt may take seconds.
      const content =
        unreadable ??
        (await this.#contentOfKnown(scope, name).catch((error: unknown) => {
          unreadable = unreadContent(error instanceof Error ? error.message : String(error));
          return unreadable;
        }));
      const before = isUnread(content) ? recalled?.namespaces.get(name) : undefined;
      if (before !== undefined && before.uid === uid) {
        this.#recalled.set(name, uid);
        this.#putTenant(name, before, { secrets: before.secrets, accounts: new Set(before.accounts) });
        continue;
      }
      if (isUnread(content)) unread += 1;
      // Whose the accounts are cannot be checked now.
      const { secrets } = content;
      this.#putTenant(name, uid === ADOPT_NEXT_UID ? {} : { uid }, { secrets, accounts: new Set() });
    }
    if (recalled?.issuer !== undefined) this.#options.issuer?.recall(recalled.issuer);
    if (this.#recalled.size + unread > 0) {
      const followedAt = recalled && new Date(recalled.followedAtMs).toISOString();
      const tenants = this.#recalled.size;
      log.warn(
        { followedAt, tenants, withoutSecrets: unread },
        'the cluster cannot be reached: its last known state stays in force',
      );
    }
  }

  #isOver(followedAtMs: number): boolean {
    const { recallForMs = Number.POSITIVE_INFINITY } = this.#options;
    return this.#clock.nowMs() - followedAtMs > recallForMs;
  }

  /** Records that the cluster is followed; or ends the use of saved state that has become too old. */
  async #noteTime(): Promise<void> {
    if (this.#recalledAtMs !== undefined && this.#recalled.size > 0 && this.#isOver(this.#recalledAtMs)) {
      for (const [name, uid] of this.#recalled) {
        this.#putTenant(name, { uid }, unreadContent('the cluster cannot be reached'));
      }
      this.#recalled.clear();
      this.#options.log.warn({}, 'the cluster state from before this start is too old to be used');
    }
    const isFollowed = this.waitingFor === undefined && this.problems.length === 0;
    if (isFollowed && this.#recalled.size === 0) await this.#options.seen?.noteFollowed();
  }

  async #contentOfKnown(scope: NamespaceScope, name: string): Promise<Content> {
    await scope.read(name);
    return this.#contentOf(name);
  }

  async #contentOf(namespace: string): Promise<Content> {
    const scope = this.#scopeOf(namespace);
    const secrets = (await scope?.secrets(namespace)) ?? 'nobody follows it';
    const accounts = scope?.accounts(namespace) ?? [];
    const uids = new Set(accounts.map(({ uid }) => uid));
    if (typeof secrets === 'string') return { ...unreadContent(secrets), accounts: uids };
    return { secrets: orderPullSecrets(accounts, secrets), accounts: uids };
  }

  #report(): void {
    this.#options.meter.gauge('kubernetes_watches_down', this.problems.length);
  }
}

function isOther(before: ReadonlySet<string>, after: ReadonlySet<string>): boolean {
  return before.size !== after.size || [...after].some(uid => !before.has(uid));
}

function isUnread({ secrets }: Content): boolean {
  return secrets.some(({ result }) => result.state === 'unread');
}

function unreadContent(why: string): Content {
  const result = { state: 'unread', reason: `its Secrets cannot be read: ${why}` } as const;
  return { secrets: [{ name: 'of the namespace', source: 'kubernetes', result }], accounts: new Set() };
}
