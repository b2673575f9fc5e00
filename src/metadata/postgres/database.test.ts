import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { afterEach, expect, test, vi } from 'vitest';
import { Latch } from '../../../test/support/latch.ts';
import { Database } from './database.ts';
import type { Client } from './driver.ts';
import { isAway, PasswordUnreadable } from './failures.ts';
import { PostgresSession } from './session.ts';

/** AuthenticationOk and ReadyForQuery. */
const OPEN = Buffer.from('R\0\0\0\b\0\0\0\0Z\0\0\0\u0005I');

let server: Server | undefined;
afterEach(() => server?.close());

/** An ErrorResponse of the protocol. */
function refusal(code: string, message: string): Buffer {
  const fields = Buffer.from(`SFATAL\0VFATAL\0C${code}\0M${message}\0\0`);
  const head = Buffer.from('E\0\0\0\0');
  head.writeInt32BE(fields.length + 4, 1);
  return Buffer.concat([head, fields]);
}

/** What a server says to everybody who connects. */
const refusing = (code: string, message: string, before = Buffer.alloc(0)) =>
  answering(Buffer.concat([before, refusal(code, message)]));

/** What a server says to those who connect, one after the other; the last answer also goes to all who follow. */
function answering(...answers: readonly Buffer[]): Promise<Database> {
  const left = [...answers];
  return serving(socket => {
    const answer = left.length > 1 ? left.shift() : left[0];
    socket.once('data', () => socket.end(answer ?? ''));
  });
}

/** A server to which everybody may connect, and which answers nothing. */
const unanswering = () => serving(socket => socket.once('data', () => socket.write(OPEN)).resume());

