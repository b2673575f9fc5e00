import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { FailedLogins } from '../access/failed-logins.ts';
import { networkOf } from '../oci/requester.ts';
import type { AdminLogin } from '../config/config.ts';
import type { ClientAddress, ClientAddresses } from '../http/client-address.ts';
import type { OpsOrigin } from '../http/ops-server.ts';
import { OwnSite } from '../http/own-site.ts';
import { AdminProblem } from './admin-problem.ts';
import type { AdminRights, SessionDocument } from './documents/session.ts';

/** Who uses the administration API. */
export interface Administrator {
  /** For the audit log. */
  readonly name: string;
  readonly by: SessionDocument['by'];
  readonly rights: AdminRights;
  /** The address that the request came from; `socket` for a command. */
  readonly remote: string;
}

export interface AdminAccessOptions {
  readonly logins: readonly AdminLogin[];
  /** What clients on this machine may do without a login. */
  readonly onLoopback: AdminRights | 'none';
  /**
   * Whom a Kubernetes token identifies, and what he may do: `undefined` if nothing. `source` is as in `Attempt`. Rejects if
   * the cluster cannot say. Absent without a cluster.
   */
  readonly kubernetes:
    | ((token: string, source: string) => Promise<Pick<Administrator, 'name' | 'rights'> | undefined>)
    | undefined;
  readonly addresses: Pick<ClientAddresses, 'of'>;
  /** The names of this server, besides loopback and IP addresses. */
  readonly names: readonly string[];
  /** Whether passwords may be sent without TLS even from other machines. */
  readonly allowsPlainCredentials: boolean;
  /** Called for each login that is wrong, with the address that it came from. */
  readonly onWrongLogin: (remote: string) => void;
}

/** The header with the token of `session`. */
const TOKEN_HEADER = 'x-entrepot-token';

const REALM = 'Entrepot administration';

/** Kubernetes' tokens have up to some KiB. The headers of the operations port are limited to 8 KiB together. */
const CREDENTIALS = /^(basic|bearer) +([\w.~+/=-]{1,6000})$/i;

/**
 * Decides who may use the administration API. On this machine everybody may, unless the configuration says otherwise;
 * from elsewhere only those who log in. Pages of other web sites may not, whatever browser they run in: neither from their
 * own origin nor by a name of theirs that resolves to this server; and changes need a token that only our page can read.
 */
export class AdminAccess {
  readonly #options: AdminAccessOptions;
  /** For clients without a login, which may only use names that nobody else can have. */
  readonly #closedSite: OwnSite;
  readonly #site: OwnSite;
  readonly #failed = new FailedLogins();
  /** Tokens end with the process, and pages then ask for another. */
  readonly #key = randomBytes(32);

  constructor(options: AdminAccessOptions) {
    this.#options = options;
    const { names } = options;
    this.#closedSite = new OwnSite({ names, isClosed: true });
    this.#site = new OwnSite({ names, isClosed: false });
  }

  /** Who sends the request. Throws AdminProblem if he may not even read. */
  async admit(req: IncomingMessage, origin: OpsOrigin): Promise<Administrator> {
    if (origin === 'socket') return { name: 'operator', by: 'socket', rights: 'full', remote: 'socket' };
    const address = this.#options.addresses.of(req);
    const { authorization } = req.headers;
    const isAnonymous = authorization === undefined;
    const site = isAnonymous && address.loopback ? this.#closedSite : this.#site;
    if (site.problem(req, address.proxied) !== undefined) throw foreign();
    if (!isAnonymous) return this.#login(authorization, address);
    const { onLoopback } = this.#options;
    if (!address.loopback || onLoopback === 'none') throw this.#challenge(address);
    return { name: 'loopback', by: 'loopback', rights: onLoopback, remote: address.remote };
  }

  /** Throws AdminProblem unless `who` may change something, and it is he who wants to. */
  requireChange(req: IncomingMessage, who: Administrator): void {
    if (who.rights !== 'full') {
      throw new AdminProblem('forbidden', `${who.name} may see everything, but not change anything`);
    }
    if (who.by === 'socket') return;
    const given = req.headers[TOKEN_HEADER];
    if (typeof given === 'string' && isEqual(given, this.token(who))) return;
    throw new AdminProblem(
      'foreign',
      'changes need the token from GET /admin/v1/session in the header X-Entrepot-Token; after a restart, get a new one',
    );
  }

