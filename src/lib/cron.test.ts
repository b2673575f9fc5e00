import { expect, test } from 'vitest';
import { isCron, parseCron } from './cron.ts';

test('the next time is the first after the one that is given', () => {
  const hourly = parseCron('30 * * * *');
  const at = new Date(2026, 0, 1, 10, 15).getTime();
  expect(new Date(hourly.nextMs(at))).toEqual(new Date(2026, 0, 1, 10, 30));
  expect(new Date(hourly.nextMs(hourly.nextMs(at)))).toEqual(new Date(2026, 0, 1, 11, 30));
});

test('what is no schedule, and what never comes, is none', () => {
  expect(isCron('*/5 0-6 * * mon')).toBe(true);
  for (const text of ['', 'daily', '61 * * * *', '* * * * * *', '0 0 30 2 *'])
    expect(isCron(text)).toBe(false);
});
