import type { IncomingMessage } from 'node:http';
import { collectBytes } from '../lib/collect-bytes.ts';
import { MemoryBudget, type MemoryHolder } from '../lib/memory-budget.ts';
import type { Access, LoginRequest } from '../access/access.ts';
import { parseScopes, scopeText } from '../access/scope.ts';
import { refusingWhenBusy } from '../oci/busy.ts';
import { OciError } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import { networkOf } from '../oci/requester.ts';
import { answerJson } from './answer.ts';
import type { Exchange } from './exchange.ts';
import type { Query } from './query.ts';
import type { RepositoryResolver } from '../oci/repository-resolver.ts';
import { parseName } from './path.ts';
import { contentLengthOf } from './uploads.ts';

/** Enough for a ServiceAccount token as the password, and the longest scopes. */
const MAX_FORM_BYTES = 32 * 1024;
/**
 * Memory for all forms together, apart from the budget of other bodies, so that clients that have not logged in use
 * nothing of that. It is not known yet whose a form is, so each address has a share: sixteen of the longest, or some
 * thousand usual ones.
 */
const FORMS = { totalBytes: 8 * 1024 * 1024, shareBytes: 16 * MAX_FORM_BYTES };
/** A form fits into a packet or two. */
const FORM_MS = 10_000;

type TokenAccess = Pick<Access, 'login'>;

/**
 * `/token`: distribution's "Token Authentication" by GET, and its OAuth2 form by POST. There are no refresh tokens:
 * with one, a revoked password would remain useful.
 */
export function tokenHandler(
  access: TokenAccess,
  resolver: RepositoryResolver,
): (exchange: Exchange) => Promise<void> {
  const memory = new MemoryBudget(FORMS);
  return async exchange => {
    const { sender } = exchange;
    const isForm = exchange.method === 'POST';
    const holder = { name: networkOf(sender.remote) };
    const parameters = isForm
      ? await refusingWhenBusy(() => readForm(exchange.req, memory, holder))
      : exchange.query;
    const password = isForm ? passwordOf(parameters) : undefined;
    exchange.formUsername = password?.username;
    const work = access.login(sender, {
      password,
      service: parameters.get('service') ?? undefined,
      scopes: parseScopes(parameters.getAll('scope')),
      resolve: name => resolve(resolver, name, sender.upstreamListener),
    });
    const login = await exchange.inTime(work);
    exchange.requester = login.requester;
    const { token, expiresInS, issuedAtMs, access: granted } = login;
    const answer = {
      access_token: token,
      expires_in: expiresInS,
      issued_at: new Date(issuedAtMs).toISOString(),
    };
    const scope = granted.map(scopeText).join(' ');
    // RFC 6750 §5.3: no cache may store a token.
    answerJson(
      exchange,
      200,
      { 'Cache-Control': 'no-store' },
      isForm ? { ...answer, scope } : { token, ...answer },
    );
  };
}

/** The repository that a scope names; `undefined` if there is none, which is then left out of the token. */
function resolve(
  resolver: RepositoryResolver,
  name: string,
  listenerUpstream: string | undefined,
): Repository | undefined {
  try {
    return resolver.resolve({ name: parseName(name), ns: undefined, host: undefined, listenerUpstream });
  } catch (error) {
    if (error instanceof OciError) return undefined;
    throw error;
  }
}

function passwordOf(form: Query): LoginRequest['password'] {
  const grant = form.get('grant_type');
  if (grant !== 'password') {
    throw new OciError('UNAUTHORIZED', { message: 'only the grant type "password" is supported' });
  }
  const username = form.get('username') ?? '';
  const password = form.get('password') ?? '';
  return { scheme: 'basic', username, password };
}

async function readForm(
  req: IncomingMessage,
  memory: MemoryBudget,
  holder: MemoryHolder,
): Promise<URLSearchParams> {
  const lease = await memory.lease(holder, Math.min(contentLengthOf(req) ?? MAX_FORM_BYTES, MAX_FORM_BYTES));
  const timer = setTimeout(() => req.destroy(new Error(`no form within ${FORM_MS} ms`)), FORM_MS);
  try {
    const tooLong = () =>
      new OciError('SIZE_INVALID', { message: `the form is longer than ${MAX_FORM_BYTES} bytes` });
    const form = await collectBytes(req.iterator({ destroyOnReturn: false }), MAX_FORM_BYTES, tooLong);
    return new URLSearchParams(form.toString('utf8'));
  } catch (error) {
    if (error instanceof OciError) throw error;
    throw new OciError('SIZE_INVALID', { message: 'the form is truncated', cause: error });
  } finally {
    clearTimeout(timer);
    lease.release();
  }
}
