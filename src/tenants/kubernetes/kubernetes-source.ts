/**
 * tenants/kubernetes/: namespaces of a cluster as tenants. `kubernetes-source.ts` puts what `namespace-scope.ts` sees,
 * which keeps copies of the cluster's objects by `reflector.ts` and `content-reflector.ts`, over `kube-client.ts`, by the
 * access that `cluster-access.ts` or `kubeconfig.ts` give.
 *
 * The one idea: what a tenant is bound to is its namespace's UID, and the streams in which its content and the namespaces
 * arrive know nothing of each other. So no Secret and no account of a namespace counts before the cluster was asked whose
 * it is: else who re-creates a namespace would be its former tenant for as long as the news of that is under way.
 */
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
  /** The namespaces that are tenants: these, or those with a label. */
  readonly namespaces: { readonly names: readonly string[] } | { readonly labelSelector: string };
  /** The tokens of all ServiceAccounts may push; otherwise those of namespaces that are annotated so. */
  readonly accountsMayPush?: boolean;
  /** Who signs the tokens of ServiceAccounts; `undefined` where nobody logs in with such. */
  readonly issuer?: Pick<IssuerWatch, 'start' | 'close' | 'problem' | 'recall'> | undefined;
  /** Where what is seen is kept for a start without the cluster. */
  readonly seen?: SeenCluster | undefined;
  /** How long after the cluster was followed last what was kept counts, ms. */
  readonly recallForMs?: number;
  readonly nowMs?: () => number;
  /** The tenants that were bound to namespaces before: who they are while the cluster cannot be asked. */
  readonly listKnownTenants: () => Promise<readonly KnownTenant[]>;
  readonly log: Log;
  readonly meter: Meter;
}

/** How exactly it is known when the cluster was followed last. */
const NOTE_FOLLOWED_MS = 60_000;

/** What lies in a namespace, as it was seen at one moment. */
interface Content {
  readonly secrets: readonly SecretReading[];
  /** UIDs. */
  readonly accounts: ReadonlySet<string>;
}

/** Follows the Secrets, ServiceAccounts and namespaces of a cluster. */
export class KubernetesSource implements SecretSource {
  readonly #options: KubernetesSourceOptions;
  /** By the namespace that each follows; the one of a whole cluster under the empty name. */
  readonly #scopes: ReadonlyMap<string, NamespaceScope>;
  readonly #queue: SettleQueue;
  readonly #secretReader = new SecretReader();
  readonly #passedOver: PassedOverObjects;
  readonly #end = new AbortController();
  /** The tenants that were put, each with the UIDs of its accounts as they were then. */
  readonly #put = new Map<string, ReadonlySet<string>>();
  readonly #listeners = new Set<() => void>();
  /** Namespaces that are as they were kept before this start, with their UIDs. */
  readonly #recalled = new Map<string, string>();
  #recalledAtMs: number | undefined;
  #timer: NodeJS.Timeout | undefined;
  #sink: SecretSink | undefined;
  #isStarted = false;
  #found = 0;
  /** Why namespaces cannot be asked for now. */
  #unasked: string | undefined;

  constructor(options: KubernetesSourceOptions) {
    const { client, namespaces, log, meter } = options;
    this.#options = options;
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

  /** Whether the namespace has an account of that UID: one that is gone ends at once, a new one counts once it is settled. */
  hasAccount(namespace: string, uid: string): boolean {
    const accounts = this.#scopeOf(namespace)?.accounts(namespace) ?? [];
    const isThere = this.#recalled.has(namespace) || accounts.some(account => account.uid === uid);
    return isThere && this.#put.get(namespace)?.has(uid) === true;
  }

  /** Whether the namespace is a tenant whose accounts are followed. */
  isFollowed(namespace: string): boolean {
    return this.#put.has(namespace);
  }

  /** `listener` is told when a namespace has other accounts than before. Returns the way to stop listening. */
  onAccounts(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #scopeOf(namespace: string): NamespaceScope | undefined {
    return this.#scopes.get(namespace) ?? this.#scopes.get('');
  }

  #noteChange(namespaces: ReadonlySet<string>): void {
    // At the start, all are settled that there are.
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
    // Before the question, so that the answer is at least as new.
    const content = await this.#contentOf(name);
    const namespace = await this.#readNamespace(name);
    // One that is gone, the watch will tell of.
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
   * While it cannot be told which namespaces there are: those of before, so that what is theirs here stays theirs, as
   * they were seen last.
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
      // Asked once: each question of a cluster that is away may take seconds.
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
      // Whose the accounts are, nobody can tell now.
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
    const { recallForMs = Number.POSITIVE_INFINITY, nowMs = Date.now } = this.#options;
    return nowMs() - followedAtMs > recallForMs;
  }

  /** Notes that the cluster is followed, or ends what was recalled and has become too old. */
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
