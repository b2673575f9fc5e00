import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import type { Log } from '../lib/log.ts';

export interface TlsPaths {
  readonly certFile: string;
  readonly keyFile: string;
}

/** PEM texts. */
export interface TlsMaterial {
  readonly cert: string;
  readonly key: string;
}

/**
 * How often the files are read, which have some kilobytes. Reading notices every kind of change, such as replaced links
 * of a mounted Secret, which watching a file does not.
 */
const LOOK_EVERY_MS = 2_000;

/** How many days before its end the certificate is reported; most are renewed after two thirds of their life. */
const WARN_DAYS = 7;
const DAY_MS = 86_400_000;

/** A certificate and its key in files that are renewed. A pair that does not match is never used. */
export class TlsFiles {
  readonly #paths: TlsPaths;
  readonly #log: Log;
  readonly #lookEveryMs: number;
  #current: TlsMaterial;
  #complaint: string | undefined;
  #timer: NodeJS.Timeout | undefined;

  private constructor(paths: TlsPaths, current: TlsMaterial, log: Log, lookEveryMs: number) {
    this.#paths = paths;
    this.#current = current;
    this.#log = log;
    this.#lookEveryMs = lookEveryMs;
  }

  /** Rejects if there is no usable pair: files that are missing, not PEM, or do not match. */
  static async open(paths: TlsPaths, log: Log, lookEveryMs: number = LOOK_EVERY_MS): Promise<TlsFiles> {
    const material = await readTls(paths);
    warnOfEnd(material, paths, log);
    return new TlsFiles(paths, material, log, lookEveryMs);
  }

  get material(): TlsMaterial {
    return this.#current;
  }

  /** Calls `renew` with each new pair. */
  follow(renew: (material: TlsMaterial) => void): void {
    const next = (): void => {
      this.#timer = setTimeout(() => void this.look(renew).finally(again), this.#lookEveryMs).unref();
    };
    const again = (): void => {
      if (this.#timer !== undefined) next();
    };
    next();
  }

  close(): void {
    clearTimeout(this.#timer);
    // Tells a check in progress not to schedule another.
    this.#timer = undefined;
  }

  /**
   * Reads the files now, and calls `renew` if the pair is new. A mismatch because only one file is new is temporary;
   * one that persists is logged once.
   */
  async look(renew: (material: TlsMaterial) => void): Promise<void> {
    try {
      const material = await readTls(this.#paths);
      if (material.cert === this.#current.cert && material.key === this.#current.key) return;
      renew(material);
      this.#current = material;
      this.#complaint = undefined;
      this.#log.info({ certFile: this.#paths.certFile }, 'the certificate was reloaded');
      warnOfEnd(material, this.#paths, this.#log);
    } catch (error) {
      const complaint = error instanceof Error ? error.message : String(error);
      if (complaint !== this.#complaint) {
        this.#log.error({ err: error }, 'the certificate cannot be reloaded: the last good one stays in use');
      }
      this.#complaint = complaint;
    }
  }
}

/** Reads a certificate and its key. Rejects if files are missing, not PEM, or do not match. */
export async function readTls(paths: TlsPaths): Promise<TlsMaterial> {
  const { certFile, keyFile } = paths;
  const [cert, key] = await Promise.all([readFile(certFile, 'utf8'), readFile(keyFile, 'utf8')]);
  check({ cert, key }, paths);
  return { cert, key };
}

function check({ cert, key }: TlsMaterial, { certFile, keyFile }: TlsPaths): void {
  let fits: boolean;
  try {
    fits = new X509Certificate(cert).checkPrivateKey(createPrivateKey(key));
    if (fits) createSecureContext({ cert, key });
  } catch (cause) {
    throw new Error(`${certFile} and ${keyFile} are not a certificate and its key in PEM`, { cause });
  }
  if (!fits) throw new Error(`the key in ${keyFile} does not match the certificate in ${certFile}`);
}

function warnOfEnd({ cert }: TlsMaterial, { certFile }: TlsPaths, log: Log): void {
  const { validTo } = new X509Certificate(cert);
  if (Date.parse(validTo) - Date.now() < WARN_DAYS * DAY_MS) {
    log.warn({ certFile, validTo }, 'the certificate expires soon or has expired');
  }
}
