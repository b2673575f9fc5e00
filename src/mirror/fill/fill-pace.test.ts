import { describe, expect, it } from 'vitest';
import { digestOf } from '../../oci/digest.ts';
import { FillPace, SlowWatch } from './fill-pace.ts';
import { Fill } from './fill.ts';

const fill = (): Fill => new Fill(digestOf(Buffer.from('any')));

describe('the pace of a Fill', () => {
  it('is what came in the last window', () => {
    const pace = new FillPace(fill());
    pace.received(1_000, 0);
    pace.received(2_000, 0);
    expect(pace.measured(500, 3_000)).toBe(3_000);
    expect(pace.bytesPerSecond).toBe(12_000);
    expect(pace.measured(500, 0)).toBe(0);
    expect(pace.bytesPerSecond).toBe(0);
  });

  it('is held up by a disk that writes for most of the time', () => {
    const pace = new FillPace(fill());
    pace.received(1_000, 300);
    pace.measured(500, 0);
    expect(pace.isHeldUp).toBe(true);
    pace.received(1_000, 200);
    pace.measured(500, 0);
    expect(pace.isHeldUp).toBe(false);
  });

  it('is held up by readers only if there are some, and none waits', () => {
    const read = fill();
    const pace = new FillPace(read);
    pace.measured(500, 0);
    expect(pace.isHeldUp).toBe(false);
    const leave = read.hold();
    pace.measured(500, 0);
    expect(pace.isHeldUp).toBe(true);
    const endWait = read.beginWait();
    for (const _ of ['in which it begins', 'in which nothing comes']) {
      pace.measured(500, 0);
      expect(pace.isHeldUp).toBe(false);
    }
    endWait();
    pace.measured(500, 0);
    expect(pace.isHeldUp).toBe(true);
    leave();
  });
});

describe('what is watched', () => {
  const one = {};

  it('is slow if it brings less than a quarter of the average for some time', () => {
    const watch = new SlowWatch();
    for (let window = 0; window < 5; window += 1) watch.measured(one, 20, 100);
    expect(watch.isSlow).toBe(false);
    watch.measured(one, 20, 100);
    expect(watch.isSlow).toBe(true);
    watch.measured(one, 30, 100);
    expect(watch.isSlow).toBe(false);
  });

  it('is slow if nothing comes at all', () => {
    const watch = new SlowWatch();
    for (let window = 0; window < 6; window += 1) watch.measured(one, 0, 0);
    expect(watch.isSlow).toBe(true);
  });

  it('is not slow because something else was', () => {
    const watch = new SlowWatch();
    for (let window = 0; window < 6; window += 1) watch.measured(one, 0, 100);
    watch.measured({}, 0, 100);
    expect(watch.isSlow).toBe(false);
    watch.measured(undefined, 0, 100);
    watch.measured(undefined, 0, 100);
    expect(watch.isSlow).toBe(false);
  });
});
