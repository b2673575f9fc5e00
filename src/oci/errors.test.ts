import { expect, test } from 'vitest';
import { errorCodes, OciError } from './errors.ts';

/** distribution-spec, "Error Codes", with the status that the spec, or distribution where it is silent, gives each. */
const SPEC_CODES: ReadonlyMap<string, number> = new Map([
  ['BLOB_UNKNOWN', 404],
  ['BLOB_UPLOAD_INVALID', 400],
  ['BLOB_UPLOAD_UNKNOWN', 404],
  ['DIGEST_INVALID', 400],
  ['MANIFEST_BLOB_UNKNOWN', 404],
  ['MANIFEST_INVALID', 400],
  ['MANIFEST_UNKNOWN', 404],
  ['NAME_INVALID', 400],
  ['NAME_UNKNOWN', 404],
  ['SIZE_INVALID', 400],
  ['UNAUTHORIZED', 401],
  ['DENIED', 403],
  ['UNSUPPORTED', 405],
  ['TOOMANYREQUESTS', 429],
]);

test('every code of the distribution spec is in the table with its status', () => {
  const ours = errorCodes();
  expect(ours.size).toBeGreaterThan(SPEC_CODES.size);
  for (const [code, status] of SPEC_CODES) expect([code, ours.get(code)]).toEqual([code, status]);
});

test('every code is upper-case letters and underscores, with an error status', () => {
  for (const [code, status] of errorCodes()) {
    expect(code).toMatch(/^[A-Z_]+$/);
    expect(status).toBeGreaterThanOrEqual(400);
  }
});

test('an error has the form of the spec, without a detail if there is none', () => {
  expect(JSON.stringify(new OciError('TAG_INVALID'))).toBe(
    '{"errors":[{"code":"TAG_INVALID","message":"manifest tag is malformed"}]}',
  );
  const error = new OciError('DENIED', { message: 'no', detail: { a: 1 }, cause: 'never shown' });
  expect(error.toJSON()).toEqual({ errors: [{ code: 'DENIED', message: 'no', detail: { a: 1 } }] });
  expect(error.status).toBe(403);
});

test('an error gives its cause to a log, if that says more than its message', () => {
  const cause = new Error('up.example/app: up.example answers 401');
  expect(new OciError('MANIFEST_UNKNOWN', { cause }).reason).toBe(
    'MANIFEST_UNKNOWN: manifest unknown to registry (up.example/app: up.example answers 401)',
  );
  expect(new OciError('UNAVAILABLE', { message: cause.message, cause }).reason).toBe(
    'UNAVAILABLE: up.example/app: up.example answers 401',
  );
  expect(new OciError('UNAVAILABLE', { message: `not now: ${cause.message}`, cause }).reason).toBe(
    'UNAVAILABLE: not now: up.example/app: up.example answers 401',
  );
  expect(new OciError('TAG_INVALID').reason).toBe('TAG_INVALID: manifest tag is malformed');
});
