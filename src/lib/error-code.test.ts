import { expect, test } from 'vitest';
import { absentAsUndefined, errorCode } from './error-code.ts';

test('the code of an error is found', () => {
  expect(errorCode(Object.assign(new Error('x'), { code: 'ENOENT' }))).toBe('ENOENT');
  expect(errorCode(Object.assign(new Error('x'), { code: 5 }))).toBeUndefined();
  expect(errorCode(new Error('x'))).toBeUndefined();
  expect(errorCode('ENOENT')).toBeUndefined();
  expect(errorCode(null)).toBeUndefined();
});

test("an error without a name in Node gets the system's name", () => {
  const stale = { code: 'Unknown system error -116', errno: -116 };
  expect(errorCode(Object.assign(new Error('open'), stale))).toBe('ESTALE');
  expect(errorCode(Object.assign(new Error('open'), { code: 'EIO', errno: -5 }))).toBe('EIO');
});

test('only absence becomes undefined', async () => {
  expect(await absentAsUndefined(Promise.resolve(1))).toBe(1);
  expect(
    await absentAsUndefined(Promise.reject(Object.assign(new Error('x'), { code: 'ENOENT' }))),
  ).toBeUndefined();
  await expect(absentAsUndefined(Promise.reject(new Error('broken')))).rejects.toThrow('broken');
});
