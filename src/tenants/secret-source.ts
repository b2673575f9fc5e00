import type { PullSecret } from './secret.ts';
import type { SecretOrigin } from './tenant.ts';

/** One Secret as a source sees it now. */
export interface SecretReading {
  /** As people know it: the Secret's name, or the path where it has none. */
  readonly name: string;
  readonly source: SecretOrigin;
  /**
   * `missing`: there is none, and so nothing of it counts. `malformed`: there is one that cannot be understood. `unread`:
   * whether there is one cannot be told now.
   */
  readonly result:
    | { readonly state: 'loaded'; readonly secret: PullSecret }
    | { readonly state: 'malformed' | 'missing' | 'unread'; readonly reason: string };
  /**
   * Nothing that is known names it for pulls. Malformed, it counts as if it were not there: who does name it is refused
   * by the kubelet before anything is asked of us, and all others never wanted it.
   */
  readonly isUnnamed?: boolean;
}

/** What a source says of one tenant. */
export interface TenantReading {
  /** All its Secrets of this source, in the order in which they count. */
  readonly secrets: readonly SecretReading[];
  /** The namespace's UID: another one under a known name is another tenant, and must be adopted first. */
  readonly uid?: string;
  /** The tokens of its ServiceAccounts may push. */
  readonly accountsMayPush?: boolean;
}

/** Where a source puts what it reads. Each call replaces what the source said of this tenant before. */
export interface SecretSink {
  put(tenant: string, reading: TenantReading): void;
  /** The source knows this tenant no more. */
  remove(tenant: string): void;
}

/** An object of a source whose content is not read, since it or what lies beside it is too large. */
export interface PassedOver {
  /** What kind of object it is: `secrets`. */
  readonly resource: string;
  /** Empty for what lies in none. */
  readonly namespace: string;
  readonly name: string;
  readonly reason: string;
}

/** Where Secrets come from: files, folders, the Kubernetes API. */
export interface SecretSource {
  /**
   * Resolves when everything that can be read now was put; later changes are put as they are seen. Rejects only when
   * the source can never work. What cannot be reached now is tried again by the source itself.
   */
  start(sink: SecretSink): Promise<void>;
  /** What its start waits for, in words for people; `undefined` when it has ended. */
  readonly waitingFor?: string | undefined;
  /** When it saw what it put, as long as that is of before its start. Epoch ms. */
  readonly recalledAtMs?: number | undefined;
  /** What it cannot follow now, in words for people; what was put last counts meanwhile. */
  readonly problems?: readonly string[];
  /** What it does not read, a bounded number of them. */
  readonly passedOver?: readonly PassedOver[];
  close(): Promise<void>;
}
