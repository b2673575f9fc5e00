import type { Log } from '../../lib/log.ts';
import type { SecretReading } from '../secret-source.ts';
import type { KubeClient } from './kube-client.ts';
import { type Namespace, readAccount, readNamespace, readSecret } from './kube-objects.ts';
import type { Account } from './pull-secret-order.ts';
import { Reflector } from './reflector.ts';

export interface ScopeOptions {
  readonly client: KubeClient;
  /** One namespace by its name, or those of the cluster that carry a label. */
  readonly namespaces: { readonly name: string } | { readonly labelSelector: string };
  /** Secrets or accounts are other than before in these; the first time that a kind of them was read whole. */
  readonly onContent: (namespaces: ReadonlySet<string>, isFirst: boolean) => void;
  /** These came, went or changed. */
  readonly onNamespaces: (namespaces: ReadonlySet<string>) => void;
  readonly onState: () => void;
  readonly log: Log;
}

/** The two types that are for pulls; Secrets of others are never asked for. */
const SECRET_TYPES = ['kubernetes.io/dockerconfigjson', 'kubernetes.io/dockercfg'] as const;

/**
 * What is followed of one namespace, or of a whole cluster: there RBAC knows no labels, and one watch a kind is what the
 * server bears for any number of namespaces; what lies in others is passed over.
 */
export class NamespaceScope {
  readonly #secrets: readonly Reflector<SecretReading | undefined>[];
  readonly #accounts: Reflector<Account>;
  readonly #namespaces: Reflector<Namespace | undefined>;

  constructor({ namespaces, onContent, onNamespaces, ...common }: ScopeOptions) {
    const isOne = 'name' in namespaces;
    const base = isOne ? `/api/v1/namespaces/${encodeURIComponent(namespaces.name)}` : '/api/v1';
    this.#secrets = SECRET_TYPES.map(
      type =>
        new Reflector({
          ...common,
          resource: 'secrets',
          collection: { path: `${base}/secrets`, fieldSelector: `type=${type}` },
          keep: readSecret,
          onChange: onContent,
        }),
    );
    this.#accounts = new Reflector({
      ...common,
      resource: 'serviceaccounts',
      collection: { path: `${base}/serviceaccounts` },
      keep: readAccount,
      onChange: onContent,
    });
    this.#namespaces = new Reflector({
      ...common,
      resource: 'namespaces',
      collection: {
        path: '/api/v1/namespaces',
        ...(isOne ? { fieldSelector: `metadata.name=${namespaces.name}` } : namespaces),
      },
      keep: ({ fields }) => readNamespace(fields),
      onChange: onNamespaces,
    });
  }

  /** Resolves when the Secrets and accounts were listed, or could not be. */
  async startContent(): Promise<void> {
    await Promise.all([...this.#secrets, this.#accounts].map(reflector => reflector.start()));
  }

  /** Resolves when the namespaces were listed, or could not be. */
  async startNamespaces(): Promise<void> {
    await this.#namespaces.start();
  }

  async close(): Promise<void> {
    await Promise.all(
      [...this.#secrets, this.#accounts, this.#namespaces].map(reflector => reflector.close()),
    );
  }

  /** Which namespaces there are is known. */
  get isKnown(): boolean {
    return this.#namespaces.hasListed;
  }

  /** What is not followed now, and why. */
  get problems(): readonly { readonly resource: string; readonly reason: string }[] {
    const followed = [
      ...this.#secrets.map(reflector => ({ resource: 'secrets', reflector })),
      { resource: 'serviceaccounts', reflector: this.#accounts },
      { resource: 'namespaces', reflector: this.#namespaces },
    ];
    return followed.flatMap(({ resource, reflector: { problem } }) =>
      problem === undefined ? [] : [{ resource, reason: problem }],
    );
  }

  /** All namespaces that are tenants, by name. */
  get namespaces(): readonly (readonly [name: string, namespace: Namespace])[] {
    return [...this.#namespaces.namespaces].flatMap(name => {
      const namespace = this.find(name);
      return namespace === undefined ? [] : [[name, namespace] as const];
    });
  }

  find(namespace: string): Namespace | undefined {
    return this.#namespaces.in(namespace).get(namespace)?.value;
  }

  accounts(namespace: string): readonly Account[] {
    return [...this.#accounts.in(namespace).values()].map(({ value }) => value);
  }

  /** By name; a text that says why they cannot be told. */
  secrets(namespace: string): ReadonlyMap<string, SecretReading> | string {
    const unread = this.#secrets.find(({ hasListed }) => !hasListed);
    if (unread !== undefined) return unread.problem ?? 'they were not read yet';
    return new Map(
      this.#secrets.flatMap(reflector =>
        [...reflector.in(namespace)].flatMap(([name, { value }]) =>
          value === undefined ? [] : [[name, value] as const],
        ),
      ),
    );
  }
}
