import type { Log } from '../lib/log.ts';
import type { CredentialUsage } from '../oci/credential.ts';
import type { TenantStore } from './tenant-store.ts';

type Times = { -readonly [Time in Exclude<keyof CredentialUsage, 'credentialId'>]?: number };

/** The first use is written soon; after that one write a minute is enough for people to read. */
const FIRST_WRITE_MS = 2_000;
const WRITE_EVERY_MS = 60_000;
/** In one transaction: a request that wants to write meanwhile waits about 3 ms. */
const ROWS_PER_WRITE = 20;
/** Uses older than this are deleted: a credential that was removed from its Secret is never used again. */
const KEPT_MS = 366 * 24 * 3600_000;

/**
 * When upstream last accepted or refused a credential, or a client logged in with one issued here. Written to the index
 * in the background.
 */
export class CredentialUses {
  readonly #store: TenantStore;
  readonly #log: Log;
  readonly #nowMs: () => number;
  readonly #times = new Map<string, Times>();
  readonly #noted = new Set<string>();
  readonly #forgotten = new Set<string>();
  #timer: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();
  #nextWriteAtMs = 0;
  #isClosing = false;

  constructor(store: TenantStore, log: Log, nowMs: () => number) {
    this.#store = store;
    this.#log = log;
    this.#nowMs = nowMs;
  }

  /** Reads what was recorded before. */
  async start(): Promise<void> {
    for (const { credentialId, ...times } of await this.#store.listCredentialUsage()) {
      if (Math.max(times.usedAtMs ?? 0, times.refusedAtMs ?? 0) > this.#nowMs() - KEPT_MS) {
        this.#times.set(credentialId, times);
      } else {
        this.#forgotten.add(credentialId);
      }
    }
  }

  note(credentialId: string, outcome: 'used' | 'refused'): void {
    const times = this.#times.get(credentialId) ?? {};
    times[outcome === 'used' ? 'usedAtMs' : 'refusedAtMs'] = this.#nowMs();
    this.#times.set(credentialId, times);
    this.#noted.add(credentialId);
    this.#forgotten.delete(credentialId);
    this.#schedule();
  }

  forget(credentialId: string): void {
    if (!this.#times.delete(credentialId)) return;
    this.#noted.delete(credentialId);
    this.#forgotten.add(credentialId);
    this.#schedule();
  }

  of(credentialId: string): Readonly<Times> | undefined {
    return this.#times.get(credentialId);
  }

  /** The latest use and refusal of several credentials, for a `SecretState`. */
  lastOf(credentialIds: Iterable<string>): {
    readonly lastUsedAtMs?: number;
    readonly lastRefusedAtMs?: number;
  } {
    const found = [...credentialIds].flatMap(id => this.#times.get(id) ?? []);
    const used = found.flatMap(({ usedAtMs }) => usedAtMs ?? []);
    const refused = found.flatMap(({ refusedAtMs }) => refusedAtMs ?? []);
    return {
      ...(used.length > 0 && { lastUsedAtMs: Math.max(...used) }),
      ...(refused.length > 0 && { lastRefusedAtMs: Math.max(...refused) }),
    };
  }

  /** Writes what is not written yet. */
  async close(): Promise<void> {
    this.#isClosing = true;
    clearTimeout(this.#timer);
    await this.#writing;
    await this.#write();
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#isClosing) return;
    const delayMs = Math.max(FIRST_WRITE_MS, this.#nextWriteAtMs - performance.now());
    this.#timer = setTimeout(() => {
      this.#nextWriteAtMs = performance.now() + WRITE_EVERY_MS;
      this.#writing = this.#write().finally(() => {
        this.#timer = undefined;
        if (this.#noted.size + this.#forgotten.size > 0) this.#schedule();
      });
    }, delayMs).unref();
  }

  /** A failure is only logged, since this is information for people, and is tried again later. */
  async #write(): Promise<void> {
    try {
      await inSteps(this.#noted, ids =>
        this.#store.putCredentialUsage(
          ids.map(credentialId => ({ credentialId, ...this.#times.get(credentialId) })),
        ),
      );
      await inSteps(this.#forgotten, ids => this.#store.removeCredentialUsage(ids));
    } catch (error) {
      this.#log.warn({ err: error }, 'the last uses of credentials could not be written');
    }
  }
}

/** Takes `ids` out of the set, a few at a time; those for which `write` fails are put back. */
async function inSteps(set: Set<string>, write: (ids: readonly string[]) => Promise<void>): Promise<void> {
  const all = [...set];
  while (all.length > 0) {
    const ids = all.splice(-ROWS_PER_WRITE);
    for (const id of ids) set.delete(id);
    try {
      await write(ids);
    } catch (error) {
      for (const id of ids) set.add(id);
      throw error;
    }
  }
}
