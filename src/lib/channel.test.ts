import { EventEmitter } from 'node:events';
import { beforeEach, expect, it } from 'vitest';
import { Channel, ChannelClosed } from './channel.ts';

/** An end of a pair that clones messages, as IPC does. */
class TestEnd extends EventEmitter {
  connected = true;
  peer: TestEnd | undefined;

  send(message: object): void {
    const cloned = structuredClone(message);
    setImmediate(() => this.peer?.emit('message', cloned, undefined));
  }

  disconnect(): void {
    this.connected = false;
    this.emit('disconnect');
  }
}

interface Theirs {
  double(value: number): Promise<number>;
  note(text: string): void;
  never(): Promise<void>;
}

let near: TestEnd;
let noted: string[];
let channel: Channel<Theirs>;

beforeEach(() => {
  near = new TestEnd();
  const far = new TestEnd();
  [near.peer, far.peer] = [far, near];
  noted = [];
  const answers = {
    double: async (value: number) => {
      if (value < 0) throw new RangeError('only positive');
      return value * 2;
    },
    note: (text: string) => void noted.push(text),
    never: () => new Promise<void>(() => {}),
  };
  void new Channel(far, answers);
  channel = new Channel<Theirs>(near, {});
});

it('answers each question with its own answer, and passes on errors by their message', async () => {
  const asked = [channel.ask('double', 1), channel.ask('double', -1), channel.ask('double', 3)];
  const [one, failed, three] = await Promise.allSettled(asked);
  expect([one, three]).toMatchObject([{ value: 2 }, { value: 6 }]);
  expect(failed).toMatchObject({ status: 'rejected', reason: { message: 'only positive' } });
});

it('delivers what needs no answer in order', async () => {
  channel.tell('note', 'first');
  channel.tell('note', 'second');
  await channel.ask('double', 1);
  expect(noted).toEqual(['first', 'second']);
});

it('rejects questions when the other process is gone, before and after', async () => {
  const asked = channel.ask('never', undefined);
  near.disconnect();
  await expect(asked).rejects.toThrow(ChannelClosed);
  await expect(channel.ask('double', 1)).rejects.toThrow(ChannelClosed);
  channel.tell('note', 'lost');
});
