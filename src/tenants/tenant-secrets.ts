import { nameCredential } from '../oci/credential.ts';
import { Keyring, type KeyringEntry } from './keyring.ts';
import type { PullSecret } from './secret.ts';
import type { SecretOrigin, SecretReading } from './secret-source.ts';
import type { SecretState } from './tenant.ts';

/** More Secrets than a namespace needs for pulls: each is part of every lookup of its tenant. */
export const MAX_SECRETS_PER_TENANT = 1_000;

/** Each is hashed and indexed: some 10 ms if all of them change at once. */
export const MAX_ENTRIES_PER_TENANT = 5_000;

/** A credential that can identify a client, and where it is found. */
export interface SecretEntry {
  readonly credentialId: string;
  readonly secret: string;
  readonly key: string;
}

/** A Secret with its content that counts: that of the last reading, or the last good one. */
export interface SecretSlot {
  readonly name: string;
  readonly source: SecretOrigin;
  readonly path: string | undefined;
  readonly state: SecretState['state'];
  /** For operators, with the path. */
  readonly reason: string | undefined;
  /** The same without the path. */
  readonly told: string | undefined;
  readonly secret: PullSecret | undefined;
  readonly loadedAtMs: number | undefined;
  /** Its credentials that can identify a client. */
  readonly entries: readonly SecretEntry[];
  /** Whether it never was good, although something names it for pulls. */
  readonly isBroken: boolean;
}

/**
 * The Secrets of one tenant, from all sources, in order. A Secret that becomes malformed counts with its last good
 * content. One that never was good makes the tenant's lookups fail, unless nothing names it.
 */
export class TenantSecrets {
  readonly #credentialKey: string;
  /** By the source's position. */
  readonly #bySource: (readonly SecretSlot[])[] = [];
  /** Created when first needed: few of thousands of tenants are active at a time. */
  #keyring: Keyring<SecretSlot> | undefined;
  #slots: readonly SecretSlot[] = [];
  #broken: SecretSlot | undefined;

  constructor(credentialKey: string) {
    this.#credentialKey = credentialKey;
  }

  get slots(): readonly SecretSlot[] {
    return this.#slots;
  }

  get entries(): readonly SecretEntry[] {
    return this.#slots.flatMap(({ entries }) => entries);
  }

  /** The first Secret that is broken. */
  get broken(): SecretSlot | undefined {
    return this.#broken;
  }

  /** Takes the state of a source, `[]` when it is gone. Returns the slots that differ from before. */
  put(source: number, readings: readonly SecretReading[], nowMs: number): readonly SecretSlot[] {
    const before = this.#bySource[source] ?? [];
    const known = groupByName(before);
    let entries = 0;
    const after = withinLimit(readings).map(reading => {
      entries += reading.result.state === 'loaded' ? reading.result.secret.config.size : 0;
      const counting = entries > MAX_ENTRIES_PER_TENANT ? withoutRoom(reading) : reading;
      return this.#slotOf(counting, known.get(slotName(reading))?.shift(), nowMs);
    });
    this.#bySource[source] = after;
    const isSame = after.length === before.length && after.every((slot, index) => slot === before[index]);
    if (isSame) return [];
    this.#slots = this.#bySource.flat();
    this.#broken = this.#slots.find(({ isBroken }) => isBroken);
    this.#keyring = undefined;
    const same = new Set(before);
    return after.filter(slot => !same.has(slot));
  }

  lookup(image: string): readonly KeyringEntry<SecretSlot>[] {
    this.#keyring ??= new Keyring([
      this.#slots.flatMap(slot =>
        slot.secret === undefined ? [] : [{ source: slot, config: slot.secret.config }],
      ),
    ]);
    return this.#keyring.lookup(image);
  }

  #slotOf(reading: SecretReading, known: SecretSlot | undefined, nowMs: number): SecretSlot {
    const { name, source, path, result, isUnnamed = false } = reading;
    if (result.state === 'loaded') {
      const { secret } = result;
      if (known?.secret === secret && known.state === 'loaded') return known;
      const entries = known?.secret === secret ? known.entries : this.#entriesOf(name, secret);
      const loaded = { state: 'loaded', reason: undefined, told: undefined, isBroken: false } as const;
      return { name, source, path, secret, entries, loadedAtMs: nowMs, ...loaded };
    }
    const { state, reason: told } = result;
    const reason = path === undefined ? told : `${told} (${path})`;
    const mayBeThere = state !== 'missing';
    const kept = mayBeThere ? known : undefined;
    const isBroken = mayBeThere && kept?.secret === undefined && !isUnnamed;
    if (known?.state === state && known.reason === reason && known.isBroken === isBroken) return known;
    return {
      name,
      source,
      path,
      state,
      reason,
      told,
      secret: kept?.secret,
      loadedAtMs: kept?.loadedAtMs,
      entries: kept?.entries ?? [],
      isBroken,
    };
  }

  /** An empty user name or password identifies nobody. */
  #entriesOf(secret: string, { config }: PullSecret): readonly SecretEntry[] {
    return new Keyring([[{ source: undefined, config }]])
      .entries()
      .filter(({ username, password }) => username !== '' && password !== '')
      .map(({ username, password, key }) => ({
        credentialId: nameCredential(this.#credentialKey, username, password).id,
        secret,
        key,
      }));
  }
}

/** Readings beyond the limit are replaced by one that reports them. */
function withinLimit(readings: readonly SecretReading[]): readonly SecretReading[] {
  const [beyond] = readings.slice(MAX_SECRETS_PER_TENANT);
  if (beyond === undefined) return readings;
  const reason = `there are ${readings.length} Secrets, and at most ${MAX_SECRETS_PER_TENANT} are used`;
  const others: SecretReading = {
    name: '(others)',
    source: beyond.source,
    result: { state: 'malformed', reason },
    isUnnamed: true,
  };
  return [...readings.slice(0, MAX_SECRETS_PER_TENANT), others];
}

/** For a Secret that does not fit: its earlier content ends, too, since it could grow with each change otherwise. */
function withoutRoom(reading: SecretReading): SecretReading {
  const reason = `the tenant's Secrets name more than ${MAX_ENTRIES_PER_TENANT} registries in total`;
  return { ...reading, result: { state: 'missing', reason } };
}

/** One file may have several Secrets with one name: these keep their order. */
function groupByName(slots: readonly SecretSlot[]): ReadonlyMap<string, SecretSlot[]> {
  const groups = new Map<string, SecretSlot[]>();
  for (const slot of slots) {
    const group = groups.get(slotName(slot));
    if (group === undefined) groups.set(slotName(slot), [slot]);
    else group.push(slot);
  }
  return groups;
}

function slotName({ source, path, name }: SecretReading | SecretSlot): string {
  return [source, path, name].join('\n');
}