  /** The token without which nothing can be changed in the name of `who`. */
  token({ by, name }: Administrator): string {
    return createHmac('sha256', this.#key).update(`${by} ${name}`).digest('base64url');
  }

  async #login(authorization: string, address: ClientAddress): Promise<Administrator> {
    this.#requireEncryption(address);
    const [, scheme = '', credentials = ''] = CREDENTIALS.exec(authorization) ?? [];
    const isBasic = scheme.toLowerCase() === 'basic';
    const decoded = isBasic ? Buffer.from(credentials, 'base64').toString() : '';
    const username = isBasic ? decoded.slice(0, Math.max(0, decoded.indexOf(':'))) : undefined;
    const credentialId = createHmac('sha256', this.#key).update(authorization).digest('hex');
    const attempt = { source: networkOf(address.remote), username, credentialId };
    const wasRight = this.#failed.wasRight(attempt.source, credentialId);
    if (!wasRight && !this.#failed.mayTry(attempt)) {
      const retryAfter = this.#failed.retryAfterS(attempt.source);
      throw new AdminProblem('busy', 'too many wrong logins from this address', {
        'Retry-After': retryAfter,
      });
    }
    const found = isBasic
      ? this.#find(decoded)
      : scheme === '' || this.#failed.has(attempt)
        ? undefined
        : await this.#options.kubernetes?.(credentials, attempt.source).catch(unanswered);
    if (found === undefined) {
      this.#failed.add(attempt);
      this.#options.onWrongLogin(address.remote);
      throw this.#challenge(address);
    }
    this.#failed.noteRight(attempt.source, credentialId);
    return { ...found, by: isBasic ? 'login' : 'kubernetes', remote: address.remote };
  }

  /** `sent`: `NAME:PASSWORD`. */
  #find(sent: string): Pick<Administrator, 'name' | 'rights'> | undefined {
    // All are compared, and names only with their passwords, so that the time says nothing.
    const found = this.#options.logins.filter(({ name, password }) => isEqual(sent, `${name}:${password}`));
    return found[0] && { name: found[0].name, rights: found[0].rights };
  }

  #requireEncryption({ loopback, secure }: ClientAddress): void {
    if (loopback || secure || this.#options.allowsPlainCredentials) return;
    throw new AdminProblem(
      'forbidden',
      'credentials are not accepted over plain HTTP: use a TLS proxy (server.trustedProxies), an SSH tunnel, or ' +
        'server.allowPlainCredentials',
    );
  }

  #challenge(address: ClientAddress): AdminProblem {
    const { logins, kubernetes } = this.#options;
    if (logins.length === 0 && kubernetes === undefined) {
      const why = address.proxied
        ? 'a request from an address in server.trustedProxies is one of that proxy, not of the machine of the server'
        : 'the administration API can only be used on the machine of the server';
      return new AdminProblem('forbidden', `${why}: to allow others, set server.admins`);
    }
    this.#requireEncryption(address);
    const challenges = [
      ...(logins.length === 0 ? [] : [`Basic realm="${REALM}", charset="UTF-8"`]),
      ...(kubernetes === undefined ? [] : [`Bearer realm="${REALM}"`]),
    ];
    const ways = [
      ...(logins.length === 0 ? [] : ['as one of server.admins']),
      ...(kubernetes === undefined ? [] : ['with a Kubernetes token']),
    ];
    return new AdminProblem('unauthorized', `log in ${ways.join(', or ')}`, {
      'WWW-Authenticate': challenges,
    });
  }
}

/** Such a token is not a wrong login: it would count as a guess. */
function unanswered(): never {
  throw new AdminProblem('unavailable', 'the cluster cannot be asked about this token at the moment');
}

function foreign(): AdminProblem {
  return new AdminProblem(
    'foreign',
    'a web page of another site may not use the administration API: open this server as localhost, by an IP address, or by ' +
      'a name in server.serverNames',
  );
}

/** In a time that does not depend on where they differ. */
function isEqual(one: string, other: string): boolean {
  const [first, second] = [one, other].map(text => createHmac('sha256', COMPARED).update(text).digest());
  return first !== undefined && second !== undefined && timingSafeEqual(first, second);
}

const COMPARED = randomBytes(32);
