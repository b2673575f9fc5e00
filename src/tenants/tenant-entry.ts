import type { Log } from '../lib/log.ts';
import { HeldCredentials } from './held-credentials.ts';
import type { CredentialUses } from './credential-usage.ts';
import type { SecretChanges } from './secret-changes.ts';
import type { TenantReading } from './secret-source.ts';
import {
  type HeldCredential,
  type SecretState,
  type Tenant,
  TenantBroken,
  type TenantOptions,
} from './tenant.ts';
import { type SecretEntry, type SecretSlot, TenantSecrets } from './tenant-secrets.ts';

export interface TenantEntryParts {
  readonly name: string;
  /** Read each time, since a reload changes them. */
  readonly optionsOf: (name: string) => TenantOptions;
  readonly credentialKey: string;
  readonly lookupShared: (image: string) => Promise<readonly HeldCredential[]>;
  readonly wasIssued: (credentialId: string) => boolean;
  readonly uses: CredentialUses;
  readonly changes: SecretChanges;
  readonly log: Log;
}

/** One tenant, as combined from its sources. */
export class TenantEntry implements Tenant {
  readonly name: string;
  readonly #parts: TenantEntryParts;
  readonly #secrets: TenantSecrets;
  readonly #held: HeldCredentials<SecretSlot>;
  readonly #sources = new Set<number>();
  #uid: string | undefined;
  #suspended: string | undefined;
  /** Sources that say that its ServiceAccount tokens may push. */
  readonly #pushing = new Set<number>();

  constructor(parts: TenantEntryParts) {
    this.name = parts.name;
    this.#parts = parts;
    this.#secrets = new TenantSecrets(parts.credentialKey);
    this.#held = new HeldCredentials(parts.credentialKey, slot => slot);
  }

  get options(): TenantOptions {
    return this.#parts.optionsOf(this.name);
  }

  get suspended(): string | undefined {
    return this.#suspended;
  }

  get accountsMayPush(): boolean {
    return this.#pushing.size > 0;
  }

  /** The UID of its current namespace. */
  get uid(): string | undefined {
    return this.#uid;
  }

  get hasSources(): boolean {
    return this.#sources.size > 0;
  }

  get slots(): readonly SecretSlot[] {
    return this.#secrets.slots;
  }

  get entries(): readonly SecretEntry[] {
    return this.#secrets.entries;
  }

  get secrets(): readonly SecretState[] {
    return this.#secrets.slots.map(slot => this.#stateOf(slot));
  }

  async lookup(image: string): Promise<readonly HeldCredential[]> {
    const { broken } = this.#secrets;
    if (this.#suspended !== undefined) throw new TenantBroken(`${this.name}: ${this.#suspended}`);
    if (broken !== undefined) {
      if (broken.state === 'unread') {
        throw new TenantBroken(
          `${this.name}: ${broken.reason}`,
          `${this.name}: its pull secrets cannot be read`,
        );
      }
      const what = `${this.name}: the Secret ${broken.name} is malformed`;
      throw new TenantBroken(`${what}: ${broken.reason}`, `${what}: ${broken.told}`);
    }
    const { lookupShared, wasIssued } = this.#parts;
    const own = this.#secrets
      .lookup(image)
      .map(entry => this.#held.of(entry))
      .filter(({ credential }) => credential === undefined || !wasIssued(credential.id));
    return [...own, ...(await lookupShared(image))];
  }

  /** Takes the state of a source; returns whether anything has changed. */
  put(source: number, { secrets: readings, accountsMayPush }: TenantReading, nowMs: number): boolean {
    const isFirst = !this.#sources.has(source);
    this.#sources.add(source);
    if (accountsMayPush === true) this.#pushing.add(source);
    else this.#pushing.delete(source);
    const before = this.#secrets.slots.length;
    const others = this.#secrets.put(source, readings, nowMs);
    this.#parts.changes.note(this.name, others, isFirst);
    return others.length > 0 || this.#secrets.slots.length !== before;
  }

  /** The source no longer knows this tenant. */
  remove(source: number): void {
    this.#sources.delete(source);
    this.#pushing.delete(source);
    this.#secrets.put(source, [], 0);
  }

  /**
   * Takes the UID of its namespace, which may not be the one that the tenant is bound to (`isOther`); returns whether
   * anything has changed.
   */
  bind(uid: string, isOther: boolean): boolean {
    const wasSuspended = this.#suspended !== undefined;
    this.#uid = uid;
    this.#suspended = isOther
      ? `its namespace was created again: run entrepot tenant adopt ${this.name}`
      : undefined;
    if (isOther && !wasSuspended) this.#parts.log.warn({ uid }, `a tenant is suspended: ${this.#suspended}`);
    return wasSuspended !== isOther;
  }

  #stateOf({ name, source, state, reason, loadedAtMs, entries }: SecretSlot): SecretState {
    return {
      name,
      source,
      state,
      ...(reason !== undefined && { reason }),
      ...(loadedAtMs !== undefined && { loadedAtMs }),
      ...this.#parts.uses.lastOf(entries.map(({ credentialId }) => credentialId)),
    };
  }
}
