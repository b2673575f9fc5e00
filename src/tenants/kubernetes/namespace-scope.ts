import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock } from '../../lib/clock.ts';
import type { Log } from '../../lib/log.ts';
import type { SecretReading } from '../secret-source.ts';
import { ContentReflector } from './content-reflector.ts';
import type { KubeClient } from './kube-client.ts';
import {
  keepNamespace,
  MAX_ACCOUNT_OBJECT_BYTES,
  MAX_NAMESPACE_OBJECT_BYTES,
  MAX_SECRET_OBJECT_BYTES,
  type Namespace,
  readAccount,
} from './kube-objects.ts';
import type { PassedOverObjects } from './passed-over.ts';
import type { Account } from './pull-secret-order.ts';
import { Reflector } from './reflector.ts';
import { HeldSecret, type SecretReader } from './secret-reader.ts';

export interface ScopeOptions {
  readonly client: KubeClient;
  /** One namespace by its name, or those of the cluster with a label. */
  readonly namespaces: { readonly name: string } | { readonly labelSelector: string };
  readonly secretReader: SecretReader;
  /** Told of objects that are too large to be kept. */
  readonly passedOver: PassedOverObjects;
  /** Called with namespaces that were added, removed or changed, whose content changed, or which have to be read. */
  readonly onChange: (namespaces: ReadonlySet<string>) => void;
  /** Called when following begins or fails, for any kind of object. */
  readonly onState: () => void;
  readonly clock: Clock;
  readonly log: Log;
}

/** With thousands of Secrets, other work gets a turn this often. */
const TURN_MS = 5;

/** The two types of pull secrets; Secrets of other types are never requested. */
const SECRET_TYPES = ['kubernetes.io/dockerconfigjson', 'kubernetes.io/dockercfg'] as const;

/**
 * Follows one namespace, or the labelled namespaces of a cluster. For a cluster each kind is watched as a whole: RBAC
 * does not know labels, and the API server can serve one watch for any number of namespaces. Objects in other
 * namespaces are ignored.
 */
export class NamespaceScope {
  readonly #secrets: readonly ContentReflector<HeldSecret>[];
  readonly #accounts: ContentReflector<Account>;
  readonly #namespaces: Reflector<Namespace>;

  constructor({ namespaces, secretReader, ...common }: ScopeOptions) {
    const isOne = 'name' in namespaces;
    const base = isOne ? `/api/v1/namespaces/${encodeURIComponent(namespaces.name)}` : '/api/v1';
    this.#secrets = SECRET_TYPES.map(
      type =>
        new ContentReflector({
          ...common,
          resource: 'secrets',
          collection: {
            path: `${base}/secrets`,
            fieldSelector: `type=${type}`,
            maxObjectBytes: MAX_SECRET_OBJECT_BYTES,
          },
          keep: object => new HeldSecret(object, secretReader),
        }),
    );
    this.#accounts = new ContentReflector({
      ...common,
      resource: 'serviceaccounts',
      collection: { path: `${base}/serviceaccounts`, maxObjectBytes: MAX_ACCOUNT_OBJECT_BYTES },
      keep: readAccount,
    });
    this.#namespaces = new Reflector({
      ...common,
      resource: 'namespaces',
      collection: {
        path: '/api/v1/namespaces',
        maxObjectBytes: MAX_NAMESPACE_OBJECT_BYTES,
        ...(isOne ? { fieldSelector: `metadata.name=${namespaces.name}` } : namespaces),
      },
      keep: keepNamespace,
    });
  }

  /** Resolves when everything is followed, or could not be. */
  async start(): Promise<void> {
    await Promise.all([...this.#content, this.#namespaces].map(reflector => reflector.start()));
  }

  async close(): Promise<void> {
    await Promise.all([...this.#content, this.#namespaces].map(reflector => reflector.close()));
  }

  /** Whether the list of namespaces is known. */
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

  /** The names of all namespaces that are tenants. */
  get namespaces(): Iterable<string> {
    return this.#namespaces.names;
  }

  find(namespace: string): Namespace | undefined {
    return this.#namespaces.find(namespace);
  }

  /** From now on keeps the content of the namespace, and reads it unless it is known. Rejects if it cannot be read. */
  async read(namespace: string): Promise<void> {
    for (const reflector of this.#content) reflector.want(namespace);
    await Promise.all(this.#content.map(reflector => reflector.read(namespace)));
  }

  /** Forgets the content of the namespace. */
  drop(namespace: string): void {
    for (const reflector of this.#content) reflector.drop(namespace);
  }

  accounts(namespace: string): readonly Account[] {
    const accounts = this.#accounts.in(namespace);
    return typeof accounts === 'string' ? [] : [...accounts.values()];
  }

  /** The Secrets by name, or the reason for which they are not known. */
  async secrets(namespace: string): Promise<ReadonlyMap<string, SecretReading> | string> {
    const readings = new Map<string, SecretReading>();
    let sinceMs = performance.now();
    for (const reflector of this.#secrets) {
      const held = reflector.in(namespace);
      if (typeof held === 'string') return held;
      for (const [name, secret] of held) {
        const reading = await secret.reading();
        if (reading !== undefined) readings.set(name, reading);
        if (performance.now() - sinceMs < TURN_MS) continue;
        await nextTurn();
        sinceMs = performance.now();
      }
    }
    return readings;
  }

  get #content(): readonly ContentReflector<HeldSecret | Account>[] {
    return [...this.#secrets, this.#accounts];
  }
}
