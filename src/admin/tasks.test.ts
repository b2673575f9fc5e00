import { expect, it } from 'vitest';
import type { Administrator } from './admin-access.ts';
import type { TaskDocument } from './documents/tasks.ts';
import { AdminTasks, type TaskOrder } from './tasks.ts';

const who: Administrator = { name: 'ops', by: 'login', rights: 'full', remote: '192.0.2.1' };

async function nothing() {
  return { message: '', result: {} };
}

function failing() {
  return Promise.reject(new Error('the disk is full'));
}

/** A task that ends when it is told to. */
function held(subject: string) {
  const latch = new AbortController();
  const finished = new Promise<void>(resolve => {
    latch.signal.addEventListener('abort', () => resolve());
  });
  const order: TaskOrder = {
    action: 'pull',
    subject,
    who,
    work: async (progress, signal) => {
      progress.step('working');
      progress.expect(10);
      progress.set({ items: 1, bytes: 5 });
      await Promise.race([
        finished,
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
      ]);
      return { message: 'it is there', result: { image: subject } };
    },
  };
  return { order, finish: () => latch.abort() };
}

it('shows what it does, who began it, and the result', async () => {
  const tasks = new AdminTasks();
  const { order, finish } = held('a');
  const seen: TaskDocument[] = [];
  tasks.onChange(task => void seen.push(task));
  const { id } = tasks.begin(order);
  await expect
    .poll(() => tasks.read(id))
    .toMatchObject({ state: 'running', by: 'ops', bytes: 5, totalBytes: 10 });
  finish();
  await expect
    .poll(() => tasks.read(id))
    .toMatchObject({
      state: 'done',
      message: 'it is there',
      result: { image: 'a' },
      ended: expect.any(String),
    });
  expect(seen.at(0)).toMatchObject({ state: 'running', bytes: 0 });
  expect(seen.at(-1)).toEqual(tasks.read(id));
});

it('can be cancelled, once', async () => {
  const tasks = new AdminTasks();
  const { id } = tasks.begin(held('a').order);
  expect(await tasks.cancel(id)).toMatchObject({ state: 'cancelled', message: 'cancelled' });
  const ended = tasks.read(id);
  expect(await tasks.cancel(id)).toEqual(ended);
});

it('does not do the same twice at a time, nor too much at once', async () => {
  const tasks = new AdminTasks();
  const first = held('0');
  tasks.begin(first.order);
  expect(() => tasks.begin(first.order)).toThrow('being done already');
  for (let at = 1; at < 20; at += 1) tasks.begin(held(String(at)).order);
  expect(() => tasks.begin(held('x').order)).toThrow('20 tasks are running');
  first.finish();
  await expect.poll(() => tasks.running).toBe(19);
  expect(tasks.begin(held('x').order).state).toBe('running');
  await tasks.close();
  expect(tasks.running).toBe(0);
  expect(() => tasks.begin(held('y').order)).toThrow('stopping');
});

it('forgets those that ended long ago, and says so', async () => {
  const tasks = new AdminTasks();
  const ids: string[] = [];
  for (let at = 0; at < 150; at += 1) {
    ids.push(tasks.begin({ action: 'pull', subject: String(at), who, work: nothing }).id);
    await expect.poll(() => tasks.running).toBe(0);
  }
  expect(tasks.list()).toHaveLength(101);
  expect(tasks.list()[0]?.id).toBe(ids.at(-1));
  expect(() => tasks.read(ids[0] ?? '')).toThrow('there is no task');
});

it('tells why a task failed', async () => {
  const tasks = new AdminTasks();
  const { id } = tasks.begin({ action: 'gc', subject: null, who, work: failing });
  await expect.poll(() => tasks.read(id)).toMatchObject({ state: 'failed', message: 'the disk is full' });
});
