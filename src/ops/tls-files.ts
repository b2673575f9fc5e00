import { createPrivateKey, X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import { errorCode } from '../lib/error-code.ts';
import { fileTrouble } from '../lib/file-trouble.ts';
import type { Log } from '../lib/log.ts';
import { requireTextFile, textFileTrouble } from '../lib/text-file.ts';

export interface TlsPaths {
  readonly certFile: string;
  readonly keyFile: string;
  /** Of the CAs that the other side is verified with, if it is. */
  readonly caFile?: string;
}

/** What is wrong with one of the files, or with both together. */
export interface TlsProblem {
  readonly key?: keyof TlsPaths;
  readonly file?: string;
  readonly what: string;
}

/** A certificate and its key that cannot be used. */
export class UnusableTls extends Error {
  override readonly name = 'UnusableTls';
  readonly problems: readonly TlsProblem[];

  constructor(problems: readonly TlsProblem[]) {
    super(problems.map(({ file, what }) => (file === undefined ? what : `${file} ${what}`)).join('; '));
    this.problems = problems;
  }
}

/** PEM texts. */
export interface TlsMaterial {
  readonly cert: string;
  readonly key: string;
  readonly ca?: string;
}

/**
 * How often the files are read, which have some kilobytes. Reading notices every kind of change, such as replaced links
 * of a mounted Secret, which watching a file does not.
 */
const LOOK_EVERY_MS = 2_000;

/** A bundle of all public CAs is a few hundred KiB. */
const MAX_FILE_BYTES = 1 << 20;

/** How many days before its end the certificate is reported; most are renewed after two thirds of their life. */
const WARN_DAYS = 7;
const DAY_MS = 86_400_000;

/** A certificate and its key in files that are renewed. A pair that does not match is never used. */
export class TlsFiles {
  readonly #paths: TlsPaths;
  readonly #log: Log;
  readonly #lookEveryMs: number;
  #current: TlsMaterial;
  /** What was logged last about the validity of the current certificate. */
  #told: CertificateTime = 'valid';
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
    const files = new TlsFiles(paths, await readTls(paths), log, lookEveryMs);
    files.#warnOfTime();
    return files;
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
      if (!isSame(material, this.#current)) {
        renew(material);
        this.#current = material;
        this.#told = 'valid';
        this.#complaint = undefined;
        this.#log.info({ certFile: this.#paths.certFile }, 'the certificate was reloaded');
      }
    } catch (error) {
      const complaint = error instanceof Error ? error.message : String(error);
      if (complaint !== this.#complaint) {
        this.#log.error({ err: error }, 'the certificate cannot be reloaded: the last good one stays in use');
      }
      this.#complaint = complaint;
    } finally {
      this.#warnOfTime();
    }
  }

  /** Logs each once: that it expires soon, that it has expired, that it is not valid yet. */
  #warnOfTime(): void {
    const time = certificateTime(this.#current);
    if (time !== this.#told && time !== 'valid') {
      const { validFrom, validTo } = certificateOf(this.#current.cert);
      this.#log.warn(
        { certFile: this.#paths.certFile, validFrom, validTo },
        `the certificate ${TIME_TEXTS[time]}`,
      );
    }
    this.#told = time;
  }
}

/** Whether a certificate is valid now, and will be for a while. */
type CertificateTime = 'valid' | 'early' | 'ending' | 'expired';

const TIME_TEXTS: Readonly<Record<Exclude<CertificateTime, 'valid'>, string>> = {
  early: 'is not valid yet: clients refuse it',
  ending: 'expires soon',
  expired: 'has expired: clients refuse it',
};

function certificateTime({ cert }: TlsMaterial): CertificateTime {
  const { validFrom, validTo } = certificateOf(cert);
  const leftMs = Date.parse(validTo) - Date.now();
  if (leftMs < 0) return 'expired';
  if (Date.parse(validFrom) > Date.now()) return 'early';
  return leftMs < WARN_DAYS * DAY_MS ? 'ending' : 'valid';
}

/** What is wrong with the validity of a certificate, such as `expires soon (Feb  1 00:00:00 2026 GMT)`; `undefined` if nothing is. */
export function certificateTrouble(material: TlsMaterial): string | undefined {
  const time = certificateTime(material);
  if (time === 'valid') return undefined;
  const { validFrom, validTo } = certificateOf(material.cert);
  return `${TIME_TEXTS[time]} (${time === 'early' ? validFrom : validTo})`;
}

/** Reads a certificate and its key, and CAs if there are some. Rejects with UnusableTls if files are missing, not PEM, or do not match. */
export async function readTls(paths: TlsPaths): Promise<TlsMaterial> {
  const [cert, key, ca] = await Promise.all([
    readPem(paths, 'certFile', 'a certificate', certificateOf),
    readPem(paths, 'keyFile', 'a private key', createPrivateKey),
    paths.caFile === undefined ? undefined : readPem(paths, 'caFile', 'a certificate', certificateOf),
  ]);
  if ('what' in cert || 'what' in key || (ca !== undefined && 'what' in ca)) {
    throw new UnusableTls([cert, key, ca ?? []].flat().flatMap(read => ('what' in read ? [read] : [])));
  }
  const { certFile, keyFile } = paths;
  if (!cert.parsed.checkPrivateKey(key.parsed)) {
    const what = `the key in ${keyFile} does not match the certificate in ${certFile}`;
    throw new UnusableTls([{ what }]);
  }
  const material = { cert: cert.text, key: key.text, ...(ca && { ca: ca.text }) };
  try {
    createSecureContext(material);
  } catch (error) {
    const what = `${certFile} and ${keyFile} cannot be used: ${fileTrouble(error)}`;
    throw new UnusableTls([{ what }]);
  }
  return material;
}

function certificateOf(text: string): X509Certificate {
  return new X509Certificate(text);
}

function isSame(one: TlsMaterial, other: TlsMaterial): boolean {
  return one.cert === other.cert && one.key === other.key && one.ca === other.ca;
}

async function readPem<T>(
  paths: TlsPaths,
  key: keyof TlsPaths,
  kind: string,
  parse: (text: string) => T,
): Promise<TlsProblem | { readonly text: string; readonly parsed: T }> {
  const file = paths[key] ?? '';
  let text: string;
  try {
    text = await requireTextFile(file, MAX_FILE_BYTES);
  } catch (error) {
    return { key, file, what: textFileTrouble(error) };
  }
  try {
    return { text, parsed: parse(text) };
  } catch (error) {
    const isLocked = errorCode(error) === 'ERR_MISSING_PASSPHRASE';
    return {
      key,
      file,
      what: isLocked
        ? 'is encrypted with a passphrase: an unencrypted key is required'
        : `is not ${kind} in PEM`,
    };
  }
}
