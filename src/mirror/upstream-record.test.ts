import { expect, it } from 'vitest';
import { UpstreamFailure } from '../upstream/failures.ts';
import { UpstreamRecord } from './upstream-record.ts';

const REPOSITORY = { upstream: 'up.example', name: 'org/app' };

it('remembers the last error and the last answer of each upstream, and when', () => {
  let nowMs = 1;
  const record = new UpstreamRecord(() => nowMs);
  expect(record.stateOf('up.example')).toEqual({ answeredAtMs: undefined, failure: undefined });
  record.failed(REPOSITORY, new UpstreamFailure('unavailable', 'cannot be reached'));
  nowMs = 2;
  record.answered('up.example');
  record.answered('other.example');
  expect(record.stateOf('up.example')).toEqual({
    answeredAtMs: 2,
    failure: { atMs: 1, reason: 'cannot be reached', repository: 'up.example/org/app' },
  });
  expect(record.stateOf('other.example').failure).toBeUndefined();
});

it('counts a refusal as an answer, unless the credential itself is refused', () => {
  const record = new UpstreamRecord(() => 1);
  record.failed(REPOSITORY, new UpstreamFailure('unknown', 'not found'));
  record.failed(REPOSITORY, new UpstreamFailure('denied', 'log in'));
  expect(record.stateOf('up.example')).toEqual({ answeredAtMs: 1, failure: undefined });
  record.failed(REPOSITORY, new UpstreamFailure('lockedOut', 'wrong password'));
  expect(record.stateOf('up.example').failure?.reason).toBe('wrong password');
});
