import { randomBytes } from 'node:crypto';
import type { MetadataStore } from '../metadata/metadata-store.ts';

/** A new key so often: a stolen one is worth something for two such periods, and each is a row of the store. */
const PERIOD_MS = 24 * 3_600_000;

/** HMAC-SHA256 gains nothing from a longer key (RFC 2104), and AES-256 has none. */
export const KEY_BYTES = 32;

const SETTING = 'token-key-';

/** The keys that sign our tokens: one a day, shared by all processes on the store, and the one before it still counts. */
export class TokenKeys {
  readonly #settings: Pick<MetadataStore, 'readSetting' | 'initSetting'>;
  readonly #nowMs: () => number;
  readonly #keys = new Map<string, Uint8Array>();

  constructor(settings: Pick<MetadataStore, 'readSetting' | 'initSetting'>, nowMs: () => number = Date.now) {
    this.#settings = settings;
    this.#nowMs = nowMs;
  }

  /** The one to sign with now. */
  async current(): Promise<{ readonly id: string; readonly key: Uint8Array }> {
    const id = this.#accepted()[0];
    const known = this.#keys.get(id);
    if (known !== undefined) return { id, key: known };
    const text = await this.#settings.initSetting(SETTING + id, randomBytes(KEY_BYTES).toString('hex'));
    return { id, key: this.#keep(id, text) };
  }

  /** The key of a token, or `undefined` for one that never was or no longer counts. */
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
