import { beforeEach, expect, it } from 'vitest';
import { Restartable } from './restartable.ts';

let settings: { interval: number };
let failure: Error | undefined;
let events: string[];
let running: Restartable<{ close(): Promise<void> }>;

beforeEach(() => {
  settings = { interval: 1 };
  failure = undefined;
  events = [];
  running = new Restartable({
    settings: () => ({ ...settings }),
    begin: async previous => {
      const { interval } = settings;
      if (failure !== undefined) throw failure;
      await previous?.close();
      events.push(`begun with ${interval}`);
      return { close: async () => void events.push(`closed with ${interval}`) };
    },
  });
});

it('what runs is restarted when its settings have changed, also in place, and only then', async () => {
  await running.follow();
  await running.follow();
  expect(events).toEqual(['begun with 1']);
  settings.interval = 2;
  await running.follow();
  expect(events).toEqual(['begun with 1', 'closed with 1', 'begun with 2']);
  await running.close();
  expect(events.at(-1)).toBe('closed with 2');
});

it('what could not be started is started the next time, whatever the settings are by then', async () => {
  await running.follow();
  settings.interval = 2;
  failure = new Error('not now');
  await expect(running.follow()).rejects.toThrow('not now');
  failure = undefined;
  settings.interval = 1;
  await running.follow();
  expect(events).toEqual(['begun with 1', 'closed with 1', 'begun with 1']);
});
