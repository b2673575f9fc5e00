// A token service as the distribution project specifies it (docs/spec/auth/token): Docker Hub's auth.docker.io in
// small. It signs with an RSA key whose self-signed certificate the registry trusts (`rootcertbundle`).
import { createSign, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { run } from './programs.ts';

export interface TokenServerOptions {
  /** Keeps the key and the certificate. */
  readonly folder: string;
  /** The registry that the tokens are for: what it calls `service`. */
  readonly service: string;
  /** Who may do everything: name → password. */
  readonly users: Readonly<Record<string, string>>;
  /** What may be pulled by anybody; nothing if left out. */
  readonly isPublic?: (repository: string) => boolean;
}

/** One request for a token, as it came. */
export interface TokenRequest {
  readonly username: string | undefined;
  readonly scopes: readonly string[];
  readonly status: number;
}

interface Access {
  readonly type: string;
  readonly name: string;
  readonly actions: readonly string[];
}

const ISSUER = 'entrepot-test-issuer';

/** Seconds; the shortest that the specification lets a client assume. */
const TOKEN_LIFETIME_S = 60;

export class TokenServer {
  readonly realm: string;
  readonly issuer = ISSUER;
  readonly certificateFile: string;
  /** Every request so far. */
  readonly requests: TokenRequest[] = [];
  readonly #server: Server;

  private constructor(server: Server, realm: string, certificateFile: string) {
    this.#server = server;
    this.realm = realm;
    this.certificateFile = certificateFile;
  }

  static async start(options: TokenServerOptions): Promise<TokenServer> {
    const keyFile = join(options.folder, 'token.key');
    const certificateFile = join(options.folder, 'token.crt');
    const subject = ['-subj', `/CN=${ISSUER}`, '-days', '2'];
    const files = ['-keyout', keyFile, '-out', certificateFile];
    await run('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', ...subject, ...files]);
    const sign = signer(await readFile(keyFile, 'utf8'), await readFile(certificateFile, 'utf8'));
    const server = createServer();
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    const tokens = new TokenServer(server, `http://127.0.0.1:${address.port}/token`, certificateFile);
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      tokens.#answer(options, sign, request, response);
    });
    return tokens;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise(resolve => this.#server.close(resolve));
  }

  #answer(options: TokenServerOptions, sign: Sign, request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', this.realm);
    const scopes = url.searchParams.getAll('scope').flatMap(scope => scope.split(' ').filter(Boolean));
    const reply = (status: number, body: object, username?: string): void => {
      this.requests.push({ username, scopes, status });
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    };
    // Clients that try OAuth2 (POST) first go back to GET on 405.
    if (request.method !== 'GET') return reply(405, {});
    const [username, password] = basicCredential(request.headers.authorization) ?? [];
    if (username !== undefined && options.users[username] !== password) return reply(401, {}, username);
    const granted = scopes
      .map(parseScope)
      .filter(access => access !== undefined)
      .map(access => (username === undefined ? publicPart(access, options.isPublic) : access));
    const token = sign(url.searchParams.get('service') ?? options.service, username ?? '', granted);
    reply(200, { token, access_token: token, expires_in: TOKEN_LIFETIME_S }, username);
  }
}

type Sign = (service: string, subject: string, access: readonly Access[]) => string;

function signer(privateKey: string, certificate: string): Sign {
  const der = certificate.replace(/-----[^-]+-----/g, '').replace(/\s/g, '');
  const header = encode({ typ: 'JWT', alg: 'RS256', x5c: [der] });
  return (service, subject, access) => {
    const nowS = Math.floor(Date.now() / 1000);
    const times = { nbf: nowS - 5, iat: nowS, exp: nowS + TOKEN_LIFETIME_S };
    const claims = encode({ iss: ISSUER, sub: subject, aud: service, ...times, jti: randomUUID(), access });
    const signature = createSign('RSA-SHA256').update(`${header}.${claims}`).sign(privateKey, 'base64url');
    return `${header}.${claims}.${signature}`;
  };
}

function encode(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url');
}

/** `repository:NAME:ACTIONS`; a name may hold colons, an action cannot. */
function parseScope(scope: string): Access | undefined {
  const match = /^([a-z]+):(.+):([a-z*,]+)$/.exec(scope);
  if (match === null) return undefined;
  const [, type = '', name = '', actions = ''] = match;
  return { type, name, actions: actions.split(',') };
}

function publicPart(access: Access, isPublic: ((repository: string) => boolean) | undefined): Access {
  const isOpen = access.type === 'repository' && isPublic?.(access.name) === true;
  return { ...access, actions: isOpen ? access.actions.filter(action => action === 'pull') : [] };
}

function basicCredential(authorization: string | undefined): [string, string] | undefined {
  const encoded = /^basic (.+)$/i.exec(authorization ?? '')?.[1];
  if (encoded === undefined) return undefined;
  const [username = '', ...password] = Buffer.from(encoded, 'base64').toString().split(':');
  return [username, password.join(':')];
}
