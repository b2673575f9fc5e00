/**
 * tenants/kubernetes/: namespaces of a cluster as tenants. `kubernetes-source.ts` puts what `namespace-scope.ts` sees,
 * which keeps copies of the cluster's objects by `reflector.ts`, over `kube-client.ts`, by the access that
 * `cluster-access.ts` or `kubeconfig.ts` give.
 *
 * The one idea: what a tenant is bound to is its namespace's UID, and the streams in which its content and the namespaces
 * arrive know nothing of each other. So no Secret and no account of a namespace counts before the cluster was asked whose
 * it is: else who re-creates a namespace would be its former tenant for as long as the news of that is under way.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { backoffMs, jittered } from '../../lib/backoff.ts';
import type { Log } from '../../lib/log.ts';
import type { Meter } from '../../lib/meter.ts';
import type { KnownTenant } from '../../oci/issued-credential.ts';
import type { SecretReading, SecretSink, SecretSource } from '../secret-source.ts';
import { ADOPT_NEXT_UID } from '../tenant-store.ts';
import type { IssuerWatch } from './issuer-watch.ts';
import { type KubeClient, KubeRefusal } from './kube-client.ts';
import { NamespaceScope, type ScopeOptions } from './namespace-scope.ts';
import { type Namespace, readNamespace } from './kube-objects.ts';
import { orderPullSecrets } from './pull-secret-order.ts';

export interface KubernetesSourceOptions {
  readonly client: KubeClient;
  /** The namespaces that are tenants: these, or those with a label. */
  readonly namespaces: { readonly names: readonly string[] } | { readonly labelSelector: string };
  /** The tokens of all ServiceAccounts may push; otherwise those of namespaces that are annotated so. */
  readonly accountsMayPush?: boolean;
  /** Who signs the tokens of ServiceAccounts; `undefined` where nobody logs in with such. */
  readonly issuer?: Pick<IssuerWatch, 'start' | 'close' | 'problem'> | undefined;
  /** The tenants that were bound to namespaces before: who they are while the cluster cannot be asked. */
  readonly listKnownTenants: () => Promise<readonly KnownTenant[]>;
  readonly log: Log;
  readonly meter: Meter;
}

/** Changes come in bursts: `kubectl apply` of a folder is one. */
const SETTLE_MS = 50;

/** Namespaces asked for at a time. */
const ASKED_AT_ONCE = 8;

