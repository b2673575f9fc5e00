import { expect, test } from 'vitest';
import { PresenceEnded } from '../lib/lease.ts';
import { silentLog } from '../lib/log.ts';
import { IndexAway } from '../metadata/index-away.ts';
import { OciError } from '../oci/errors.ts';
import { logUnstored } from './log-unstored.ts';

test.each([
  ['error', Object.assign(new Error('a failing disk'), { code: 'EIO' })],
  ['debug', new IndexAway('the database cannot be reached')],
  ['debug', new OciError('UNAVAILABLE', { message: 'the storage of blobs cannot be reached' })],
  ['debug', new PresenceEnded()],
])('to %s what could not be stored because of: %s', (level, error) => {
  const lines: unknown[] = [];
  const note = (at: string) => (fields: object, text: string) => void lines.push([at, fields, text]);
  const log = { ...silentLog, debug: note('debug'), error: note('error') };
  logUnstored(log, error, { tag: 'v1' }, 'not stored');
  expect(lines).toEqual([[level, { err: error, tag: 'v1' }, 'not stored']]);
});
