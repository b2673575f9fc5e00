import { Readable } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { EndpointClient, type EndpointSettings } from './endpoint-client.ts';
import { Receiver, signatureOf } from './receiver.fixture.ts';
import type { StoredEvent } from './stored-event.ts';

const EVENT: StoredEvent = { id: '1', kind: 'push', atMs: 0, repository: 'team-a/app' };
const clock = new ManualClock(1_700_000_000_500);

let receiver: Receiver;
let clients: EndpointClient[];

beforeEach(async () => {
  receiver = await Receiver.start();
  clients = [];
});

afterEach(async () => {
  await Promise.all(clients.map(client => client.close()));
  await receiver.close();
});

function clientOf(settings: Partial<EndpointSettings> = {}): EndpointClient {
  const client = new EndpointClient({
    endpoint: {
      name: 'ci',
      url: receiver.url,
      format: 'cloudevents',
      headers: {},
      signingKey: undefined,
      ca: undefined,
      timeoutMs: 5_000,
      ...settings,
    },
    source: { uri: '//node-1', host: 'node-1' },
    proxy: undefined,
    userAgent: 'entrepot',
    clock,
  });
  clients.push(client);
  return client;
}

it('sends an event with the configured headers, and returns the status', async () => {
  receiver.answer = () => 202;
  const client = clientOf({ headers: { authorization: 'Bearer secret' } });
  expect(await client.send([EVENT])).toBe(202);
  const [{ headers, body } = { headers: {}, body: '' }] = receiver.received;
  expect(headers).toMatchObject({
    authorization: 'Bearer secret',
    'content-type': 'application/cloudevents+json; charset=utf-8',
    'content-length': String(body.length),
  });
  expect(headers).not.toHaveProperty('webhook-signature');
  expect(JSON.parse(body)).toMatchObject({ id: '1' });
});

it.each([
  ['as it is', 'a key', Buffer.from('a key')],
  ['in base64', `whsec_${Buffer.from('a key').toString('base64')}`, Buffer.from('a key')],
])('signs with a key that is written %s; the same body has the same id', async (_, signingKey, key) => {
  const client = clientOf({ signingKey });
  await client.send([EVENT]);
  await client.send([EVENT]);
  const [first, second] = receiver.received;
  if (first === undefined) throw new Error('it received nothing');
  expect(first.headers['webhook-timestamp']).toBe('1700000000');
  expect(first.headers['webhook-signature']).toBe(signatureOf(first, key));
  expect(second?.headers['webhook-id']).toBe(first.headers['webhook-id']);
});

it.each([400, 401, 410, 429, 500, 503])('an answer with %i is a failure', async status => {
  receiver.answer = () => status;
  await expect(clientOf().send([EVENT])).rejects.toThrow(`it answered ${status}`);
});

async function* inPieces() {
  for (const piece of ['{"accepted":', 'true', '}']) {
    yield Buffer.from(piece);
    await nextTurn();
  }
}

it('events share connections even if the endpoint sends a body', async () => {
  receiver.answer = () => ({ status: 200, body: Readable.from(inPieces()) });
  const client = clientOf();
  for (let sent = 0; sent < 10; sent += 1) await client.send([EVENT]);
  expect(receiver.received.length).toBe(10);
  // One may be opened before the client notices that the first is free.
  expect(receiver.connections).toBeLessThanOrEqual(2);
});

it('an endless answer is not read for long', async () => {
  const endless = new Readable({ read: () => endless.push(Buffer.alloc(4096)) });
  receiver.answer = () => ({ status: 200, body: endless });
  const closed = new Promise(resolve => endless.on('error', () => {}).once('close', resolve));
  expect(await clientOf().send([EVENT])).toBe(200);
  await closed;
});

it('a redirect is not followed, wherever it leads', async () => {
  const inside = await Receiver.start();
  receiver.answer = () => ({ location: inside.url });
  await expect(clientOf().send([EVENT])).rejects.toThrow('it answered 307, and redirects are not followed');
  expect(inside.received).toEqual([]);
  await inside.close();
});

it('an endpoint that does not answer in time has failed', async () => {
  receiver.answer = () => 'hang';
  await expect(clientOf({ timeoutMs: 50 }).send([EVENT])).rejects.toThrow('no answer within 50ms');
});

it('an endpoint that cannot be reached, or breaks the connection, has failed', async () => {
  receiver.answer = () => 'reset';
  await expect(clientOf().send([EVENT])).rejects.toThrow(/connection closed/);
  const { url } = receiver;
  await receiver.close();
  await expect(clientOf({ url }).send([EVENT])).rejects.toThrow(/cannot connect/);
  receiver = await Receiver.start();
});

it.each(['http://169.254.169.254/', 'http://[fd00:ec2::254]/'])('%s is never connected to', async url => {
  await expect(clientOf({ url }).send([EVENT])).rejects.toThrow(/never allowed/);
});
