import type { PullSecret } from './secret.ts';

/** The kind of source of a Secret or credential. */
export type SecretOrigin = 'file' | 'folder' | 'kubernetes' | 'node' | 'issued' | 'plugin';

/** A Secret as its source currently sees it. */
export interface SecretReading {
  /** The name that people know: the Secret's, or the path if it has none. */
  readonly name: string;
  readonly source: SecretOrigin;
  /** The file that it is in, if it is in one: several may have a Secret of this name. Only operators learn it. */
  readonly path?: string;
  /**
   * `missing`: it does not exist. `malformed`: it exists and cannot be parsed. `unread`: it is not known whether it
   * exists.
   */
  readonly result:
    | { readonly state: 'loaded'; readonly secret: PullSecret }
    | { readonly state: 'malformed' | 'missing' | 'unread'; readonly reason: string };
  /**
   * Set if nothing that is known names it for pulls. If it is malformed, it is ignored: pods that do name it are
   * refused by the kubelet anyway, and others do not need it.
   */
  readonly isUnnamed?: boolean;
}

/** What a source knows about one tenant. */
export interface TenantReading {
  /** All its Secrets of this source, in order of precedence. */
  readonly secrets: readonly SecretReading[];
  /** The UID of the namespace. Another UID under a known name is another tenant, which must be adopted first. */
  readonly uid?: string;
  /** Whether the tokens of its ServiceAccounts may push. */
  readonly accountsMayPush?: boolean;
}

/** Receives what a source reads. Each call replaces what the source reported about this tenant before. */
export interface SecretSink {
  put(tenant: string, reading: TenantReading): void;
  /** The source no longer knows this tenant. */
  remove(tenant: string): void;
}

/** An object whose content is not read, because it or its namespace is too large. */
export interface PassedOver {
  /** The kind of object, such as `secrets`. */
  readonly resource: string;
  /** '' for an object without a namespace. */
  readonly namespace: string;
  readonly name: string;
  readonly reason: string;
}

/** A source of Secrets: files, folders, the Kubernetes API. */
export interface SecretSource {
  /**
   * Resolves when everything that can be read now was put; later changes are put as they are seen. Rejects only if the
   * source can never work. What cannot be reached now is retried by the source itself.
   */
  start(sink: SecretSink): Promise<void>;
  /** What its start waits for, for people; `undefined` when it has finished. */
  readonly waitingFor?: string | undefined;
  /** When it last saw what it put, while that is from before its start. Epoch ms. */
  readonly recalledAtMs?: number | undefined;
  /** What it cannot follow now, for people; the last known state counts meanwhile. */
  readonly problems?: readonly string[];
  /** What it does not read; a limited number. */
  readonly passedOver?: readonly PassedOver[];
  close(): Promise<void>;
}
