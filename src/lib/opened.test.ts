import { describe, expect, it } from 'vitest';
import { Opened } from './opened.ts';

const failing = (name: string) => () => {
  throw new Error(`${name} is stuck`);
};

describe('what was opened', () => {
  it('is closed once, last one first, each with the time that is left', async () => {
    const opened = new Opened();
    const closed: [string, boolean][] = [];
    for (const name of ['store', 'server']) {
      opened.add({ close: async deadlineMs => closed.push([name, deadlineMs > 0 && deadlineMs <= 1_000]) });
    }
    await opened.close(1_000);
    await opened.close(1_000);
    expect(closed).toEqual([
      ['server', true],
      ['store', true],
    ]);
  });

  it('is closed completely even if one part fails, and the error is thrown', async () => {
    const opened = new Opened();
    const closed: string[] = [];
    opened.add({ close: () => closed.push('store') });
    opened.add({ close: failing('server') });
    await expect(opened.close(0)).rejects.toThrow('server is stuck');
    expect(closed).toEqual(['store']);
    opened.add({ close: failing('one') });
    opened.add({ close: failing('another') });
    await expect(opened.close(0)).rejects.toThrow('several parts could not be closed');
  });
});
