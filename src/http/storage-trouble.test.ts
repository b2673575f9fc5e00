import { expect, test } from 'vitest';
import { storageTrouble } from './storage-trouble.ts';

const failed = (code: string) => Object.assign(new Error(code), { code });

test.each([
  'EACCES',
  'EBADMSG',
  'EMFILE',
  'ENFILE',
  'ESTALE',
  'EIO',
  'EPERM',
  'EROFS',
  'EUCLEAN',
  'SQLITE_BUSY',
  'SQLITE_BUSY_SNAPSHOT',
  'SQLITE_IOERR_READ',
  '55P03',
  '42501',
  '42P01',
  '53200',
  '57014',
  'XX001',
  'SQLITE_CANTOPEN',
  'SQLITE_CORRUPT',
])('%s may pass: the client is told to retry, and the log says what it was', code => {
  const cause = new Error('cannot write to the index', { cause: failed(code) });
  for (const error of [failed(code), cause]) {
    const trouble = storageTrouble(error);
    expect(trouble).toMatchObject({ status: 503, headers: { 'Retry-After': '5' }, cause: error });
  }
});

test.each(['ENOENT', 'EINVAL', 'SQLITE_CONSTRAINT', 'ERR_INVALID_ARG_TYPE'])(
  '%s does not: it is a bug',
  code => expect(storageTrouble(failed(code))).toBeUndefined(),
);

test('a cause that is not an error, or that causes itself, ends the search', () => {
  const own = new Error('own');
  own.cause = own;
  for (const error of [own, undefined, 'EIO', null]) expect(storageTrouble(error)).toBeUndefined();
});