const RETRY = { firstMs: 250, maxMs: 5_000 } as const;

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
  readonly #end = new AbortController();
  /** The tenants that were put, each with the UIDs of its accounts as they were then. */
  readonly #put = new Map<string, ReadonlySet<string>>();
  readonly #listeners = new Set<() => void>();
  #sink: SecretSink | undefined;
  #isStarted = false;
  /** Namespaces in which something changed that does not count yet. */
  #changed = new Set<string>();
  #settling: Promise<void> | undefined;
  #failures = 0;
  /** Why namespaces cannot be asked for now. */
  #unasked: string | undefined;

  constructor(options: KubernetesSourceOptions) {
    const { client, namespaces, log } = options;
    this.#options = options;
    const scope = (followed: ScopeOptions['namespaces']) =>
      new NamespaceScope({
        client,
        namespaces: followed,
        onContent: (changed, isFirst) => this.#noteContent(changed, isFirst),
        onNamespaces: changed => this.#noteNamespaces(changed),
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
    // In this order, so that the namespaces are at least as new as what lies in them.
    await Promise.all(scopes.map(scope => scope.startContent()));
    this.#changed.clear();
    await Promise.all(scopes.map(scope => scope.startNamespaces()));
    this.#isStarted = true;
    for (const [name, namespace] of scopes.flatMap(scope => scope.namespaces)) {
      if (!this.#changed.has(name)) this.#putTenant(name, namespace, this.#contentOf(name));
    }
    if (scopes.some(scope => !scope.isKnown)) await this.#putKnown();
    await issuerAsked;
    this.#report();
    this.#settleSoon();
  }

  async close(): Promise<void> {
    this.#end.abort();
    const { issuer } = this.#options;
    await Promise.all([...[...this.#scopes.values()].map(scope => scope.close()), issuer?.close()]);
    await this.#settling;
    await this.#options.client.close();
  }

  get problems(): readonly string[] {
    const { server } = this.#options.client;
    const problems = [...this.#scopes.values()].flatMap(scope => scope.problems);
    const unsigned = this.#options.issuer?.problem;
    if (unsigned !== undefined)
      problems.push({ resource: 'the keys of service-account tokens', reason: unsigned });
    if (this.#unasked !== undefined) problems.push({ resource: 'namespaces', reason: this.#unasked });
    return problems.map(({ resource, reason }) => `${resource} of ${server}: ${reason}`);
  }

  /** Whether the namespace has an account of that UID: one that is gone ends at once, a new one counts once it is settled. */
  hasAccount(namespace: string, uid: string): boolean {
    const accounts = this.#scopeOf(namespace)?.accounts(namespace) ?? [];
    return this.#put.get(namespace)?.has(uid) === true && accounts.some(account => account.uid === uid);
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

  #noteContent(namespaces: ReadonlySet<string>, isFirst: boolean): void {
    for (const name of namespaces) this.#changed.add(name);
    // Of those in which there is nothing, this is now known.
    if (isFirst) for (const name of this.#put.keys()) this.#changed.add(name);
    this.#settleSoon();
  }

  #noteNamespaces(namespaces: ReadonlySet<string>): void {
    // At the start, all are put that there are.
    if (!this.#isStarted) return;
    const gone = [...this.#put.keys()].filter(name => this.#scopeOf(name)?.find(name) === undefined);
    for (const name of [...namespaces, ...gone]) this.#changed.add(name);
    this.#settleSoon();
  }

  #settleSoon(): void {
    if (!this.#isStarted || this.#settling !== undefined || this.#end.signal.aborted) return;
    this.#settling = this.#settle().finally(() => {
      this.#settling = undefined;
      // Noted after the last look.
      if (this.#changed.size > 0) this.#settleSoon();
    });
  }

  /** Until nothing is left that does not count yet. */
  async #settle(): Promise<void> {
    const { signal } = this.#end;
    while (this.#changed.size > 0 && !signal.aborted) {
      const waitMs = SETTLE_MS + jittered(backoffMs(RETRY, this.#failures));
      await sleep(waitMs, undefined, { signal }).catch(() => {});
      const failed = await this.#settleOnce();
      if (signal.aborted) return;
      for (const name of failed.keys()) this.#changed.add(name);
      this.#failures = failed.size === 0 ? 0 : this.#failures + 1;
      this.#noteUnasked([...failed.values()][0]);
    }
  }

  /** The namespaces that could not be asked for, each with the reason. */
  async #settleOnce(): Promise<ReadonlyMap<string, string>> {
    const names = [...this.#changed];
    this.#changed = new Set();
    const failed = new Map<string, string>();
    const fail = (name: string, error: unknown) =>
      failed.set(name, error instanceof Error ? error.message : String(error));
    for (let at = 0; at < names.length && !this.#end.signal.aborted; at += ASKED_AT_ONCE) {
      const some = names.slice(at, at + ASKED_AT_ONCE);
      await Promise.all(some.map(name => this.#settleOne(name).catch(error => fail(name, error))));
    }
    return failed;
  }

  async #settleOne(name: string): Promise<void> {
    const scope = this.#scopeOf(name);
    if (scope === undefined || !scope.isKnown) return;
    if (scope.find(name) === undefined) {
      if (this.#put.delete(name)) this.#sink?.remove(name);
      return;
    }
    // Before the question, so that the answer is at least as new.
    const content = this.#contentOf(name);
    const namespace = await this.#readNamespace(name);
    // One that is gone, the watch will tell of.
    if (namespace !== undefined) this.#putTenant(name, namespace, content);
  }

  #noteUnasked(reason: string | undefined): void {
    if (reason === this.#unasked) return;
    this.#unasked = reason;
    this.#report();
    const { log } = this.#options;
    if (reason === undefined) log.info({}, 'namespaces can be asked for again');
    else log.error({ reason }, 'namespaces cannot be asked for: what was seen last counts');
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

  /** While it cannot be told which namespaces there are: those of before, so that what is theirs here stays theirs. */
  async #putKnown(): Promise<void> {
    for (const { name, uid } of await this.#options.listKnownTenants()) {
      const scope = this.#scopeOf(name);
      if (uid === undefined || scope === undefined || scope.isKnown || this.#put.has(name)) continue;
      const { secrets } = this.#contentOf(name);
      // Whose the accounts are, nobody can tell now.
      this.#putTenant(name, uid === ADOPT_NEXT_UID ? {} : { uid }, { secrets, accounts: new Set() });
    }
  }

  #contentOf(namespace: string): Content {
    const scope = this.#scopeOf(namespace);
    const accounts = scope?.accounts(namespace) ?? [];
    const secrets = scope?.secrets(namespace) ?? 'nobody follows it';
    const uids = new Set(accounts.map(({ uid }) => uid));
    if (typeof secrets !== 'string') return { secrets: orderPullSecrets(accounts, secrets), accounts: uids };
    const reason = `its Secrets cannot be read: ${secrets}`;
    const unread: SecretReading = {
      name: 'of the namespace',
      source: 'kubernetes',
      result: { state: 'malformed', reason },
    };
    return { secrets: [unread], accounts: uids };
  }

  #report(): void {
    this.#options.meter.gauge('kubernetes_watches_down', this.problems.length);
  }
}

function isOther(before: ReadonlySet<string>, after: ReadonlySet<string>): boolean {
  return before.size !== after.size || [...after].some(uid => !before.has(uid));
}