async function serving(connected: (socket: Socket) => void, poolSize = 1): Promise<Database> {
  server = createServer(socket => {
    socket.on('error', () => {});
    connected(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('it does not listen');
  return new Database({
    host: '127.0.0.1',
    port: address.port,
    database: 'd',
    user: 'u',
    password: undefined,
    passwordFile: undefined,
    tls: undefined,
    poolSize,
    schema: 's',
  });
}

test('why it is away is told without the address that a server names, but for the operator', async () => {
  const database = await refusing('28000', 'no pg_hba.conf entry for host "10.1.2.3", user "u"');
  await expect(database.trying(async () => {})).rejects.toThrow('10.1.2.3');
  expect(database.away?.message).toBe('the database of the index cannot be reached: 28000');
  expect(database.away?.operatorText).toMatch(
    /^the database of the index \(d at 127\.0\.0\.1:\d+, as u\) cannot be reached: no pg_hba\.conf entry for host "10\.1\.2\.3"/,
  );
  await database.close();
});

test('why it is away is told as the server says it', async () => {
  const database = await refusing('57P03', 'the database system is starting up');
  await expect(database.trying(async () => {})).rejects.toThrow('starting up');
  expect(database.away?.message).toMatch(/: the database system is starting up$/);
  await database.close();
});

test('what others keep locked for as long as it is tried is told with its place', async () => {
  const where = 'while updating tuple (0,1) in relation "epochs"';
  const database = await refusing('55P03', `canceling statement due to lock timeout\0W${where}`);
  let nowMs = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => (nowMs += 6_000));
  await expect(database.retrying('writes', async () => {})).rejects.toMatchObject({
    name: 'IndexLocked',
    message: `others have kept the index locked for 10 s: canceling statement due to lock timeout (${where})`,
    cause: { code: '55P03' },
  });
  vi.restoreAllMocks();
  await database.close();
});

test.each(['40001', '40P01', '55P03'])(
  'what was undone in favour of others (%s) is done again',
  async code => {
    const database = await unanswering();
    const outcomes = [Object.assign(new Error('undone'), { code }), undefined];
    const attempt = async () => {
      const failure = outcomes.shift();
      if (failure !== undefined) throw failure;
      return 'done';
    };
    expect(await database.retrying('writes', attempt)).toBe('done');
    expect(outcomes).toEqual([]);
    await database.close();
  },
);

test('a connection without an answer is not used again', async () => {
  const database = await unanswering();
  const clients = new Set<object>();
  const attempt = async (client: Client) => {
    clients.add(client);
    if (clients.size === 1) await new PostgresSession(client, database.schema, 20).rows('SELECT 1');
  };
  await database.retrying('reads', attempt);
  expect(clients.size).toBe(2);
  await database.close();
});

test('a database that has been away for a while is not asked again by everybody', async () => {
  const database = await refusing('57P03', 'the database system is starting up');
  let connections = 0;
  server?.on('connection', () => (connections += 1));
  let nowMs = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => (nowMs += 6_000));
  await expect(database.retrying('reads', async () => {})).rejects.toThrow('starting up');
  const before = connections;
  await expect(database.retrying('reads', async () => {})).rejects.toThrow('starting up');
  expect([before > 0, connections]).toEqual([true, before]);
  vi.restoreAllMocks();
  await database.close();
});

test('there are as many connections as the pool may have, and one for those who do not wait', async () => {
  const database = await unanswering();
  const connected = new Set<Socket>();
  server?.on('connection', socket => connected.add(socket));
  const latch = new Latch();
  const busy: string[] = [];
  const as = (name: string) => async () => {
    busy.push(name);
    await latch.opened;
  };
  const kinds = ['reads', 'writes', 'reads', 'writes'] as const;
  const all = kinds.map(kind => database.retrying(kind, as(kind)));
  await expect.poll(() => busy).toEqual(['reads']);
  const first = Array.from({ length: 3 }, () => database.trying(as('first')));
  await expect.poll(() => busy.length).toBeGreaterThan(1);
  await new Promise(resolve => setTimeout(resolve, 50));
  expect([busy, connected.size]).toEqual([['reads', 'first'], 2]);
  latch.open();
  await Promise.all([...all, ...first]);
  expect(connected.size).toBe(2);
  await database.close();
});

test('a question is asked once for all who ask it at the same time, and again for those who come meanwhile', async () => {
  const asked: string[] = [];
  const connected = (socket: Socket) =>
    socket.once('data', () => {
      socket.write(OPEN);
      socket.on('data', bytes => {
        asked.push(bytes.toString('latin1'));
        socket.end(refusal('42501', 'no'));
      });
    });
  const database = await serving(connected, 8);
  const ask = (parameter: number | null, sql = 'SELECT $1') => database.rows(sql, [parameter]).catch(String);
  const others = [ask(2), ask(null), ask(Number.POSITIVE_INFINITY), ask(1, 'SELECT -$1')];
  const row = database.row('SELECT $1', [1]).catch(String);
  const answers = await Promise.all([ask(1), ask(1), ...others, row]);
  expect(answers).toEqual(Array.from({ length: 7 }, () => 'error: no'));
  // One of five is asked twice.
  expect([new Set(asked).size, asked.length]).toEqual([5, 6]);
  await database.close();
});

test('a transaction in which the process was suspended is tried once more, however long that took', async () => {
  const silent = refusal('25P03', 'terminating connection due to idle-in-transaction timeout');
  for (const [answers, outcome] of [
    [[silent, refusal('42501', 'the next attempt')], 'the next attempt'],
    [[silent], 'cannot be reached: terminating connection due to idle-in-transaction timeout'],
  ] as const) {
    const database = await answering(...answers);
    let nowMs = 0;
    vi.spyOn(performance, 'now').mockImplementation(() => nowMs);
    server?.once('connection', () => (nowMs += 60_000));
    await expect(database.retrying('writes', async () => {})).rejects.toThrow(outcome);
    vi.restoreAllMocks();
    await database.close();
    server?.close();
  }
});

test('a connection that is ended with the very answer that opens it is an outage, and not the end of the process', async () => {
  const database = await refusing('57P01', 'terminating connection', OPEN);
  await expect(database.trying(client => client.query('SELECT 1'))).rejects.toThrow('onnection');
  expect(database.away?.message).toMatch(/^the database of the index cannot be reached/);
  await database.close();
});

test.each([
  'CERT_HAS_EXPIRED',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'EPROTO',
  'ECONNREFUSED',
  '57P01',
])('a connection that fails with %s says that the database is away', code => {
  expect(isAway(Object.assign(new Error('failed'), { code }))).toBe(true);
});

test('a password file that cannot be read says that the database is away, and not that a file is', () => {
  const error = new PasswordUnreadable(Object.assign(new Error('no'), { code: 'ENOENT' }));
  expect([isAway(error), 'code' in error, error.message]).toEqual([
    true,
    false,
    'the password file cannot be read (ENOENT)',
  ]);
});
