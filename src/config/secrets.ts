import { X509Certificate } from 'node:crypto';
import { readTextFile, textFileTrouble } from '../lib/text-file.ts';
import type { AdminLogin, EndpointConfig, LoginConfig, MirrorConfig, UpstreamConfig } from './config.ts';
import type { Environment } from './environment.ts';
import { parseHeaderLines } from './header-lines.ts';
import type { Problem } from './problems.ts';
import type { ParsedEndpoint, ParsedFile, ParsedUpstream } from './schema.ts';

/** Passwords, keys and certificate bundles are far smaller. */
export const MAX_SETTING_FILE_BYTES = 1 << 20;

/** As in Standard Webhooks. */
const ENCODED_KEY =
  /^whsec_(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}(?:==)?|[A-Za-z0-9+/]{3}=?|[A-Za-z0-9+/]{4})$/;

/**
 * Reads the files and variables that upstreams, endpoints and logins name: passwords, certificate authorities, headers. Calls `report` for
 * whatever cannot be read, and leaves that out.
 */
export class SettingReader {
  readonly #env: Environment;
  readonly #report: (problem: Problem) => void;

  constructor(env: Environment, report: (problem: Problem) => void) {
    this.#env = env;
    this.#report = report;
  }

  /** The upstream with everything that it names. */
  async upstream(name: string, parsed: ParsedUpstream): Promise<UpstreamConfig> {
    const path = ['upstreams', name];
    const { url, mirrors, credentials, caFile, ...rest } = parsed;
    return {
      ...rest,
      name,
      url: url ?? `https://${name}`,
      mirrors: await Promise.all(
        mirrors.map((mirror, index) => this.#mirror(mirror, [...path, 'mirrors', index])),
      ),
      credentials: await this.#login(credentials, [...path, 'credentials']),
      caFile,
      ca: caFile === undefined ? undefined : await this.#authorities(caFile, [...path, 'caFile']),
    };
  }

  /** The endpoint of notifications with this index, with everything that it names. */
  async endpoint(parsed: ParsedEndpoint, index: number): Promise<EndpointConfig> {
    const path = ['notifications', 'endpoints', index];
    const { headersFile, signingKeyFile, caFile } = parsed;
    return {
      ...parsed,
      headers: headersFile === undefined ? {} : await this.#headers(headersFile, [...path, 'headersFile']),
      signingKey:
        signingKeyFile === undefined
          ? undefined
          : await this.#signingKey(signingKeyFile, [...path, 'signingKeyFile']),
      ca: caFile === undefined ? undefined : await this.#authorities(caFile, [...path, 'caFile']),
    };
  }

  /** What is not base64 would be decoded to less, or to nothing: anybody could make the signatures. */
  async #signingKey(file: string, path: readonly PropertyKey[]): Promise<string | undefined> {
    const key = (await this.#file(file, path))?.trim();
    if (key === undefined || !key.startsWith('whsec_') || ENCODED_KEY.test(key)) return key;
    this.#report({ path, value: file, message: 'begins with whsec_, and what follows is not base64' });
    return undefined;
  }

  async #headers(file: string, path: readonly PropertyKey[]): Promise<Record<string, string>> {
    const parsed = parseHeaderLines((await this.#file(file, path)) ?? '');
    if (!('problem' in parsed)) return parsed.headers;
    this.#report({ path, value: file, message: parsed.problem });
    return {};
  }

  /** `undefined` if its password cannot be read. */
  async admin(
    { name, rights, ...source }: ParsedFile['server']['admins'][number],
    path: readonly PropertyKey[],
  ): Promise<AdminLogin | undefined> {
    const password = await this.#password(source, path);
    return password === undefined ? undefined : { name, rights, password };
  }

  async #mirror(
    parsed: ParsedUpstream['mirrors'][number],
    path: readonly PropertyKey[],
  ): Promise<MirrorConfig> {
    return { url: parsed.url, credentials: await this.#login(parsed.credentials, [...path, 'credentials']) };
  }

  async #login(
    parsed: ParsedUpstream['credentials'],
    path: readonly PropertyKey[],
  ): Promise<LoginConfig | undefined> {
    if (parsed === undefined) {
      return undefined;
    }
    const password = await this.#password(parsed, path);
    return password === undefined ? undefined : { ...parsed, password };
  }

  async #password(
    { passwordFile, passwordEnv }: Pick<LoginConfig, 'passwordFile' | 'passwordEnv'>,
    path: readonly PropertyKey[],
  ): Promise<string | undefined> {
    const password =
      passwordFile === undefined
        ? this.#variable(passwordEnv ?? '', [...path, 'passwordEnv'])
        : await this.#file(passwordFile, [...path, 'passwordFile']);
    // Editors end a file with a line break; no password does.
    return password?.replace(/\r?\n$/, '');
  }

  async #authorities(file: string, path: readonly PropertyKey[]): Promise<string | undefined> {
    const text = await this.#file(file, path);
    if (text === undefined || isCertificate(text)) return text;
    this.#report({ path, value: file, message: NO_CERTIFICATE });
    return undefined;
  }

  #variable(name: string, path: readonly PropertyKey[]): string | undefined {
    const value = this.#env[name];
    if (value === undefined || value === '') {
      this.#report({
        path,
        value: name,
        message: 'expected an environment variable that is set and not empty',
      });
      return undefined;
    }
    return value;
  }

  async #file(file: string, path: readonly PropertyKey[]): Promise<string | undefined> {
    try {
      const text = await readTextFile(file, MAX_SETTING_FILE_BYTES);
      if (text !== undefined && text.trim() !== '') return text;
      this.#report({ path, value: file, message: text === undefined ? 'does not exist' : 'is empty' });
    } catch (error) {
      this.#report({ path, value: file, message: textFileTrouble(error) });
    }
    return undefined;
  }
}

/** What is wrong with a file of CAs in which `isCertificate` finds none. */
export const NO_CERTIFICATE = 'expected a file that holds certificates (PEM)';

/** Checks the first certificate: TLS ignores what it cannot parse, and would then trust nobody. */
export function isCertificate(text: string): boolean {
  try {
    return new X509Certificate(text).subject !== undefined;
  } catch {
    return false;
  }
}
