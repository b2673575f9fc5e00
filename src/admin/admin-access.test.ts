import http, { type IncomingMessage } from 'node:http';
import { expect, it } from 'vitest';
import { AdminAccess, type AdminAccessOptions } from './admin-access.ts';
import { AdminProblem } from './admin-problem.ts';

const LOGIN = { name: 'ops', password: 'correct: horse', rights: 'full' } as const;
const basic = (password: string, name = 'ops') =>
  `Basic ${Buffer.from(`${name}:${password}`).toString('base64')}`;

const FAR = { remote: '192.0.2.1', secure: false, loopback: false, proxied: false };
const BEHIND_TLS = { ...FAR, secure: true, proxied: true };

function accessWith(
  address: typeof FAR,
  options: Partial<Omit<AdminAccessOptions, 'addresses'>> = {},
): AdminAccess {
  return new AdminAccess({
    logins: [LOGIN],
    onLoopback: 'full',
    kubernetes: undefined,
    names: ['registry.example'],
    allowsPlainCredentials: false,
    onWrongLogin: () => {},
    ...options,
    addresses: { of: () => address },
  });
}

function requestWith(headers: http.IncomingHttpHeaders): IncomingMessage {
  return Object.assign(new http.IncomingMessage(Object.create(null)), {
    headers: { host: 'registry.example', ...headers },
  });
}

async function outcome(access: AdminAccess, headers: http.IncomingHttpHeaders = {}): Promise<string> {
  try {
    const { name, by, rights } = await access.admit(requestWith(headers), 'address');
    return `${name} by ${by}: ${rights}`;
  } catch (error) {
    if (!(error instanceof AdminProblem)) throw error;
    const challenge = error.headers['WWW-Authenticate'];
    return `${error.code}${Array.isArray(challenge) ? ` ${challenge.map(one => one.split(' ', 1)[0]).join()}` : ''}`;
  }
}

it('asks for no password over plain HTTP from elsewhere, and accepts none', async () => {
  const plain = accessWith(FAR);
  expect(await outcome(plain)).toBe('forbidden');
  expect(await outcome(plain, { authorization: basic(LOGIN.password) })).toBe('forbidden');
  expect(await outcome(accessWith(BEHIND_TLS))).toBe('unauthorized Basic');
  expect(await outcome(accessWith(BEHIND_TLS), { authorization: basic(LOGIN.password) })).toBe(
    'ops by login: full',
  );
  const allowed = accessWith(FAR, { allowsPlainCredentials: true });
  expect(await outcome(allowed)).toBe('unauthorized Basic');
  expect(await outcome(allowed, { authorization: basic(LOGIN.password) })).toBe('ops by login: full');
});

it('does not ask for a password if nobody has one', async () => {
  expect(await outcome(accessWith(BEHIND_TLS, { logins: [] }))).toBe('forbidden');
});

it('tells whoever shares an address with a trusted proxy why it is not on this machine', async () => {
  const shared = accessWith({ ...FAR, remote: '127.0.0.1', proxied: true }, { logins: [] });
  await expect(shared.admit(requestWith({}), 'address')).rejects.toThrow(
    /server\.trustedProxies.*server\.admins/,
  );
});

it('takes a wrong login for nobody, even on this machine', async () => {
  const here = { ...FAR, remote: '127.0.0.1', loopback: true };
  const access = accessWith(here);
  expect(await outcome(access, { host: 'localhost' })).toBe('loopback by loopback: full');
  for (const authorization of [
    basic('wrong'),
    basic(''),
    'Basic !',
    'Basic',
    basic(LOGIN.password, 'other'),
  ]) {
    expect(await outcome(access, { authorization })).toBe('unauthorized Basic');
  }
});

it('lets nobody guess', async () => {
  const access = accessWith(BEHIND_TLS);
  for (let at = 0; at < 10; at += 1) {
    expect(await outcome(access, { authorization: basic(`guess ${at}`) })).toBe('unauthorized Basic');
  }
  expect(await outcome(access, { authorization: basic('guess') })).toBe('busy');
  // The right one is not tried either: the answer says nothing.
  expect(await outcome(access, { authorization: basic(LOGIN.password) })).toBe('busy');
});

