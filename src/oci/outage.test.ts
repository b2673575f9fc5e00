import { expect, test } from 'vitest';
import { OciError } from './errors.ts';
import { isOutage } from './outage.ts';

const away = Object.assign(new Error('the database cannot be reached'), { code: 'INDEX_AWAY' });
const suspended = Object.assign(new Error('considered dead'), { code: 'PRESENCE_ENDED' });
const unavailable = new OciError('UNAVAILABLE', { message: 'the storage of blobs cannot be reached' });

test.each([away, new Error('not written', { cause: away }), suspended, unavailable])(
  '%s is an outage',
  error => expect(isOutage(error)).toBe(true),
);

test.each([
  new Error('a bug'),
  new OciError('UNKNOWN'),
  Object.assign(new Error('disk'), { code: 'EIO' }),
  undefined,
])('%s is not', error => expect(isOutage(error)).toBe(false));
