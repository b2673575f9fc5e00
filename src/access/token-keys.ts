import { randomBytes } from 'node:crypto';
import type { MetadataStore } from '../metadata/metadata-store.ts';

/** A stolen key can be used for at most two such periods. Each key is a row in the store. */
const PERIOD_MS = 24 * 3_600_000;

/** HMAC-SHA256 gains nothing from a longer key (RFC 2104), and AES-256 takes exactly this length. */
export const KEY_BYTES = 32;

const SETTING = 'token-key-';

/**
 * The keys that sign our tokens, shared by all processes on the store. A new one is made every day, and the previous
 * one remains valid.
 */
export class TokenKeys {
  readonly #settings: Pick<MetadataStore, 'readSetting' | 'initSetting'>;
  readonly #nowMs: () => number;
  readonly #keys = new Map<string, Uint8Array>();

  constructor(settings: Pick<MetadataStore, 'readSetting' | 'initSetting'>, nowMs: () => number = Date.now) {
    this.#settings = settings;
    this.#nowMs = nowMs;
  }

  /** The key to sign with now. */
  async current(): Promise<{ readonly id: string; readonly key: Uint8Array }> {
    const id = this.#accepted()[0];
    const known = this.#keys.get(id);
    if (known !== undefined) return { id, key: known };
    const text = await this.#settings.initSetting(SETTING + id, randomBytes(KEY_BYTES).toString('hex'));
    return { id, key: this.#keep(id, text) };
  }

  /** The key with this id; `undefined` if there is none, or if it is no longer valid. */
  async find(id: string): Promise<Uint8Array | undefined> {
    if (!this.accepts(id)) return undefined;
    const known = this.#keys.get(id);
    if (known !== undefined) return known;
    const text = await this.#settings.readSetting(SETTING + id);
    return text === undefined ? undefined : this.#keep(id, text);
  }

  accepts(id: string): boolean {
    return this.#accepted().includes(id);
  }

  #accepted(): [current: string, previous: string] {
    const period = Math.floor(this.#nowMs() / PERIOD_MS);
    return [String(period), String(period - 1)];
  }

  #keep(id: string, text: string): Uint8Array {
    const key = Buffer.from(text, 'hex');
    for (const old of this.#keys.keys()) {
      if (!this.accepts(old)) this.#keys.delete(old);
    }
    this.#keys.set(id, key);
    return key;
  }
}