it('keeps nobody out who logged in from there before, whoever guesses beside him', async () => {
  const access = accessWith(BEHIND_TLS, {
    kubernetes: async token => (token === 'good' ? { name: 'a:b', rights: 'read' } : undefined),
  });
  const right = [basic(LOGIN.password), 'Bearer good'];
  const known = ['ops by login: full', 'a:b by kubernetes: read'];
  const outcomes = () => Promise.all(right.map(authorization => outcome(access, { authorization })));
  expect(await outcomes()).toEqual(known);
  for (let at = 0; at < 100; at += 1) await outcome(access, { authorization: basic('guess', `name ${at}`) });
  for (let at = 0; at < 10; at += 1) await outcome(access, { authorization: basic(`guess ${at}`) });
  expect(await outcome(access, { authorization: basic('another guess') })).toBe('busy');
  expect(await outcomes()).toEqual(known);
});

const knowsNobody = async (): Promise<undefined> => undefined;

it.each([
  [{}, 'log in as one of server.admins'],
  [{ logins: [], kubernetes: knowsNobody }, 'log in with a Kubernetes token'],
  [{ kubernetes: knowsNobody }, 'log in as one of server.admins, or with a Kubernetes token'],
])('names only the ways to log in that there are: %o', async (options, message) => {
  const access = accessWith(BEHIND_TLS, options);
  await expect(access.admit(requestWith({ host: 'registry.example' }), 'address')).rejects.toMatchObject({
    code: 'unauthorized',
    message,
  });
});

it('believes the cluster about its tokens, and about no others', async () => {
  const asked: string[] = [];
  const access = accessWith(BEHIND_TLS, {
    logins: [],
    kubernetes: async token => {
      asked.push(token);
      return token === 'good' ? { name: 'system:serviceaccount:a:b', rights: 'read' } : undefined;
    },
  });
  expect(await outcome(access)).toBe('unauthorized Bearer');
  expect(await outcome(access, { authorization: 'Bearer good' })).toBe(
    'system:serviceaccount:a:b by kubernetes: read',
  );
  expect(await outcome(access, { authorization: 'Bearer bad' })).toBe('unauthorized Bearer');
  expect(await outcome(access, { authorization: 'Bearer bad' })).toBe('unauthorized Bearer');
  expect(asked).toEqual(['good', 'bad']);
});

it('takes no token for a wrong one while the cluster cannot be asked', async () => {
  const access = accessWith(BEHIND_TLS, { kubernetes: () => Promise.reject(new Error('unreachable')) });
  for (let at = 0; at < 100; at += 1) {
    expect(await outcome(access, { authorization: `Bearer token-${at}` })).toBe('unavailable');
  }
  expect(await outcome(access, { authorization: basic(LOGIN.password) })).toBe('ops by login: full');
});

it('keeps pages of other sites out, whoever is logged in there', async () => {
  const access = accessWith(BEHIND_TLS);
  const authorization = basic(LOGIN.password);
  const own = { authorization, origin: 'https://registry.example', 'sec-fetch-site': 'same-origin' };
  expect(await outcome(access, own)).toBe('ops by login: full');
  for (const headers of [
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site' },
  ]) {
    expect(await outcome(access, { authorization, ...headers })).toBe('foreign');
  }
});

it('gives everybody a token of his own, which ends with the process', async () => {
  const access = accessWith(BEHIND_TLS);
  const who = await access.admit(requestWith({ authorization: basic(LOGIN.password) }), 'address');
  const other = { ...who, name: 'other' };
  const sent = (token: string) => requestWith({ 'x-entrepot-token': token });
  expect(() => access.requireChange(sent(access.token(who)), who)).not.toThrow();
  expect(() => access.requireChange(sent(access.token(other)), who)).toThrow('X-Entrepot-Token');
  expect(() => access.requireChange(sent(accessWith(BEHIND_TLS).token(who)), who)).toThrow(
    'X-Entrepot-Token',
  );
  expect(() => access.requireChange(sent(access.token(who)), { ...who, rights: 'read' })).toThrow(
    'but not change anything',
  );
  const operator = await access.admit(requestWith({}), 'socket');
  expect(() => access.requireChange(requestWith({}), operator)).not.toThrow();
});
