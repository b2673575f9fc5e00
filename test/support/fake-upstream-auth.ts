// Rights in a fake upstream, with its challenges and tokens.
import { randomUUID } from 'node:crypto';

export interface FakeUser {
  readonly password: string;
  /** What this user may pull besides public repositories; `*` is everything. */
  readonly repositories: readonly string[] | '*';
}

export interface FakeAuthOptions {
  readonly scheme: 'bearer' | 'basic';
  readonly users?: Readonly<Record<string, FakeUser>>;
  /** What may be pulled without a credential (with an anonymous token, where tokens are used). Default none. */
  readonly public?: readonly string[] | '*';
  /** Where the challenge sends clients for a token. Default `/token` of the same server. */
  readonly realm?: string;
  readonly service?: string;
  /** Default 300. 0 leaves `expires_in` out. */
  readonly tokenLifetimeS?: number;
  /**
   * What the token service answers for a repository that the asker may not pull: `empty` is a token without rights, as
   * distribution's and Docker Hub's give; else the status of a refusal.
   */
  readonly tokenDenial?: 'empty' | 401 | 403;
  /** What the token service answers to a wrong password. Default 401; GitHub's says 403, as to who may not. */
  readonly tokenWrongPassword?: 401 | 403;
  /** What the registry answers to a known user without the right. Default 401, as registries with tokens do. */
  readonly denial?: 401 | 403 | 404;
  /** Sent instead of the challenge that would be right. */
  readonly challenge?: string | readonly string[];
}

interface FakeToken {
  readonly repositories: ReadonlySet<string>;
  readonly expiresAtMs: number;
}

/** What `FakeAuth` says of a request: go on, or this status with these challenges. */
export type Verdict =
  | { readonly status: 200 }
  | { readonly status: 401 | 403 | 404; readonly challenge?: readonly string[] };

export class FakeAuth {
  readonly #options: FakeAuthOptions;
  readonly #selfUrl: () => string;
  readonly #tokens = new Map<string, FakeToken>();

  constructor(options: FakeAuthOptions, selfUrl: () => string) {
    this.#options = options;
    this.#selfUrl = selfUrl;
  }

  /** May this request touch the repository (`undefined`: `/v2/`)? */
  judge(authorization: string | undefined, repository: string | undefined): Verdict {
    const known = this.#isKnown(authorization);
    if (known && (repository === undefined || this.#mayPull(authorization, repository)))
      return { status: 200 };
    if (this.#options.scheme === 'basic' && repository !== undefined && this.#isPublic(repository))
      return { status: 200 };
    const status = known ? (this.#options.denial ?? 401) : 401;
    return status === 401 ? { status, challenge: this.#challenge(repository, known) } : { status };
  }

  /** The token service: status and JSON body. */
  issue(authorization: string | undefined, scopes: readonly string[]): { status: number; body: object } {
    const user = this.#user(authorization);
    if (authorization !== undefined && user === undefined) {
      return refusal(this.#options.tokenWrongPassword ?? 401);
    }
    const asked = scopes.flatMap(scope => /^repository:(.+):(?:.*,)?pull(?:,.*)?$/.exec(scope)?.[1] ?? []);
    const granted = asked.filter(
      repository => this.#isPublic(repository) || covers(user?.repositories, repository),
    );
    const { tokenDenial = 'empty', tokenLifetimeS = 300 } = this.#options;
    if (granted.length < asked.length && tokenDenial !== 'empty') return refusal(tokenDenial);
    const token = `fake-${randomUUID()}`;
    const lifetimeS = tokenLifetimeS === 0 ? 60 : tokenLifetimeS;
    this.#tokens.set(token, { repositories: new Set(granted), expiresAtMs: Date.now() + lifetimeS * 1000 });
    return { status: 200, body: tokenLifetimeS === 0 ? { token } : { token, expires_in: tokenLifetimeS } };
  }

  /** Revokes every token issued so far. */
  revokeTokens(): void {
    this.#tokens.clear();
  }

  #isKnown(authorization: string | undefined): boolean {
    return this.#options.scheme === 'bearer'
      ? this.#token(authorization) !== undefined
      : this.#user(authorization) !== undefined;
  }

  #mayPull(authorization: string | undefined, repository: string): boolean {
    if (this.#options.scheme === 'bearer')
      return this.#token(authorization)?.repositories.has(repository) ?? false;
    return this.#isPublic(repository) || covers(this.#user(authorization)?.repositories, repository);
  }

  #isPublic(repository: string): boolean {
    return covers(this.#options.public, repository);
  }

  #token(authorization: string | undefined): FakeToken | undefined {
    const token = this.#tokens.get(/^Bearer (.+)$/i.exec(authorization ?? '')?.[1] ?? '');
    return token !== undefined && token.expiresAtMs > Date.now() ? token : undefined;
  }

  #user(authorization: string | undefined): FakeUser | undefined {
    const basic = parseBasic(authorization);
    const user = basic && this.#options.users?.[basic.username];
    return user && user.password === basic.password ? user : undefined;
  }

  #challenge(repository: string | undefined, insufficient: boolean): readonly string[] {
    const { challenge, realm, service = 'fake-upstream', scheme } = this.#options;
    if (challenge !== undefined) return [challenge].flat();
    if (scheme === 'basic') return ['Basic realm="fake upstream"'];
    const scope = repository === undefined ? '' : `,scope="repository:${repository}:pull"`;
    const error = insufficient ? ',error="insufficient_scope"' : '';
    return [`Bearer realm="${realm ?? `${this.#selfUrl()}/token`}",service="${service}"${scope}${error}`];
  }
}

/** The user name and password of a Basic header. */
export function parseBasic(
  authorization: string | undefined,
): { username: string; password: string } | undefined {
  const encoded = /^Basic (.+)$/i.exec(authorization ?? '')?.[1];
  if (encoded === undefined) return undefined;
  const text = Buffer.from(encoded, 'base64').toString();
  const colon = text.indexOf(':');
  return colon === -1 ? undefined : { username: text.slice(0, colon), password: text.slice(colon + 1) };
}

function covers(repositories: readonly string[] | '*' | undefined, repository: string): boolean {
  return repositories === '*' || (repositories?.includes(repository) ?? false);
}

function refusal(status: number): { status: number; body: object } {
  return { status, body: { errors: [{ code: 'UNAUTHORIZED', message: 'authentication required' }] } };
}
