import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { type Accepted, Acceptor, type Taker } from './acceptor.ts';

const listener = { host: '127.0.0.1', port: 0 };

let acceptor: Acceptor;
let sockets: Socket[];

/** A process that takes what it is given when it is told to. */
class TestTaker implements Taker {
  readonly given: Accepted[] = [];

  take(accepted: Accepted): void {
    this.given.push(accepted);
  }

  takeAll(): void {
    for (const { id } of this.given) acceptor.took(id);
  }
}

beforeEach(async () => {
  sockets = [];
  acceptor = await Acceptor.open({ listeners: [listener, listener], maxConnections: 6 });
});

afterEach(() => {
  acceptor.close();
  for (const socket of sockets) socket.destroy();
});

async function client(index = 0): Promise<Socket> {
  const socket = connect({ port: acceptor.addresses[index]?.port ?? 0 });
  socket.on('error', () => {});
  sockets.push(socket);
  await once(socket, 'connect');
  return socket;
}

it('gives each connection to the process with the fewest, when that has taken its last one', async () => {
  const [one, other] = [new TestTaker(), new TestTaker()];
  acceptor.add(one);
  acceptor.add(other);
  await client();
  await client();
  await expect.poll(() => [one.given.length, other.given.length]).toEqual([1, 1]);
  other.takeAll();
  await client(1);
  one.takeAll();
  await expect.poll(() => [one.given.length, other.given.length]).toEqual([2, 1]);
  expect(one.given[1]?.listener).toBe(1);
  one.takeAll();
  acceptor.left(one.given.map(({ id }) => id));
  await client();
  await expect.poll(() => [one.given.length, other.given.length]).toEqual([3, 1]);
  expect([acceptor.connectionsOf(one), acceptor.connectionsOf(other)]).toEqual([1, 1]);
});

it('passes over a process that does not take what it was given', async () => {
  const [hung, other] = [new TestTaker(), new TestTaker()];
  acceptor.add(hung);
  await client();
  await expect.poll(() => hung.given.length).toBe(1);
  acceptor.add(other);
  for (let count = 1; count <= 4; count += 1) {
    await client();
    await expect.poll(() => other.given.length).toBe(count);
    other.takeAll();
  }
  expect([hung.given.length, acceptor.connectionsOf(other)]).toEqual([1, 4]);
});

it('closes what a process has not taken when it ends', async () => {
  const taker = new TestTaker();
  acceptor.add(taker);
  const pending = await client();
  await expect.poll(() => taker.given.length).toBe(1);
  const waiting = await client();
  acceptor.forget(taker);
  await once(pending.resume(), 'close');
  const next = new TestTaker();
  acceptor.add(next);
  await expect.poll(() => next.given.length).toBe(1);
  expect(waiting.destroyed).toBe(false);
});

it('gives a connection that a process has no descriptor for to another, or to the same one later', async () => {
  const [full, other] = [new TestTaker(), new TestTaker()];
  acceptor.add(full);
  const refused = await client();
  await expect.poll(() => full.given.length).toBe(1);
  acceptor.add(other);
  acceptor.refused(full.given[0]?.id ?? 0);
  await expect.poll(() => other.given).toEqual(full.given);
  expect(refused.destroyed).toBe(false);
  other.takeAll();
  await client();
  await expect.poll(() => other.given.length).toBe(2);
  other.takeAll();
  expect([acceptor.connectionsOf(full), acceptor.connectionsOf(other)]).toEqual([0, 2]);
  acceptor.remove(other);
  await client();
  await expect.poll(() => full.given.length).toBe(2);
  expect(acceptor.connectionsOf(full)).toBe(1);
});

it('limits the connections of each listener, in all processes and waiting', async () => {
  for (let count = 0; count < 6; count += 1) await client();
  await once((await client()).resume(), 'close');
  const ofAnother = await client(1);
  const taker = new TestTaker();
  acceptor.add(taker);
  await expect.poll(() => taker.given.length).toBe(1);
  acceptor.left(taker.given.map(({ id }) => id));
  const admitted = await client();
  await once((await client()).resume(), 'close');
  expect([ofAnother.destroyed, admitted.destroyed]).toEqual([false, false]);
});

it('binds all listeners or none, with the same error as one process', async () => {
  const taken = createServer();
  await new Promise<void>(resolve => taken.listen(0, '127.0.0.1', resolve));
  const address = taken.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  const failed = Acceptor.open({ listeners: [listener, { ...listener, port }], maxConnections: 1 });
  await expect(failed).rejects.toThrow(/^server\.listen: .*EADDRINUSE/);
  taken.close();
});
