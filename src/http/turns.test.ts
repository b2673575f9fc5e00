import { Socket } from 'node:net';
import { expect, test } from 'vitest';
import { Turns } from './turns.ts';

test('requests of a connection get their turns in order, and none when it is closed', async () => {
  const turns = new Turns();
  const socket = new Socket();
  const order: string[] = [];
  const waiting = ['first', 'second', 'third'].map(async name => {
    if (await turns.wait(socket)) order.push(name);
  });
  turns.next(socket);
  turns.next(socket);
  turns.close(socket);
  await Promise.all(waiting);
  expect(order).toEqual(['first', 'second']);
});

test('a limited number may wait in all, and the connection that brings one more is closed', async () => {
  const turns = new Turns(3);
  const sockets = Array.from({ length: 3 }, () => new Socket());
  const waiting = sockets.map(socket => turns.wait(socket));
  const another = new Socket();
  expect(await turns.wait(another)).toBe(false);
  expect(another.destroyed).toBe(true);
  sockets.forEach(socket => turns.next(socket));
  expect(await Promise.all(waiting)).toEqual([true, true, true]);
  const later = new Socket();
  const hasTurn = turns.wait(later);
  turns.next(later);
  expect(await hasTurn).toBe(true);
});
