import { expect, test } from 'vitest';
import { isCron, parseCron } from './cron.ts';

test('the next time is the first after the given one', () => {
  const hourly = parseCron('30 * * * *');
  const at = new Date(2026, 0, 1, 10, 15).getTime();
  expect(new Date(hourly.nextMs(at))).toEqual(new Date(2026, 0, 1, 10, 30));
  expect(new Date(hourly.nextMs(hourly.nextMs(at)))).toEqual(new Date(2026, 0, 1, 11, 30));
});

test('an invalid schedule, or one that is never due, is refused', () => {
  expect(isCron('*/5 0-6 * * mon')).toBe(true);
  for (const text of ['', 'daily', '61 * * * *', '* * * * * *', '0 0 30 2 *'])
    expect(isCron(text)).toBe(false);
});
